"""The table of decisions, with fields that hide rows: taken or refused, how answers may differ, which strategy."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from html import escape

from tauten.explain.sheet import cells, table, wide
from tauten.improve.optimizer.outcome import Decision, Optimized
from tauten.improve.report import summary
from tauten.improve.report.style import STRATEGIES
from tauten.improve.report.summary import NAMES, shown

ANY = "any"


def decisions(found: Optimized) -> str:
    """Taken ones in their order, then the refused ones, the most telling first."""
    every = [*summary.taken(found), *summary.refused(found)]
    if not every:
        return "<p>No strategy proposed anything.</p>"
    what = summary.headline(found)
    strategies = list(dict.fromkeys(each.strategy for each in every))[:STRATEGIES]
    rows = [_row(found, each, what, strategies) for each in every]
    name = NAMES[what]
    heads = ["decision", "", "answers", f"{name} before", "by formula", "predicted", "measured", "difference"]
    filters = _filters(every, strategies)
    return filters + wide(table(heads, rows, numbers=range(3, 8)), "Decisions")


def _row(found: Optimized, each: Decision, what: str, strategies: list[str]) -> str:
    before, after = summary.figures_of(each, what)
    formula = each.formula.values.get(what) if each.formula is not None else None
    figures = [before, formula, after, summary.outcome(found, each, what)]
    kinds = ["taken" if each.taken else "refused"]
    if after is not None:
        kinds.append(each.answers)
    if each.strategy in strategies:
        kinds.append(f"s{strategies.index(each.strategy)}")
    verdict = f'<span class="why">{escape(str(each.verdict))}</span>' if each.verdict is not None else ""
    change = f'<b>{escape(each.strategy)}</b> {escape(each.change)}<span class="why">{escape(each.why)}</span>{verdict}'
    tag = '<span class="tag yes">✓ taken</span>' if each.taken else '<span class="tag no">refused</span>'
    answers = each.answers if after is not None else ""
    return (
        f'<tr class="{" ".join(kinds)}"><td class="name">{change}</td><td>{tag}</td>{cells([answers])}'
        f"{cells([shown(what, figure) for figure in figures], 'n')}{cells([summary.change(what, before, after)], 'n')}</tr>"
    )


def _filters(every: list[Decision], strategies: list[str]) -> str:
    done = Counter("taken" if each.taken else "refused" for each in every)
    kinds = Counter(each.answers for each in every if each.simulated is not None)
    first = _choice(
        "Show", "decided", [("all", len(every)), *((name, done[name]) for name in ("taken", "refused"))]
    )
    known = [(name, kinds[name]) for name in ("identical", "equivalent", "lossy") if kinds[name]]
    second = _choice("Answers", "answers", [(ANY, len(every)), *known])
    options = "".join(
        f'<option id="only-s{place}">{escape(name)}</option>' for place, name in enumerate(strategies)
    )
    select = f"<label>Strategy <select><option>{ANY}</option>{options}</select></label>"
    return f'<div class="filter">{first}{second}{select}</div>'


def _choice(title: str, group: str, names: Iterable[tuple[str, int]]) -> str:
    fields = "".join(
        f'<label><input type="radio" name="{group}" id="only-{name}"{" checked" if not place else ""}> {name} {count}</label>'
        for place, (name, count) in enumerate(names)
    )
    return f"<fieldset><legend>{title}</legend>{fields}</fieldset>"
