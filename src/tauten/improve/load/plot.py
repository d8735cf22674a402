"""The latency-rate curve as characters and as SVG; latencies by percentile as SVG."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final, NamedTuple

from tauten.improve.load.figures import QUANTILES
from tauten.improve.load.result import Run

MARKS: Final = {0.5: "·", 0.95: "o", 0.99: "#"}
ROWS, COLUMNS = 12, 64  # a screen of 96 columns holds the axis beside it
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 980, 320, 70, 130, 34  # at the right a name of 18 characters


class Line(NamedTuple):
    """Points of one line, (x, y) ascending in x; what never ended is not among them."""

    name: str
    kind: str
    points: list[tuple[float, float]]


def rate_lines(runs: Sequence[Run]) -> list[Line]:
    """For each plan and each of p50, p95, p99 the latency in ms by rate."""
    lines = []
    for plan in dict.fromkeys(run.plan for run in runs):
        for q in MARKS:
            points = [
                (run.rate_per_s, at.ms)
                for run in sorted(runs, key=lambda run: run.rate_per_s)
                if run.plan == plan and run.latency is not None and (at := run.latency.at(q)).ms is not None
            ]
            lines.append(Line(f"{plan} p{q * 100:g}", f"q{q * 100:g}", points))
    return lines


def text_curve(runs: Sequence[Run], limit_ms: float | None = None) -> str:
    """Latency over rate, one plan; a line of dashes is the limit."""
    lines = [line for line in rate_lines(runs) if line.points]
    every = [point for line in lines for point in line.points]
    if len({x for x, _ in every}) < 2:
        return ""
    lows = [y for _, y in every] + ([limit_ms] if limit_ms else [])
    low, high = min(lows), max(max(lows), min(lows) * 1.01)
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    grid = [[" "] * COLUMNS for _ in range(ROWS)]

    def row(y: float) -> int:
        return round((ROWS - 1) * (1 - math.log(y / low) / math.log(high / low)))

    if limit_ms:
        grid[row(limit_ms)] = ["-"] * COLUMNS
    marks = {f"q{q * 100:g}": mark for q, mark in MARKS.items()}
    for line in lines:
        for x, y in line.points:
            place = round((COLUMNS - 1) * (x - x_low) / (x_high - x_low))
            grid[row(y)][place] = marks[line.kind]
    labels = {0: f"{high:.4g}", ROWS - 1: f"{low:.4g}"}
    body = [f"   {labels.get(place, ''):>8} │{''.join(cells).rstrip()}" for place, cells in enumerate(grid)]
    axis = f"   {'ms':>8} └{'─' * COLUMNS}"
    ends = f"   {'':>8}  {f'{x_low:g}/s':<{COLUMNS - 10}}{f'{x_high:g}/s':>10}"
    key = "   ".join(f"{mark} p{q * 100:g}" for q, mark in MARKS.items()) + ("   - limit" if limit_ms else "")
    return "\n".join([*body, axis, ends, f"   {'':>8}  {key}"])


# -- SVG -----------------------------------------------------------------------------------------------------


def svg_curve(runs: Sequence[Run], limits: dict[str, float]) -> str:
    """Latency over rate for all plans; failures above the line's end are named in the table, not drawn."""
    lines = [line for line in rate_lines(runs) if line.points]
    xs = [x for line in lines for x, _ in line.points]
    if len(set(xs)) < 2:
        return ""
    scale = _Linear(0.0, max(xs))
    ticks = [(x, f"{x:g}/s") for x in sorted(set(xs))]
    return _chart("Latency over rate", lines, scale, ticks, limits)


def svg_percentiles(runs: Sequence[Run], limits: dict[str, float]) -> str:
    """Latency by percentile: the tail, which an average hides, takes most of the width."""
    lines = []
    for run in runs:
        if run.latency is None:
            continue
        points = [(-math.log10(1 - at.q), at.ms) for at in run.latency.quantiles if at.ms is not None]
        lines.append(Line(f"{run.plan} {run.rate_per_s:.4g}/s", "q95", points))
    if not any(line.points for line in lines):
        return ""
    ticks = [(-math.log10(1 - q), f"p{q * 100:g}") for q in QUANTILES]
    return _chart("Latency by percentile", lines, _Linear(0.0, 3.1), ticks, limits)


class _Linear(NamedTuple):
    low: float
    high: float

    def __call__(self, x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - self.low) / (self.high - self.low)


def _chart(
    title: str,
    lines: Sequence[Line],
    at_x: _Linear,
    ticks: Sequence[tuple[float, str]],
    limits: dict[str, float],
) -> str:
    ys = [y for line in lines for _, y in line.points if y > 0] + list(limits.values())
    low, high = min(ys) * 0.8, max(ys) * 1.25

    def at_y(y: float) -> float:
        return 10 + (HEIGHT - BOTTOM - 10) * (1 - math.log(max(y, low) / low) / math.log(high / low))

    parts = [
        f'<svg class="tau-fall" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
    ]
    parts += [_level(y, at_y) for y in _decades(low, high)]
    parts += [_tick(at_x(x), text) for x, text in ticks]
    parts += [_limit(name, limit, at_y(limit)) for name, limit in limits.items()]
    plans = list(dict.fromkeys(line.name.split(" ")[0] for line in lines))
    for line in lines:
        parts.append(_line(line, plans.index(line.name.split(" ")[0]), at_x, at_y))
    ends = [(at_y(line.points[-1][1]), line.name) for line in lines if line.points]
    return "".join([*parts, *_labels(ends), "</svg>"])


def _labels(ends: Sequence[tuple[float, str]]) -> list[str]:
    """Names at the ends of the lines, moved down where they would lie on one another."""
    shown, lowest = [], -math.inf
    for y, name in sorted(ends):
        lowest = max(y - 4, lowest + 12)  # a line of text at 11 px
        shown.append(f'<text class="tick" x="{WIDTH - RIGHT + 6}" y="{lowest + 8:.1f}">{escape(name)}</text>')
    return shown


def _decades(low: float, high: float) -> list[float]:
    """Round values, 1-2-5 a decade."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def _level(y: float, at_y: Callable[[float], float]) -> str:
    place = at_y(y)
    return (
        f'<path class="grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{y:g} ms</text>'
    )


def _tick(x: float, text: str) -> str:
    return (
        f'<path class="grid" d="M{x:.1f} 10V{HEIGHT - BOTTOM}"/>'
        f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>'
    )


def _limit(name: str, limit: float, y: float) -> str:
    return (
        f'<path class="slo" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT + 6}" y="{y - 4:.1f}">{escape(name)} {limit:g} ms</text>'
    )


def _line(line: Line, plan: int, at_x: _Linear, at_y: Callable[[float], float]) -> str:
    places = [(at_x(x), at_y(y)) for x, y in line.points]
    if not places:
        return ""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle class="dot{plan % 4}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(line.name)}: {value:.4g} ms</title></circle>'
        for (x, y), (_, value) in zip(places, line.points, strict=True)
    )
    return f'<path class="line{plan % 4} {line.kind}" d="M{path}"/>{dots}'


STYLE: Final = """
.tau .line0,.tau .line1,.tau .line2,.tau .line3{fill:none;stroke-width:2}
.tau .line0{stroke:var(--model)}.tau .line1{stroke:var(--contention)}.tau .line2{stroke:var(--preparation)}.tau .line3{stroke:var(--io)}
.tau .dot0{fill:var(--model)}.tau .dot1{fill:var(--contention)}.tau .dot2{fill:var(--preparation)}.tau .dot3{fill:var(--io)}
.tau .q50{stroke-dasharray:2 3}.tau .q99{stroke-dasharray:7 3}.tau .slo{stroke:var(--bad);stroke-width:1;fill:none}
"""
