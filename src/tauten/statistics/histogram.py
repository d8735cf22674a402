"""A mergeable histogram of times with a fixed relative error."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Iterable

from tauten.errors import InputError, InternalError
from tauten.statistics.percentiles import percentile_ranks, rank_of
from tauten.statistics.rates import Interval


class Histogram:
    """Counts of positive values in logarithmic buckets: any quantile within `relative_error`, mergeable.

    Size grows with the logarithm of the spread, not with n. Values of 0 are kept apart.
    DDSketch: Masson, Rim and Lee, PVLDB 12 (2019) 2195-2205.
    """

    __slots__ = ("_log_base", "buckets", "high", "low", "n", "relative_error", "total", "zeros")

    def __init__(self, values: Iterable[float] = (), relative_error: float = 0.01) -> None:
        self.relative_error = relative_error
        self._log_base = math.log((1.0 + relative_error) / (1.0 - relative_error))
        self.buckets: dict[int, int] = {}
        self.zeros = 0
        self.n = 0
        self.total = 0.0
        self.low = math.inf
        self.high = 0.0
        for value in values:
            self.add(value)

    def add(self, value: float) -> None:
        """Count one value >= 0; raises InputError for a negative or unbounded one."""
        if not 0.0 <= value < math.inf:
            raise InputError(f"cannot count {value}", help="give a finite value >= 0", code="E252")
        if value > 0.0:
            bucket = math.ceil(math.log(value) / self._log_base)
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        else:
            self.zeros += 1
        self.n += 1
        self.total += value
        self.low = min(self.low, value)
        self.high = max(self.high, value)

    def merge(self, other: Histogram) -> None:
        """Count everything that `other` counted; both must have the same relative error."""
        if other.relative_error != self.relative_error:
            raise InternalError("histograms of different relative error cannot be merged")
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.zeros += other.zeros
        self.n += other.n
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def at_rank(self, rank: int) -> float:
        """The rank-th smallest value (1-based), within the relative error."""
        if not 1 <= rank <= self.n:
            raise InternalError(f"rank {rank} of {self.n} values")
        left = rank - self.zeros
        for bucket in sorted(self.buckets):
            if left <= 0:
                break
            left -= self.buckets[bucket]
            if left <= 0:
                middle = math.exp(bucket * self._log_base) * (1.0 - self.relative_error)
                return min(max(middle, self.low), self.high)
        return 0.0

    def quantile(self, q: float) -> float:
        """The q-quantile, within the relative error; raises InputError when nothing was counted."""
        if not self.n:
            raise InputError("no values to take a percentile of", help="record at least one", code="E252")
        return self.at_rank(rank_of(self.n, q))

    def interval(self, q: float, confidence: float = 0.95) -> Interval | None:
        """Distribution-free interval of the q-quantile; None when n is too small."""
        ranks = percentile_ranks(self.n, q, confidence) if self.n else None
        if ranks is None:
            return None
        return Interval(self.at_rank(ranks[0]), self.quantile(q), self.at_rank(ranks[1]), self.n)
