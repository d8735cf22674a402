"""Percentiles and their distribution-free intervals; how many queries prove one."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence

from tauten.errors import InputError
from tauten.statistics.rates import Interval, binomial_cdf, first_count, tail_of


def percentile(values: Sequence[float], q: float) -> float:
    """The q-quantile as a value that was really seen: the ceil(q n)-th smallest (inverse of the ECDF)."""
    if not values:
        raise InputError("no values to take a percentile of", help="record at least one", code="E252")
    return sorted(values)[rank_of(len(values), q) - 1]


def rank_of(n: int, q: float) -> int:
    return min(n, max(1, math.ceil(q * n - 1e-9)))  # 0.95 * 20 must be rank 19 in spite of rounding


def percentile_ranks(n: int, q: float, confidence: float = 0.95) -> tuple[int, int] | None:
    """Ranks (1-based) of the two order statistics that enclose the q-quantile; None when n is too small.

    Assumes independent draws from any one distribution. Two-sided 95 % needs n >= 72 for p95, 368 for
    p99. David and Nagaraja, Order Statistics (2003), section 7.1.
    """
    tail = tail_of(confidence, 2)
    low = first_count(n, q, tail)  # the largest rank l with P(X <= l - 1) <= tail, given ties go down
    if binomial_cdf(low, n, q) <= tail:
        low += 1
    high = first_count(n, q, 1.0 - tail) + 1
    return (low, high) if low >= 1 and high <= n else None


def percentile_interval(values: Sequence[float], q: float, confidence: float = 0.95) -> Interval | None:
    """Distribution-free interval of the q-quantile, in the unit of the values; None when n is too small.

    Samples within one run of a queue are correlated: use `block_bootstrap` or several runs for those.
    """
    ranks = percentile_ranks(len(values), q, confidence) if values else None
    if ranks is None:
        return None
    ordered = sorted(values)
    return Interval(
        ordered[ranks[0] - 1], ordered[rank_of(len(ordered), q) - 1], ordered[ranks[1] - 1], len(ordered)
    )


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Distribution-free interval of the median; needs n >= 6 at 95 %."""
    return percentile_interval(values, 0.5, confidence)


def queries_needed(q: float, misses: int = 0, confidence: float = 0.99) -> int:
    """How many queries must have run before `misses` over the limit still prove that the q-quantile holds.

    The smallest n with P(Binomial(n, 1 - q) <= misses) <= 1 - confidence; the early-stopping rule of
    Reddi et al., MLPerf Inference Benchmark (ISCA 2020), with no tolerance. p99 with no miss: 459.
    """
    tail = tail_of(confidence, 1)
    high = misses + 1
    while binomial_cdf(misses, high, 1.0 - q) > tail:
        high *= 2
    low = misses
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_cdf(misses, middle, 1.0 - q) <= tail else (middle, high)
    return high
