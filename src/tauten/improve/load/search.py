"""The highest rate at which the SLO is shown to hold: bracket, bisect, confirm, each with a fresh seed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from tauten.improve.load.verdict import Answer

PRECISION: Final = 0.05  # of the rate: below the spread from one seed to the next
MOST_TRIALS: Final = 40  # doubling over three orders of magnitude, ten halvings, and confirmations
LEAST_SHARE: Final = 1 / 1024  # of the first rate tried: below it the target does not answer in time at all


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One rate that was tried. It holds only where the run proves it."""

    rate_per_s: float
    seed: int
    answer: Answer
    n: int
    misses: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    stopped_early: bool = False

    @property
    def holds(self) -> bool:
        return self.answer == "met"


Stopped = Literal["found", "no rate holds", "generator", "trials"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """`rate_per_s` holds and was confirmed with a fresh seed; `above_per_s` is the lowest that did not."""

    rate_per_s: float | None
    above_per_s: float | None
    stopped: Stopped
    trials: list[Trial]


Try = Callable[[float, int], Awaitable[Trial]]


class _Search:
    def __init__(self, attempt: Try, seed: int, precision: float) -> None:
        self.attempt, self.seed, self.precision = attempt, seed, precision
        self.trials: list[Trial] = []
        self.low, self.high = 0.0, math.inf
        self.void = False

    @property
    def spent(self) -> bool:
        return len(self.trials) >= MOST_TRIALS

    async def holds(self, rate: float) -> bool:
        """Try a rate with the next seed, and move the bracket."""
        trial = await self.attempt(rate, self.seed + len(self.trials))
        self.trials.append(trial)
        self.void = self.void or trial.answer == "void"
        if trial.holds:
            self.low = max(self.low, rate)
        else:
            self.high = min(self.high, rate)
            self.low = self.low if self.low < rate else 0.0
        return trial.holds

    async def bracket(self, start: float) -> None:
        rate = start
        if await self.holds(rate):
            while not self.spent and await self.holds(rate := rate * 2):
                pass
            return
        while not self.spent and rate > start * LEAST_SHARE and not await self.holds(rate := rate / 2):
            pass

    async def bisect(self) -> None:
        while self.low and not self.spent and self.high / self.low > 1 + self.precision:
            await self.holds(math.sqrt(self.low * self.high))

    async def confirm(self) -> bool:
        """The rate found, once more: of many trials the luckiest would win. Steps down until one holds."""
        rate = self.low
        while rate and not self.spent:
            if await self.holds(rate):
                return True
            rate /= 1 + self.precision
        return False


async def find_max_rate(attempt: Try, *, start: float, seed: int = 0, precision: float = PRECISION) -> Found:
    """Search upwards from `start` requests a second, or downwards; `attempt(rate, seed)` runs one trial.

    A void trial counts as one that does not hold: then the generator, not the target, set the bound.
    """
    search = _Search(attempt, seed, precision)
    await search.bracket(start)
    await search.bisect()
    confirmed = await search.confirm() if search.low else False
    rate = search.trials[-1].rate_per_s if confirmed else None
    stopped: Stopped = "found"
    if rate is None:
        stopped = "trials" if search.spent else "no rate holds"
    if search.void and (rate is None or _void_above(search.trials, search.high)):
        stopped = "generator"
    above = search.high if math.isfinite(search.high) else None
    return Found(rate_per_s=rate, above_per_s=above, stopped=stopped, trials=search.trials)


def _void_above(trials: list[Trial], high: float) -> bool:
    """Whether the bound above the rate found is the generator's."""
    return any(trial.answer == "void" and trial.rate_per_s == high for trial in trials)
