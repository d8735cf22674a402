"""Binomial and normal probabilities, and intervals of a rate."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from tauten.errors import InputError

Sides = Literal[1, 2]


class Interval(NamedTuple):
    """A point estimate `mid` between `low` and `high`, from `n` observations."""

    low: float
    mid: float
    high: float
    n: int


def tail_of(confidence: float, sides: Sides) -> float:
    if not 0.0 < confidence < 1.0:
        raise InputError(
            f"confidence {confidence} is not between 0 and 1", help="write 0.95 for 95 %", code="E252"
        )
    return (1.0 - confidence) / sides


def bisect(rises: Callable[[float], bool], low: float, high: float, steps: int = 60) -> float:
    """The point where `rises` turns from False to True; 60 halvings exhaust a float."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return (low + high) / 2


def normal_cdf(x: float) -> float:
    """P(Z <= x) of the standard normal."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def normal_quantile(p: float) -> float:
    """The x with P(Z <= x) = p, for p strictly between 0 and 1."""
    return bisect(lambda x: normal_cdf(x) >= p, -40.0, 40.0, 70)


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta I_x(a, b), a and b > 0, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # beyond here the fraction of the mirror image converges faster
        return 1.0 - beta_cdf(1.0 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) / a / _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Lentz's evaluation of 1 + d1/(1 + d2/(1 + ...))."""
    tiny = 1e-300  # stands in for a zero denominator
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, 1000):  # needs about sqrt(max(a, b)) steps
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / ((1.0 + term * d) or tiny)
        c = (1.0 + term / c) or tiny
        value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return value


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) of n independent trials that each succeed with probability p."""
    if k < 0 or k >= n:
        return 0.0 if k < 0 else 1.0
    return beta_cdf(1.0 - p, n - k, k + 1)


def binomial_pmf(k: int, n: int, p: float) -> float:
    if not 0 <= k <= n:
        return 0.0
    if p <= 0.0 or p >= 1.0:
        return float(k == (0 if p <= 0.0 else n))
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))


def first_count(n: int, p: float, mass: float) -> int:
    """The smallest k with P(X <= k) >= mass."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_cdf(middle, n, p) >= mass else (middle + 1, high)
    return low


def wilson(right: int, n: int, confidence: float = 0.95, sides: Sides = 2) -> Interval:
    """Score interval of a rate: right of n independent items.

    Coverage is close to nominal on average, not guaranteed: for reports, not for gates.
    Wilson, JASA 22 (1927) 209-212.
    """
    _check_counts(right, n)
    z = normal_quantile(1.0 - tail_of(confidence, sides))
    rate, shrink = right / n, 1.0 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z * math.sqrt(rate * (1.0 - rate) / n + z * z / (4.0 * n * n)) / shrink
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == n else min(1.0, centre + half)
    return Interval(low, rate, high, n)


def clopper_pearson(right: int, n: int, confidence: float = 0.95, sides: Sides = 2) -> Interval:
    """Exact interval of a rate: right of n independent items; never covers less than it says.

    Clopper and Pearson, Biometrika 26 (1934) 404-413.
    """
    _check_counts(right, n)
    tail = tail_of(confidence, sides)
    low = 0.0 if right == 0 else bisect(lambda p: 1.0 - binomial_cdf(right - 1, n, p) >= tail, 0.0, 1.0)
    high = 1.0 if right == n else bisect(lambda p: binomial_cdf(right, n, p) <= tail, 0.0, 1.0)
    return Interval(low, right / n, high, n)


def _check_counts(right: int, n: int) -> None:
    if n < 1 or not 0 <= right <= n:
        raise InputError(
            f"{right} of {n} is no rate", help="give 0 <= right <= n with at least one item", code="E252"
        )
