"""When enough requests were seen to say that a percentile holds, or that it does not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from tauten.statistics.percentiles import queries_needed
from tauten.statistics.rates import binomial_cdf, tail_of

Proof = Literal["met", "missed", "cannot conclude"]

CONFIDENCE = 0.99  # MLPerf's; a search over ten rates is then wrong about once in ten searches at the most
MANY = 10_000_000  # more requests than that settle nothing in a working day


class Ruling(NamedTuple):
    """What `misses` of `n` prove about a share of at most 1 - q. `needed`: requests that would probably
    settle it at the share seen; only for "cannot conclude", and None there when none would."""

    proof: Proof
    n: int
    misses: int
    allowed: int
    needed: int | None = None


def allowed_misses(n: int, q: float, confidence: float = CONFIDENCE) -> int:
    """The most misses with which n requests still prove the q-quantile; -1 where none is few enough.

    >>> allowed_misses(662, 0.99), allowed_misses(458, 0.99)
    (1, -1)
    """
    tail, low, high = tail_of(confidence, 1), -1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_cdf(middle, n, 1.0 - q) <= tail else (low, middle)
    return low


def too_many_misses(n: int, q: float, confidence: float = CONFIDENCE) -> int:
    """The fewest misses of n that prove the q-quantile is over its limit; n + 1 where not even all do."""
    tail, low, high = tail_of(confidence, 1), -1, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        shown = 1.0 - binomial_cdf(middle - 1, n, 1.0 - q) <= tail
        low, high = (low, middle) if shown else (middle, high)
    return high


def rule(n: int, misses: int, q: float, confidence: float = CONFIDENCE) -> Ruling:
    """Met: the share of misses is below 1 - q with the confidence. Missed: it is above. Else: neither.

    Assumes independent requests, as MLPerf does; neighbours in a queue are alike, so a short run of one
    busy spell proves less than it says. Reddi et al., MLPerf Inference Benchmark (ISCA 2020).
    """
    allowed = allowed_misses(n, q, confidence)
    if misses <= allowed:
        return Ruling("met", n, misses, allowed)
    if misses >= too_many_misses(n, q, confidence):
        return Ruling("missed", n, misses, allowed)
    return Ruling("cannot conclude", n, misses, allowed, _needed(n, misses, q, confidence))


def _needed(n: int, misses: int, q: float, confidence: float) -> int | None:
    """Requests after which the share of misses seen now would prove something, either way."""
    if n == 0 or misses == 0:
        return queries_needed(q, 0, confidence)
    share, low, high = misses / n, n, 2 * n
    while not _settled(high, share, q, confidence):
        low, high = high, 2 * high
        if high > MANY:
            return None
    while high - low > max(1, low // 1000):  # three figures are all that a plan needs
        middle = (low + high) // 2
        low, high = (low, middle) if _settled(middle, share, q, confidence) else (middle, high)
    return high


def _settled(n: int, share: float, q: float, confidence: float) -> bool:
    tail, misses = tail_of(confidence, 1), math.ceil(share * n - 1e-9)
    below = binomial_cdf(misses, n, 1.0 - q) <= tail
    return below or 1.0 - binomial_cdf(misses - 1, n, 1.0 - q) <= tail
