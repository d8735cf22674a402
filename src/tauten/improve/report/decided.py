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
    figures = [_figures(found, each, what) for each in every]
    used = [
        place
        for place, column in enumerate(zip(*figures, strict=True))
        if any(cell != "-" for cell in column)
    ]
    rows = [
        _row(each, [cells_of[place] for place in used], strategies)
        for each, cells_of in zip(every, figures, strict=True)
    ]
    names = [f"{NAMES[what]} before", "by formula", "predicted", "measured", "difference"]
    heads = ["decision", "", "answers", *(names[place] for place in used)]
    return _filters(every, strategies) + wide(table(heads, rows, numbers=range(3, len(heads))), "Decisions")


def _figures(found: Optimized, each: Decision, what: str) -> list[str]:
    """Before, by the formula, predicted, measured, and the difference that was predicted."""
    before, after = summary.figures_of(each, what)
    formula = each.formula.values.get(what) if each.formula is not None else None
    known = [before, formula, after, summary.outcome(found, each, what)]
    return [*(shown(what, amount) for amount in known), summary.change(what, before, after)]


def _row(each: Decision, figures: list[str], strategies: list[str]) -> str:
    priced = each.simulated is not None
    kinds = ["taken" if each.taken else "refused"]
    if priced:
        kinds.append(each.answers)
    if each.strategy in strategies:
        kinds.append(f"s{strategies.index(each.strategy)}")
    verdict = f'<span class="why">{escape(str(each.verdict))}</span>' if each.verdict is not None else ""
    change = f'<b>{escape(each.strategy)}</b> {escape(each.change)}<span class="why">{escape(each.why)}</span>{verdict}'
    tag = '<span class="tag yes">✓ taken</span>' if each.taken else '<span class="tag no">refused</span>'
    return (
        f'<tr class="{" ".join(kinds)}"><td class="name">{change}</td><td>{tag}</td>'
        f"{cells([each.answers if priced else ''])}{cells(figures, 'n')}</tr>"
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
