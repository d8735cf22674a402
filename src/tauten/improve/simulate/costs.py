"""What one run of a model takes: a line over its weight and the spread around it; the same for token streams.

The line is fitted to relative errors, so that short runs count as much as long ones. The spread is kept as
measured, and drawn from: a mean would hide the tail that an SLO is about.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

KEPT = 101  # quantiles of a spread: a p99 of one model's runs still has a place of its own
ELSEWHERE: Final = 0  # threads of a model that another machine runs: no core of this one is busy with it
_LEAST_S = 1e-9


class Moving(NamedTuple):
    """Seconds in which one run moves its bytes at the best rate of the machine: weights, and what operators hand on.

    Of an item of the usual `weight`; of a stream for each token, which reads all weights.
    """

    weight: float
    seconds: float

    def share_of(self, seconds: float) -> float:
        """The share of a run of so many seconds, 0 to 1: what neighbours slow down that move bytes, too.

        >>> Moving(1.0, 0.002).share_of(0.008)
        0.25
        """
        return min(1.0, self.seconds / seconds) if seconds > 0.0 else 0.0


STILL: Final = Moving(0.0, 0.0)


class Cost(msgspec.Struct, frozen=True):
    """Seconds of a run alone on the machine: ``(fixed_s + slope_s x weight) x one of ratios``."""

    fixed_s: float
    slope_s: float = 0.0  # for each unit of weight in the batch
    ratios: tuple[float, ...] = (1.0,)  # measured / line, ascending
    threads: int = 1  # cores that it occupies; `ELSEWHERE`: none
    memory: float = 0.0  # share of the time in which it waits for memory

    def line(self, weight: float) -> float:
        """Mean seconds of a batch of that weight."""
        return max(_LEAST_S, self.fixed_s + self.slope_s * weight)

    def drawn(self, weight: float, at: float) -> float:
        """Seconds of one run; `at` (0 to 1, drawn evenly) says which of the spread."""
        return self.line(weight) * drawn(self.ratios, at)


class StreamCost(msgspec.Struct, frozen=True):
    """Seconds of a stream of tokens alone: the prompt that is not cached, then token by token."""

    first: Cost  # by tokens of the prompt that have to be read
    token_s: float
    ratios: tuple[float, ...] = (1.0,)  # of a token's time, a stream's mean, ascending
    # (streams at a time, times as long a token takes then), ascending, the first is (1, 1.0)
    together: tuple[tuple[int, float], ...] = ((1, 1.0),)
    slots: int = 1
    memory: float = 0.0  # share of a token's time in which it waits for memory

    def slowed(self, streams: int) -> float:
        """Times longer a token takes among so many streams: between what was measured on straight lines."""
        points = self.together
        place = bisect_left(points, (streams, 0.0))
        if place == len(points):
            return points[-1][1] * streams / points[-1][0] if streams > points[-1][0] else points[-1][1]
        high_n, high = points[place]
        if high_n == streams or not place:
            return high
        low_n, low = points[place - 1]
        return low + (high - low) * (streams - low_n) / (high_n - low_n)


def drawn(ratios: Sequence[float], at: float) -> float:
    """The value at a share of an ascending list, between two of them on a straight line.

    >>> drawn((1.0, 3.0), 0.25)
    1.5
    """
    if len(ratios) == 1:
        return ratios[0]
    place = at * (len(ratios) - 1)
    low = int(place)
    if low >= len(ratios) - 1:
        return ratios[-1]
    return ratios[low] + (ratios[low + 1] - ratios[low]) * (place - low)


def fitted(
    runs: Iterable[tuple[float, float]], *, threads: int = 1, memory: float = 0.0, noise: Iterable[float] = ()
) -> Cost:
    """The cost of a model from its runs, each (weight, seconds); `noise` are ratios measured on equal runs,
    where such are known, else the spread around the line stands for them.

    Raises ValueError without any run.
    """
    pairs = [(weight, seconds) for weight, seconds in runs if seconds > 0.0]
    if not pairs:
        raise ValueError("no run to learn from")
    fixed_s, slope_s = _line(pairs)
    around = sorted(noise) or sorted(
        seconds / max(_LEAST_S, fixed_s + slope_s * weight) for weight, seconds in pairs
    )
    return Cost(fixed_s, slope_s, thinned(around), threads, memory)


def thinned(ordered: Sequence[float]) -> tuple[float, ...]:
    """An ascending list by at most `KEPT` of its quantiles, both ends included."""
    if len(ordered) <= KEPT:
        return tuple(ordered)
    return tuple(drawn(ordered, index / (KEPT - 1)) for index in range(KEPT))


def _line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares of relative errors; no part of it is negative."""
    s0 = sx = sxx = sy = sxy = 0.0
    for weight, seconds in pairs:
        part = 1.0 / (seconds * seconds)
        s0 += part
        sx += part * weight
        sxx += part * weight * weight
        sy += part * seconds
        sxy += part * weight * seconds
    spread = s0 * sxx - sx * sx
    if spread <= 1e-9 * s0 * sxx:
        return sy / s0, 0.0
    slope = (s0 * sxy - sx * sy) / spread
    fixed = (sy - slope * sx) / s0
    if slope < 0.0:
        return sy / s0, 0.0
    if fixed < 0.0:
        return 0.0, sxy / sxx
    return fixed, slope
