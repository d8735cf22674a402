"""The scenarios as a section of the page of `make bench-serve`: what was promised, what was seen, curves."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench.ground import drawing, machine
from bench.ground.check import Line
from bench.ground.verdict import WORDS, verdict

LINES = {
    "slack": "ours",
    "no batches": "best",
}  # the pair that the curves are about, in the page's colours


def section(document: Mapping[str, Any]) -> str:
    """All scenarios: the second half of the page."""
    chosen = document["settings"]
    said = "a quick look: no figure of record" if chosen["quick"] else "the full run"
    parts = "".join(_scenario(one) for one in document["scenarios"])
    return (
        f"<h1>Our server under stress</h1><p class=soft>began {escape(document['began'])}, "
        f"{document['minutes']} minutes; {said}; {escape(machine.words(document['machine']))}.</p>"
        f"{_overview(document['scenarios'])}{parts}"
    )


def _overview(scenarios: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one['title'])}</td><td>{verdict(one['error'], [check['met'] for check in one['checks']])}</td>"
        f"<td>{drawing.number(one['foreign_share'], 'share')}</td><td>{drawing.number(one['steal_share'], 'share')}</td>"
        f"<td>{escape(one['began'])}</td><td>{escape(one['commit'])}</td></tr>"
        for one in scenarios
    )
    columns = ("scenario", "", "foreign CPU", "stolen by the host", "began", "commit")
    head = "".join(f"<th>{name}</th>" for name in columns)
    return f"<table><tr>{head}</tr>{rows}</table>"


def _scenario(one: Mapping[str, Any]) -> str:
    error = f'<p class="reason">did not run: {escape(one["error"])}</p>' if one["error"] else ""
    plots = "".join(
        drawing.curves(
            f"{key} over offered rate",
            [(each["name"], LINES.get(each["name"], ""), Line(**each)) for each in lines],
        )
        for key, lines in one["curves"].items()
    )
    notes = "".join(f"<p class=soft>{escape(note)}</p>" for note in one["notes"])
    return (
        f"<h2>{escape(one['title'])}</h2><p>{escape(one['how'])}</p>{error}{_checks(one['checks'])}{notes}"
        f'<div class="plots">{plots}</div>{_figures(one["figures"])}'
    )


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each['name'])}</td><td>{drawing.value(each['seen'], each['unit'])}</td>"
        f"<td>{'≥' if each['at_least'] else '≤'} {drawing.value(each['bound'], each['unit'])}</td><td>{WORDS[each['met']]}</td></tr>"
        for each in checks
    )
    return f"<table><tr><th></th><th>seen</th><th>bound</th><th></th></tr>{rows}</table>" if rows else ""


def _figures(figures: Mapping[str, Any]) -> str:
    """Everything else that was measured, folded away."""
    if not figures:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=reason>{escape(_plain(value))}</td></tr>"
        for name, value in flat(figures)
    )
    return f"<details><summary>all figures</summary><div class=wide><table>{rows}</table></div></details>"


def flat(figures: Any, name: str = "") -> list[tuple[str, Any]]:
    """Nested figures as (dotted name, value); lists of plain values stay one value."""
    if isinstance(figures, Mapping) and figures:
        return [
            row for key, each in figures.items() for row in flat(each, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(figures, list) and any(isinstance(each, Mapping) for each in figures):
        return [row for place, each in enumerate(figures) for row in flat(each, f"{name}.{place}")]
    return [(name, figures)]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(each) for each in value)
    return drawing.number(value) if isinstance(value, float) else str(value)
