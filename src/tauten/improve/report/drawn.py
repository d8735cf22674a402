"""The pictures of the page: bullets, bars, rates, plans to choose from, and what the labels prove. SVG without script."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from tauten.explain import chart
from tauten.explain.figures import figure
from tauten.improve.optimizer.outcome import Candidate, Optimized
from tauten.improve.quality import Verdict
from tauten.improve.report import summary
from tauten.improve.report.summary import NAIVE, NAMES, ZERO_EFFORT, shown, value

RATES: Final = chart.Frame(width=1000, height=340, left=70, right=170, top=26, bottom=40)
FRONT: Final = chart.Frame(width=350, height=260, left=62, right=20, top=26, bottom=44)
LOG: Final = 4.0  # values that lie further apart are shown on a logarithmic scale
AROUND: Final = (
    (8, -6),
    (8, 14),
    (-8, -6),
    (-8, 14),
    (0, -10),
    (0, 20),
)  # where a number may stand beside its dot


def bullet(found: Optimized, row: summary.Row) -> str:
    """The chosen plan as a bar, before both baselines, with the limit as a mark."""
    plans = [summary.candidate(found, NAIVE), summary.candidate(found, ZERO_EFFORT), summary.chosen(found)]
    amounts = [None if plan is None else summary.finite(amount(plan, row.what)) for plan in plans]
    most = max((each for each in (*amounts, row.limit) if each), default=0.0)
    if most <= 0.0 or row.chosen == summary.UNKNOWN:
        return ""
    parts = []
    for each, kind, top in zip(amounts, ("was", "easy", "now"), (2, 5, 8), strict=True):
        if each is not None:
            parts.append(
                f'<rect class="{kind}" x="0" y="{top}" width="{each / most * 198:.1f}" height="{26 - 2 * top}" rx="2"/>'
            )
    if row.limit is not None:
        parts.append(f'<rect class="mark" x="{row.limit / most * 198:.1f}" y="0" width="2" height="26"/>')
    about = f"{row.chosen}, naive {row.naive}, best zero-effort {row.zero_effort}"
    about += "" if row.limit is None else f", limit {shown(row.what, row.limit)}"
    return (
        f'<svg class="bullet" viewBox="0 0 200 26" preserveAspectRatio="none" role="img" aria-label="{escape(about)}">'
        f"{''.join(parts)}</svg>"
    )


def meter(share: float, kind: str = "worth") -> str:
    """A bar in a row of a table, whose figure stands beside it."""
    width = max(0.0, min(1.0, share)) * 100
    return (
        '<svg class="meter" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="12"/><rect class="{kind}" width="{width:.1f}" height="12"/></svg>'
    )


def rates(found: Optimized) -> str:
    """Latency over rate of each plan: hollow where simulated, filled where measured."""
    plans = list(dict.fromkeys(curve.plan for curve in found.curves))
    lines = []
    for curve in found.curves:
        for place, q in ((1, "50"), (2, "95")):
            points = [(each[0], each[place]) for each in sorted(curve.points) if math.isfinite(each[place])]
            how = "" if curve.simulated else ", measured"
            named = len(points) > 1
            lines.append(
                chart.Line(
                    f"{_short(summary.title(curve.plan))} p{q}{how}",
                    f"q{q}",
                    points,
                    plans.index(curve.plan),
                    hollow=curve.simulated,
                    named=named,
                )
            )
    lines = [line for line in lines if line.points]
    across = {x for line in lines for x, _ in line.points}
    if len(across) < 2:
        return ""
    x = chart.across(RATES, 0.0, max(across))
    limits = {
        NAMES[name]: found.slo.limits()[name] for name in ("p50_ms", "p95_ms") if name in found.slo.limits()
    }
    ticks = [(each, f"{each:g}/s") for each in sorted(across)]
    asked = x(found.rate_per_s) if found.rate_per_s <= max(across) else None
    under = [] if asked is None else [_asked(asked, found.rate_per_s)]
    return chart.lines("Latency over rate, by plan", lines, x, ticks, limits, RATES, under=under)


def _asked(x: float, rate: float) -> str:
    bottom = RATES.height - RATES.bottom
    return (
        f'<path class="here" d="M{x:.1f} {RATES.top - 6}V{bottom}"/>'
        f'<text class="tick" x="{x:.1f}" y="{RATES.top - 10}" text-anchor="middle">asked: {figure(rate)}/s</text>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


# -- plans to choose from ------------------------------------------------------------------------------------


def amount(each: Candidate, what: str) -> float | None:
    """A figure of a plan, or the quality that it may lose."""
    return each.quality_loss if what == "quality_loss" else value(each, what)


def against(found: Optimized, plans: Sequence[Candidate]) -> list[str]:
    """What differs between the plans beside the headline, each worth a picture."""
    what = summary.headline(found)
    others = ["memory_bytes", "cost_cents", "quality_loss", "first_output_ms", "p50_ms"]
    return [
        name
        for name in others
        if name != what and len({summary.finite(amount(each, name)) for each in plans} - {None}) > 1
    ][:3]  # side by side


def front(found: Optimized, plans: Sequence[Candidate], other: str) -> str:
    """Plans by the headline and by another figure; left and below is better. Numbers are those of the table."""
    what = summary.headline(found)
    placed = [
        (number, each, across, up)
        for number, each in enumerate(plans, 1)
        if (across := summary.finite(value(each, what))) is not None
        and (up := summary.finite(amount(each, other))) is not None
    ]
    xs, ys = [each[2] for each in placed], [each[3] for each in placed]
    if not placed:
        return ""
    x, y = _scale(chart.across, xs), _scale(chart.upwards, ys)
    parts = [chart.level(FRONT, y(each), _text(other, each)) for each in y.ticks()]
    parts += [chart.tick(FRONT, x(each), _text(what, each)) for each in x.ticks()]
    parts += _limits(found, what, other, x, y)
    limit = x(
        found.slo.limits().get(what, x.low)
    )  # its name stands at the top, two letters on either side of 14 px
    taken = [(x(across), y(up)) for _, _, across, up in placed]
    taken += [(limit + right, FRONT.top + 6.0) for right in (8, 20)]
    for number, each, across, up in placed:
        parts += _plan(found, number, each, (x(across), y(up)), taken)
    name = "loses at most" if other == "quality_loss" else NAMES[other]
    parts += [chart.title_y(FRONT, name), chart.title_x(FRONT, NAMES[what])]
    return chart.picture(FRONT, f"{name} over {NAMES[what]}, by plan", parts)


def _scale(direction: Callable[..., chart.Scale], values: Sequence[float]) -> chart.Scale:
    low, high = min(values), max(values)
    if low > 0.0 and high / low > LOG:
        return direction(FRONT, low / 1.25, high * 1.25, log=True)
    room = 0.12 * (high - low or high or 1.0)
    return direction(FRONT, max(0.0, low - room), high + room)


def _text(what: str, each: float) -> str:
    return f"{figure(each * 100)} pt" if what == "quality_loss" else shown(what, each)


def _limits(found: Optimized, what: str, other: str, x: chart.Scale, y: chart.Scale) -> list[str]:
    limits = {**found.slo.limits(), "quality_loss": found.slo.quality_loss}
    parts = []
    if x.low <= limits.get(what, -1.0) <= x.high:
        at = x(limits[what])
        parts.append(f'<path class="slo" d="M{at:.1f} {FRONT.top}V{FRONT.height - FRONT.bottom}"/>')
        parts.append(f'<text class="tick limit" x="{at + 4:.1f}" y="{FRONT.top + 10}">limit</text>')
    if y.low < limits.get(other, -1.0) <= y.high:
        parts.append(chart.limit(FRONT, y(limits[other]), "limit"))
    return parts


def _plan(
    found: Optimized, number: int, each: Candidate, at: tuple[float, float], taken: list[tuple[float, float]]
) -> list[str]:
    """The dot and its number, which stands where it covers nothing that is there already."""
    about = f"{number} {summary.title(each.name)}"
    parts = [chart.dot(*at, "now" if each.front else "plain", about, 4.5)]
    further = 1.0
    if each.name == found.chosen:
        parts.append(chart.dot(*at, "ring", f"{about}, chosen", 9))
        further = 1.6
    places = [(at[0] + right * further, at[1] + down * further) for right, down in AROUND]
    free = next((place for place in places if _apart(place, taken)), places[0])
    taken.append((free[0], free[1] - 4))
    anchor = "start" if free[0] > at[0] else "end" if free[0] < at[0] else "middle"
    parts.append(
        f'<text class="nr" x="{free[0]:.1f}" y="{free[1]:.1f}" text-anchor="{anchor}">{number}</text>'
    )
    return parts


def _apart(place: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    return all(abs(place[0] - x) > 7 or abs(place[1] - 4 - y) > 8 for x, y in taken)


# -- what the labels prove -----------------------------------------------------------------------------------


def loss(verdict: Verdict) -> str:
    """The interval of the loss beside the margin that it must stay below."""
    ends = [verdict.loss_low, verdict.loss_high, verdict.margin, 0.0]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low or 0.01)
    frame = chart.Frame(width=380, height=64, left=20, right=24, top=16, bottom=24)
    x = chart.across(frame, low - room, high + room)
    parts = [chart.tick(frame, x(each), f"{figure(each * 100)} pt") for each in x.ticks()]
    parts.append(f'<path class="spanned" d="M{x(verdict.loss_low):.1f} 28H{x(verdict.loss_high):.1f}"/>')
    parts.append(chart.dot(x(verdict.loss), 28, "ring", f"seen: {figure(verdict.loss * 100)} points", 5))
    parts.append(f'<path class="margin" d="M{x(verdict.margin):.1f} 14V40"/>')
    parts.append(
        f'<text class="tick limit" x="{x(verdict.margin):.1f}" y="10" text-anchor="middle">margin</text>'
    )
    return chart.picture(frame, f"Quality lost: {verdict}", parts)


def shares(amounts: Sequence[float]) -> list[float]:
    """Each as a share of the largest."""
    most = max(itertools.chain(amounts, (0.0,)))
    return [each / most if most > 0.0 else 0.0 for each in amounts]
