"""EXPLAIN without running: the steps of a plan, how each would run, and what it is expected to take."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tauten.explain.account import Estimate
from tauten.explain.decided import decided_document, decided_html, decided_text
from tauten.explain.lines import printable
from tauten.explain.sheet import cells, page, table, wide
from tauten.explain.waterfall import STYLE
from tauten.plan.caching import cache_rules
from tauten.plan.likeness import likeness_rules, likeness_words
from tauten.plan.lower import Lowered, Program, Step

SCHEMA = "tauten.plan.explain/1"
WIDTH = 96  # columns, as the other screens
ESTIMATE_WIDTH = 16  # `1462 (1390-1544)` fits


def planned_text(
    workflow: str, lowered: Lowered, estimates: Mapping[str, Estimate], machine: str = ""
) -> str:
    """The plan as a tree: steps in order, branches that run side by side indented under a bar; then what it says of
    itself."""
    head = printable("   ".join(filter(None, (workflow, f"plan {lowered.plan.id}", machine))))
    rows = _rows(lowered.program, "", estimates)
    width = max((len(name) for name, *_ in rows), default=0)
    lines = [f" {head}", "", f"   {'step':<{width}}  {'est. ms (90 %)':<{ESTIMATE_WIDTH}}  how"]
    for name, how_it_runs, estimate in rows:
        said = printable(" ".join(how_it_runs.split()))
        lines += _lines(f"   {name:<{width}}  {estimate:<{ESTIMATE_WIDTH}}  ", said)
    if not any(estimate not in ("", "no data") for *_, estimate in rows):
        lines += ["", " No data yet: run `tauten explain --analyze`, which measures as it goes."]
    if told := decided_text(lowered.plan):
        lines += ["", told]
    return "\n".join(lines) + "\n"


def _lines(start: str, text: str) -> list[str]:
    """One row; a long last column goes on below itself."""
    first, *rest = textwrap.wrap(text, max(24, WIDTH - len(start))) or [""]
    return [(start + first).rstrip(), *(" " * len(start) + more for more in rest)]


def _rows(program: Program, indent: str, estimates: Mapping[str, Estimate]) -> list[tuple[str, str, str]]:
    if program.step is not None:
        return _step_rows(program.step, indent, estimates)
    rows: list[tuple[str, str, str]] = []
    for part in program.parts:
        inner = indent + ("| " if program.shape != "series" else "")
        if program.shape == "parallel" and rows:
            rows.append((f"{indent}|-", "", ""))
        rows += _rows(part, inner, estimates)
    return rows


def _step_rows(step: Step, indent: str, estimates: Mapping[str, Estimate]) -> list[tuple[str, str, str]]:
    rows = []
    for port, side in step.sides.items():
        rows += [(f"{indent}{step.name}: {port}", "", "")]
        rows += _rows(side, f"{indent}  ", estimates)
    estimate = "" if step.control else estimate_text(estimates.get(step.name))
    return [*rows, (indent + step.name, how(step), estimate)]


def how(step: Step) -> str:
    """How a step runs, in a few words: view or models, backend, threads, settings of the plan."""
    if step.view is not None:
        return f"decode {step.view.name} in a {step.plan.decode}"
    if step.control:
        return step.control
    parts = []
    for choice in step.models.values():
        if choice.backend:
            threads = f" x{choice.threads}" if choice.threads else ""
            precision = f" {choice.precision}" if choice.precision else ""
            variant = f":{choice.variant}" if choice.variant else ""
            parts.append(f"{choice.model}{variant} on {choice.backend}{precision}{threads}")
    like = likeness_rules(cache_rules(step.plan.cache))
    if like is not None:
        parts.append(likeness_words(like))
    settings = [f"{key}={_short(value)}" for key, value in step.plan.settings.items()]
    return ", ".join(dict.fromkeys([*parts, *settings])) or "user code"


def _short(value: Any) -> str:
    text = str(value)
    return (
        text
        if len(text) <= 24
        else f"({len(value)} values)"
        if isinstance(value, list)
        else text[:21] + "..."
    )


def estimate_text(estimate: Estimate | None) -> str:
    """``402 (390-447)``, ``0.43 (0.40-0.47)``, or "no data"."""
    if estimate is None:
        return "no data"
    digits = 0 if estimate.mid_ms >= 10 else 1 if estimate.mid_ms >= 1 else 2
    if estimate.low_ms is None or estimate.high_ms is None:
        return f"{estimate.mid_ms:.{digits}f}"
    return f"{estimate.mid_ms:.{digits}f} ({estimate.low_ms:.{digits}f}-{estimate.high_ms:.{digits}f})"


def planned_document(workflow: str, lowered: Lowered, estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """The same as plain values for JSON."""
    return {
        "schema": SCHEMA,
        "workflow": workflow,
        "plan": lowered.plan.id,
        "graph": lowered.graph.hash,
        "steps": [
            {
                "step": step.name,
                "how": how(step),
                "upstream": list(step.upstream),
                "estimate_ms": _interval(estimates.get(step.name)),
            }
            for step in lowered.steps
        ],
        **decided_document(lowered.plan),
    }


def planned_html(
    workflow: str, planned: Sequence[tuple[Lowered, Mapping[str, Estimate]]], machine: str
) -> str:
    """The same of one or several plans as a page."""
    parts = [f'<h1>{escape(workflow)}</h1><p class="dim">{escape(machine)}</p>']
    for lowered, estimates in planned:
        rows = [
            f"<tr>{cells([name])}{cells([estimate], 'n')}{cells([how_it_runs])}</tr>"
            for name, how_it_runs, estimate in _rows(lowered.program, "", estimates)
        ]
        tabular = table(["step", "est. ms (90 %)", "how"], rows, numbers=(1,))
        parts.append(f"<h2>plan {escape(lowered.plan.id)}</h2>{wide(tabular, 'Steps')}")
        parts.append(decided_html(lowered.plan))
    return page(f"{workflow}: plan", f'<div class="tau">{"".join(parts)}</div>', STYLE)


def _interval(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {"low": estimate.low_ms, "mid": estimate.mid_ms, "high": estimate.high_ms}


def _in_force(properties: Mapping[str, str]) -> str:
    threads = properties.get("threads", "?")
    said = f" x{threads}" if threads.isdigit() else f", threads: {threads}"
    return properties.get("precision", "?") + said


def in_force_text(properties: Mapping[str, Mapping[str, Mapping[str, str]]], width: int = WIDTH) -> str:
    """Precision and threads per step: what a plan leaves open is the framework's choice, and is said."""
    words = []
    for step, roles in properties.items():
        shown = dict.fromkeys(
            _in_force(each)
            for role, each in roles.items()
            if role != "body"  # the stage's own code: no framework chooses there
        )
        if not shown:
            continue
        words.append(f"{step}: {', '.join(shown)}")
    if not words:
        return ""
    return textwrap.fill(" In force:  " + "; ".join(words), width, subsequent_indent="   ") + "\n"
