"""The latency-rate curve as characters and as SVG; latencies by percentile as SVG."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tauten.explain import chart
from tauten.explain.chart import Line
from tauten.explain.figures import figure
from tauten.improve.load.figures import QUANTILES
from tauten.improve.load.result import Run

MARKS: Final = {0.5: "·", 0.95: "o", 0.99: "#"}
ROWS, COLUMNS = 12, 64  # a screen of 96 columns holds the axis beside it
FRAME: Final = chart.Frame()


def rate_lines(runs: Sequence[Run]) -> list[Line]:
    """For each plan and each of p50, p95, p99 the latency in ms by rate."""
    lines = []
    for hue, plan in enumerate(dict.fromkeys(run.plan for run in runs)):
        for q in MARKS:
            points = [
                (run.rate_per_s, at.ms)
                for run in sorted(runs, key=lambda run: run.rate_per_s)
                if run.plan == plan and run.latency is not None and (at := run.latency.at(q)).ms is not None
            ]
            lines.append(Line(f"{plan} p{q * 100:g}", f"q{q * 100:g}", points, hue))
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
    labels = {0: figure(high), ROWS - 1: figure(low)}
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
    scale = chart.across(FRAME, 0.0, max(xs))
    ticks = [(x, f"{x:g}/s") for x in sorted(set(xs))]
    return chart.lines("Latency over rate", lines, scale, ticks, limits)


def svg_percentiles(runs: Sequence[Run], limits: dict[str, float]) -> str:
    """Latency by percentile: the tail, which an average hides, takes most of the width."""
    lines = []
    plans = list(dict.fromkeys(run.plan for run in runs))
    for run in runs:
        if run.latency is None:
            continue
        points = [(-math.log10(1 - at.q), at.ms) for at in run.latency.quantiles if at.ms is not None]
        lines.append(Line(f"{run.plan} {figure(run.rate_per_s)}/s", "q95", points, plans.index(run.plan)))
    if not any(line.points for line in lines):
        return ""
    ticks = [(-math.log10(1 - q), f"p{q * 100:g}") for q in QUANTILES]
    return chart.lines("Latency by percentile", lines, chart.across(FRAME, 0.0, 3.1), ticks, limits)
