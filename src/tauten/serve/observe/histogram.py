"""Counters and histograms that cost a microsecond to write and become Prometheus text only when asked.

All times use the same buckets, so that servers, workflows and weeks add up.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from tauten.serve.observe.exposition import Exposition

# fmt: off
SECONDS: tuple[float, ...] = (  # 1 ms to 2 minutes in steps of about 1.5: a percentile read from them is 20 % off at most
    0.001, 0.0015, 0.0022, 0.0033, 0.005, 0.0075, 0.011, 0.017, 0.025, 0.038, 0.057, 0.085, 0.13, 0.19, 0.29,
    0.43, 0.65, 0.97, 1.5, 2.2, 3.3, 5.0, 7.5, 11.0, 17.0, 25.0, 38.0, 57.0, 85.0, 120.0,
)
# fmt: on
SIZES: tuple[float, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
MOST_SERIES = 2000  # of one family; names come from workflows and key files, this bounds mistakes
OTHER = "other"


class Histogram:
    """How often values fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def observe_all(self, values: Sequence[float]) -> None:
        """Many at a time, at least one: what ran together mostly falls into one bucket or two."""
        bounds, counts = self.bounds, self.counts
        ordered = sorted(values)
        last, seen = bisect_left(bounds, ordered[-1]), 0
        for index in range(bisect_left(bounds, ordered[0]), last):
            below = bisect_right(ordered, bounds[index])
            counts[index] += below - seen
            seen = below
        counts[last] += len(ordered) - seen
        self.total += sum(ordered)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulated(self) -> list[int]:
        """How many lie at or below each bound, and at last all of them, as Prometheus writes buckets."""
        return list(accumulate(self.counts))


class Histograms:
    """A family of histograms by label values; beyond MOST_SERIES all others share one."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: tuple[float, ...] = SECONDS
    ) -> None:
        self.name, self.text, self.labels, self.bounds = name, text, tuple(labels), bounds
        self.series: dict[tuple[str, ...], Histogram] = {}

    def at(self, labels: tuple[str, ...]) -> Histogram:
        found = self.series.get(labels)
        if found is None:
            if len(self.series) >= MOST_SERIES:
                labels = (OTHER,) * len(self.labels)
            found = self.series.setdefault(labels, Histogram(self.bounds))
        return found

    def shown(self, page: Exposition) -> Iterator[str]:
        """The family as text, in pieces."""
        return page.histogram(self.name, self.text, self.labels, self.bounds, list(self.series.items()))


class Counters:
    """A family of counts by label values; beyond MOST_SERIES all others share one."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self.series: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1.0) -> None:
        try:
            self.series[labels] += amount
        except KeyError:
            if len(self.series) >= MOST_SERIES:
                labels = (OTHER,) * len(self.labels)
            self.series[labels] = self.series.get(labels, 0.0) + amount

    def shown(self, page: Exposition) -> Iterator[str]:
        """The family as text, in pieces."""
        return page.counter(self.name, self.text, self.labels, self.series.items())
