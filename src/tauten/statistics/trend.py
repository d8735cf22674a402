"""Student's t: intervals of a mean over runs and of a slope over time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence

from tauten.errors import InputError
from tauten.statistics.rates import Interval, beta_cdf, bisect, tail_of


def student_cdf(t: float, freedom: float) -> float:
    """P(T <= t) of Student's distribution with `freedom` degrees of freedom."""
    half = 0.5 * beta_cdf(freedom / (freedom + t * t), freedom / 2.0, 0.5)
    return half if t < 0 else 1.0 - half


def student_quantile(p: float, freedom: float) -> float:
    """The t with P(T <= t) = p, for p strictly between 0 and 1."""
    return bisect(lambda t: student_cdf(t, freedom) >= p, -1e6, 1e6, 80)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Two-sided interval of the mean of independent runs; None for fewer than three."""
    n = len(values)
    if n < 3:  # two runs give an interval of 6 half-ranges each way: no help to anyone
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = student_quantile(1.0 - tail_of(confidence, 2), n - 1) * math.sqrt(variance / n)
    return Interval(mean - half, mean, mean + half, n)


def slope_interval(xs: Sequence[float], ys: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Two-sided interval of the least-squares slope; None for fewer than four points or no spread of x.

    Assumes independent scatter around a line: give means of long bins, not single requests.
    """
    if len(xs) != len(ys):
        raise InputError(
            f"{len(xs)} places and {len(ys)} values are not pairs", help="give one of each", code="E252"
        )
    n = len(xs)
    if n < 4 or max(xs) == min(xs):
        return None
    x_mean, y_mean = math.fsum(xs) / n, math.fsum(ys) / n
    spread = math.fsum((x - x_mean) ** 2 for x in xs)
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    rest = math.fsum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    error = math.sqrt(rest / (n - 2) / spread)
    half = student_quantile(1.0 - tail_of(confidence, 2), n - 2) * error
    return Interval(slope - half, slope, slope + half, n)
