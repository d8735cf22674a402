"""The report of an optimisation: one HTML file without scripts and without requests, for a browser or a mail.

What a picture shows stands in a table, too. Every name is escaped: recordings and workflows may hold anything.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from tauten.explain import calibration
from tauten.explain.account import Account, compare
from tauten.explain.figures import figure
from tauten.explain.html import differences, legend
from tauten.explain.sheet import cells, page, table, wide
from tauten.explain.waterfall import patterns, svg
from tauten.improve.optimizer.outcome import Optimized
from tauten.improve.report import drawn, summary
from tauten.improve.report.decided import decisions
from tauten.improve.report.screen import to_text
from tauten.improve.report.style import STYLE
from tauten.improve.report.summary import NAMES, shown
from tauten.statistics.rounding import percent

KINDS = {"met": "good", "missed": "bad", "cannot conclude": "dim"}
MARKS = {"met": "✓", "missed": "✗", "cannot conclude": "?"}


def to_html(found: Optimized, waterfalls: tuple[Account, Account] | None = None) -> str:
    """The whole page; `waterfalls` are one real request each, under the naive and under the chosen plan."""
    sections = {
        "missing": ("What is missing", _missing(found)),
        "slo": ("The SLO", _slo(found)),
        "time": ("Where the time went", _waterfalls(waterfalls)),
        "decisions": ("What was changed, and what was not", decisions(found)),
        "worth": ("What each change is worth", _ablation(found)),
        "plans": ("Plans to choose from", _front(found)),
        "rates": ("Latency over rate", _rates(found)),
        "predictions": ("How good the predictions were", _predictions(found)),
        "quality": ("Are the answers still right?", _quality(found)),
        "evidence": ("Evidence", _evidence(found)),
    }
    there = {name: section for name, section in sections.items() if section[1]}
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, (title, _) in there.items())
    body = "".join(_section(name, *section) for name, section in there.items())
    inner = f'{_hero(found)}<nav aria-label="Sections">{links}</nav>{body}'
    return page(f"{found.workflow}: optimize", f'<div class="tau report">{patterns()}{inner}</div>', STYLE)


def _section(name: str, title: str, inner: str) -> str:
    return f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>{inner}</section>'


def _said(text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    unbroken = escape(text).replace(" %", "&nbsp;%")
    return f"<p{mark}>{unbroken}</p>" if text else ""


# -- the result ----------------------------------------------------------------------------------------------


def _hero(found: Optimized) -> str:
    pill = f'<span class="pill {KINDS[found.answer]}">{MARKS[found.answer]} {escape(summary.ANSWERS[found.answer])}</span>'
    early = (
        "There was no time to look at everything: the same command goes on from here."
        if found.interrupted
        else ""
    )
    return "".join(
        [
            f'<header><p class="eyebrow">Tauten · optimize</p><h1>{escape(found.workflow)}</h1>',
            f"<p>{pill}</p>{_said(_lead(found), 'lead')}",
            *(_said(why) for why in found.why),
            _said(early),
            _said(" · ".join(summary.about(found)), "dim"),
            f'<div class="tiles">{"".join(_tile(found, row) for row in summary.rows(found))}</div>',
            _said(
                "Blue: the chosen plan. Grey: naive, and best zero-effort before it. Red: the limit.", "dim"
            ),
            "</header>",
        ]
    )


def _lead(found: Optimized) -> str:
    """The one sentence that somebody remembers."""
    what = summary.headline(found)
    sides = [each for each in summary.baselines(found) if what in each.ratios]
    sides = [each for each in sides if each.how == sides[0].how]
    if not sides or found.chosen == summary.NAIVE:
        return ""
    parts = [summary.against(each, what) for each in sides]
    return f"{NAMES[what]} is {' and '.join(parts)} ({sides[0].how})."


def _tile(found: Optimized, row: summary.Row) -> str:
    number, _, unit = row.chosen.rpartition(" ") if row.chosen != summary.UNKNOWN else ("", "", "")
    big = f"{escape(number)} <small>{escape(unit)}</small>" if number else escape(row.chosen)
    limit = "" if row.limit is None else f"limit {shown(row.what, row.limit)}"
    before = f"naive {row.naive}" if row.naive != "-" else ""
    kind = {True: "good", False: "bad", None: "dim"}[row.met]
    verdict = f'<p class="{kind}">{escape(row.verdict)}</p>' if row.verdict else ""
    facts = _said(" · ".join(filter(None, (limit, before))), "dim")
    return (
        f'<div class="tile"><h2>{escape(row.name)}</h2><p class="big">{big}</p>'
        f"{drawn.bullet(found, row)}{facts}{verdict}</div>"
    )


def _slo(found: Optimized) -> str:
    lines = []
    for row in summary.rows(found):
        kind = {True: "good", False: "bad", None: "dim"}[row.met]
        limit = "-" if row.limit is None else shown(row.what, row.limit)
        figures = cells([limit, row.naive, row.zero_effort, row.chosen, row.spread], "n")
        lines.append(f"<tr>{cells([row.name])}{figures}{cells([row.verdict], kind)}</tr>")
    heads = ["", "limit", "naive", "best zero-effort", "chosen", "interval", ""]
    limits = wide(table(heads, lines, numbers=range(1, 6)), "SLO")
    sides = summary.baselines(found)
    names = [what for what in summary.ALWAYS if any(what in each.ratios for each in sides)]
    ratios = [
        f"<tr>{cells([f'against the {each.name} plan'])}"
        f"{cells([summary.times(each.ratios[what]) if what in each.ratios else '-' for what in names], 'n')}"
        f"{cells([each.how], 'dim')}</tr>"
        for each in sides
    ]
    heads = ["The chosen plan", *(NAMES[what] for what in names), ""]
    beside = (
        wide(table(heads, ratios, numbers=range(1, len(names) + 1)), "Against both baselines")
        if names
        else ""
    )
    share = summary.failed(found)
    lost = f"{share:.1%} of the requests failed or were refused." if share else ""
    marked = any("~" in row.naive + row.zero_effort + row.chosen for row in summary.rows(found))
    notes = ["~ simulated only." if marked else "", lost, summary.ALONE if summary.has_alone(found) else ""]
    return limits + beside + _said(" ".join(filter(None, notes)), "dim")


def _missing(found: Optimized) -> str:
    """CannotMeet: how far it is, step by step, and what would do."""
    needed = summary.missing(found)
    if not needed or found.answer == "met":
        return ""
    rows = [
        f'<tr><td class="name">{escape(row.step)}<span class="why">{escape(summary.gap_why(row))}</span></td>'
        f"{cells([shown('p50_ms', row.ms)], 'n')}<td>{drawn.meter(share, 'over')}</td></tr>"
        for row, share in zip(found.gap, drawn.shares([row.ms for row in found.gap]), strict=True)
    ]
    steps = wide(table(["step, and why it is not shorter", "takes", ""], rows, numbers=(1,)), "Gap by step")
    intro = "This is the best plan that was found. " + "; ".join(needed) + "."
    return _said(intro) + (f"<h3>{escape(summary.gap_title(found))}</h3>{steps}" if rows else "")


# -- time ----------------------------------------------------------------------------------------------------


def _waterfalls(accounts: tuple[Account, Account] | None) -> str:
    if accounts is None:
        return ""
    scale = max(each.wall_ms for each in accounts)
    parts = [_said("One real request under each plan, on the same scale.")]
    for name, each in zip(("Naive", "Chosen"), accounts, strict=True):
        which = f", {each.header.request}" if each.header.request else ""
        title = f"{name}: {each.wall_ms:.1f} ms{which}"
        parts.append(f"<h3>{escape(title)}</h3>{wide(svg(each, scale_ms=scale, title=title), title)}")
    parts.append(legend(accounts))
    beside = differences(compare(*accounts, name_a="naive", name_b="chosen"))
    return "".join([*parts, _details("Stage by stage, in figures", beside)])


def _rates(found: Optimized) -> str:
    picture = drawn.rates(found)
    if not picture:
        return ""
    rows = [
        f"<tr>{cells([summary.title(curve.plan)], 'name')}{cells([f'{rate:g}', shown('p50_ms', p50), shown('p95_ms', p95)], 'n')}"
        f"{cells(['simulated' if curve.simulated else 'measured'], 'dim')}</tr>"
        for curve in found.curves
        for rate, p50, p95 in sorted(curve.points)
    ]
    figures = wide(
        table(["plan", "requests/s", "p50", "p95", ""], rows, numbers=(1, 2, 3)), "Latency over rate"
    )
    legend = "Solid: p95. Dotted: p50. Hollow: simulated. Filled: measured."
    return _figure(wide(picture, "Latency over rate"), legend) + _details("The same in figures", figures)


# -- plans ---------------------------------------------------------------------------------------------------


def _front(found: Optimized) -> str:
    plans = summary.front(found)
    if len(plans) < 2:
        return ""
    known = [what for what in NAMES if any(summary.value(each, what) is not None for each in plans)]
    rows = []
    for number, each in enumerate(plans, 1):
        right = "-" if each.quality is None else f"{each.quality:.1%}"
        lost = summary.points(each.quality_loss) if each.quality_loss else "none"
        figures = [*(summary.estimated(each, what) for what in known), right, lost]
        best = each.name == found.chosen
        title = summary.title(each.name)
        name = f"{title} (chosen)" if best and title != "chosen" else title
        mark = ' class="chosen"' if best else ""
        on = "on the front" if each.front else ""
        rows.append(
            f"<tr{mark}>{cells([str(number)], 'n')}{cells([name], 'name')}{cells(figures, 'n')}{cells([on], 'dim')}</tr>"
        )
    heads = ["", "plan", *(NAMES[what] for what in known), "right", "loses at most", ""]
    figures_of = wide(table(heads, rows, numbers={0, *range(2, len(heads) - 1)}), "Plans")
    pictures = "".join(_figure(drawn.front(found, plans, other)) for other in drawn.against(found, plans))
    intro = (
        "Left and below is better. On the front: no other plan is better in one way and no worse in all others. "
        "The ring is the chosen one; numbers are those of the table."
    )
    return _said(intro) + f'<div class="two">{pictures}</div>{figures_of}'


def _ablation(found: Optimized) -> str:
    best = summary.chosen(found)
    if not found.ablation or best is None:
        return ""
    what = summary.headline(found)
    now = best.simulated.values
    kept = [each for each in found.ablation if summary.finite(each.without.values.get(what)) is not None]
    costs = [each.without.values[what] - now.get(what, 0.0) for each in kept]
    every = sorted(zip(kept, costs, drawn.shares(costs), strict=True), key=lambda one: -one[1])
    rows = []
    for each, cost, share in every:
        without = [shown(name, each.without.values.get(name)) for name in ("p50_ms", "p95_ms")]
        figures = cells([*without, summary.change(what, 0.0, cost)], "n")
        rows.append(f"<tr>{cells([each.strategy])}{figures}<td>{drawn.meter(share)}</td></tr>")
    heads = ["without", "p50", "p95", f"costs at {NAMES[what]}", ""]
    together = [shown(name, now.get(name)) for name in ("p50_ms", "p95_ms")]
    rows.append(f'<tr class="total">{cells(["with all"])}{cells([*together, ""], "n")}<td></td></tr>')
    intro = "The chosen plan with one strategy taken back, simulated. These do not add up: what one leaves, another takes."
    return _said(intro) + wide(table(heads, rows, numbers=(1, 2, 3)), "Ablation")


# -- how far to believe it -----------------------------------------------------------------------------------


def _predictions(found: Optimized) -> str:
    told = summary.predictions(found)
    if not told:
        return ""
    rows = [
        f"<tr>{cells([each.name], 'name')}"
        f"{cells([figure(value) for value in (each.predicted, each.low, each.high, each.measured)], 'n')}"
        f"{cells(['inside' if each.covered else 'outside'], 'good' if each.covered else 'bad')}</tr>"
        for each in told
    ]
    heads = ["prediction", "ms", "from", "to", "measured", "90 % interval"]
    figures = wide(table(heads, rows, numbers=(1, 2, 3, 4)), "Predictions")
    kinds = dict.fromkeys(each.what for each in found.forecasts)
    hues = zip(("blue", "orange", "green", "violet"), kinds, strict=False)
    colours = ", ".join(f"{hue}: {NAMES.get(what, what)}" for hue, what in hues)
    caption = f"Bars are 90 % intervals; one that touches the diagonal came true, a hollow dot did not. {colours.capitalize()}."
    picture = _figure(calibration.svg(told), caption)
    said = f"{calibration.sentence(told)}."
    beside = f"<div>{_said(said.capitalize())}{_details('The same in figures', figures)}</div>"
    return f'<div class="two">{picture}{beside}</div>'


def _quality(found: Optimized) -> str:
    parts = [_said(f"{summary.quality(found).capitalize()}."), _said(summary.labels(found), "dim")]
    judged = found.verdict
    if judged is None:
        return "".join(parts)
    caption = f"The loss, its interval ({percent(judged.confidence)}, {judged.method}) and the margin that it must stay below."
    parts.append(f'<div class="proof">{_figure(drawn.loss(judged), caption)}</div>')
    if not judged.flips:
        return "".join([*parts, _said("No item was scored differently.")])
    rows = [
        f"<tr>{cells([flip.item], 'name')}{cells([f'{flip.before:g}', f'{flip.after:g}'], 'n')}"
        f"{cells(['worse' if flip.bad else 'better'], 'bad' if flip.bad else 'good')}</tr>"
        for flip in sorted(judged.flips, key=lambda flip: (not flip.bad, flip.item))
    ]
    flips = wide(table(["item", "naive", "chosen", ""], rows, numbers=(1, 2)), "Flips")
    title = f"{summary.counted(len(rows), 'flip')} of {judged.n} items, item by item"
    return "".join([*parts, f"<h3>{escape(title)}</h3>", flips])


def _evidence(found: Optimized) -> str:
    rows = [
        ("recording", found.recording),
        ("machine", found.machine),
        ("load", f"{found.rate_per_s:g} requests/s, open loop, seed {found.seed}"),
        (
            "search",
            f"{summary.minutes(found.searched_s)}, {summary.counted(len(found.decisions), 'decision')}",
        ),
        ("made at", found.made_at),
    ]
    facts = table(
        ["", ""], [f"<tr>{cells([name], 'dim')}{cells([text], 'name')}</tr>" for name, text in rows if text]
    )
    best = summary.chosen(found)
    plan = _details("The chosen plan", _verbatim(best.plan, "Plan")) if best is not None and best.plan else ""
    screen = _details("As printed", _verbatim(to_text(found, all_rows=True), "As printed"))
    return wide(facts, "Conditions") + _list(found.notes) + plan + screen


def _list(items: Iterable[str]) -> str:
    inner = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{inner}</ul>" if inner else ""


def _verbatim(text: str, label: str) -> str:
    return wide(f"<pre>{escape(text)}</pre>", label)


def _details(title: str, inner: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def _figure(picture: str, caption: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{picture}{below}</figure>" if picture else ""
