"""What a plan file says of itself: the reason of each stage's settings, what was measured, what was not taken and why."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from html import escape
from typing import Any, Final

from tauten.explain.figures import figure
from tauten.explain.lines import wrapped
from tauten.explain.sheet import cells, table, wide
from tauten.plan.plan import Plan

WIDTH: Final = 96  # columns, as the other screens
COLUMN: Final = 12
KNOWN: Final = ("naive", "now", "low", "high", "predicted")
"""The columns of a measured figure that have a place of their own; others follow as they are called."""


def decided_text(plan: Plan) -> str:
    """As a screen; empty where the plan says nothing of itself."""
    parts = [_results(plan), _reasons(plan), _rejected(plan)]
    return "\n\n".join(wrapped(part, WIDTH) for part in parts if part)


def decided_document(plan: Plan) -> dict[str, Any]:
    """As plain values for JSON."""
    return {
        "slo": plan.slo.limits(),
        "result": plan.result,
        "why": {name: stage.why for name, stage in plan.stages.items() if stage.why},
        "locked": [name for name, stage in plan.stages.items() if stage.locked],
        "rejected": [{"change": each.change, "why": each.why} for each in plan.rejected],
    }


def decided_html(plan: Plan) -> str:
    """As a part of a page."""
    parts = []
    told, rows = _scalars(plan.result), _figures(plan.result)
    if told or rows:
        parts.append(f"<h2>What was measured</h2><p>{escape(told)}</p>")
    if rows:
        heads = _heads(rows)
        body = [
            f"<tr>{cells([name])}{cells([_cell(row, head) for head in heads], 'n')}</tr>"
            for name, row in rows.items()
        ]
        parts.append(wide(table(["", *heads], body, numbers=range(1, len(heads) + 1)), "What was measured"))
    reasons = [(name, _why(plan, name)) for name in plan.stages if _why(plan, name)]
    if reasons:
        body = [f"<tr>{cells(row)}</tr>" for row in reasons]
        parts.append(f"<h2>Why</h2>{wide(table(['stage', 'why'], body), 'Why')}")
    if plan.rejected:
        body = [f"<tr>{cells([each.change, each.why])}</tr>" for each in plan.rejected]
        parts.append(f"<h2>Not taken</h2>{wide(table(['change', 'why'], body), 'Not taken')}")
    return "".join(parts)


def _why(plan: Plan, stage: str) -> str:
    kept = plan.stage(stage)
    return "; ".join(filter(None, (kept.why, "locked" if kept.locked else "")))


def _reasons(plan: Plan) -> str:
    reasons = {name: why for name in plan.stages if (why := _why(plan, name))}
    width = max(map(len, reasons), default=0)
    lines = [
        textwrap.fill(why, WIDTH, initial_indent=f"   {name:<{width}}  ", subsequent_indent=" " * (width + 5))
        for name, why in reasons.items()
    ]
    return "\n".join([" Why", *lines]) if lines else ""


def _rejected(plan: Plan) -> str:
    lines = [
        textwrap.fill(f"{each.change}: {each.why}", WIDTH, initial_indent="   ", subsequent_indent="     ")
        for each in plan.rejected
    ]
    return "\n".join([" Not taken", *lines]) if lines else ""


# -- results --------------------------------------------------------------------------------------------------


def _results(plan: Plan) -> str:
    rows = _figures(plan.result)
    title = " What was measured"
    told = _scalars(plan.result)
    lines = [f"{title}: {told}" if told else title]
    if rows:
        heads, width = _heads(rows), max(map(len, rows))
        lines.append(f"   {'':<{width}}" + "".join(f"{head:>{COLUMN}}" for head in heads))
    for name, row in rows.items():
        lines.append(f"   {name:<{width}}" + "".join(f"{_cell(row, head):>{COLUMN}}" for head in heads))
    return "\n".join(lines) if told or rows else ""


def _figures(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: row for name, row in result.items() if isinstance(row, Mapping)}


def _scalars(result: Mapping[str, Any]) -> str:
    """``met, rate per s 1``: the answer stands by itself, other values behind their names."""
    words = [str(result["answer"])] if "answer" in result else []
    words += [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in result.items()
        if name != "answer" and not isinstance(value, Mapping)
    ]
    return ", ".join(words)


def _heads(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    there = dict.fromkeys(key for row in rows.values() for key in row)
    return [key for key in KNOWN if key in there] + [key for key in there if key not in KNOWN]


def _cell(row: Mapping[str, Any], head: str) -> str:
    return _value(row[head]) if head in row else "-"


def _value(value: Any) -> str:
    return figure(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
