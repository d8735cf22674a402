"""The whole of a run, made before it: when each request is due, and which one it is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from tauten.errors import InputError
from tauten.improve.load.arrivals import Arrivals

WARM_UP_SHARE: Final = 0.1  # a tenth more, sent before: caches, connections and queues fill in that time


class Schedule(msgspec.Struct, frozen=True):
    """`due` in seconds from the start of the measured window, ascending; those below 0 warm up."""

    due: list[float]
    items: list[int]
    window_s: float
    warm_up_s: float

    def __len__(self) -> int:
        return len(self.due)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: a rate of arrivals for a time or a number of requests, or `clients` in a closed loop.

    `warm_up_s` below 0 takes a tenth of the run.
    """

    arrivals: Arrivals = Arrivals()
    rate_per_s: float = 0.0
    duration_s: float = 30.0
    requests: int = 0
    warm_up_s: float = -1.0
    seed: int = 0
    clients: int = 0

    def schedule(self, count: int, recorded: Sequence[float] = (), *, turn: int = 0) -> Schedule:
        """The schedule over `count` different requests, in their order; `turn` is the round, a fresh seed."""
        seed = self.seed + 1_000_003 * turn  # apart from any seed that a user gives next
        if self.requests:
            times, warm_up_s = self._counted(seed, recorded)
        else:
            warm_up_s = WARM_UP_SHARE * self.duration_s if self.warm_up_s < 0 else self.warm_up_s
            times = self.arrivals.due(
                self.rate_per_s, duration_s=warm_up_s + self.duration_s, seed=seed, recorded=recorded
            )
        due = [at - warm_up_s for at in times]
        if not due or due[-1] < 0:
            raise InputError(
                f"no request is due within {self.duration_s:g} s at {self.rate_per_s:g} a second",
                help="give a longer --duration, a higher --rate, or --requests",
                code="E246",
            )
        window_s = self.duration_s if not self.requests else _length(due)
        return Schedule(due, [place % count for place in range(len(due))], window_s, warm_up_s)

    def _counted(self, seed: int, recorded: Sequence[float]) -> tuple[list[float], float]:
        """So many requests after a warm-up of a tenth more, or of the seconds asked for."""
        if self.warm_up_s > 0:
            before = self.arrivals.due(
                self.rate_per_s, duration_s=self.warm_up_s, seed=seed, recorded=recorded
            )
            warm = len(before)
        else:
            warm = math.ceil(WARM_UP_SHARE * self.requests) if self.warm_up_s < 0 else 0
        times = self.arrivals.due(self.rate_per_s, count=warm + self.requests, seed=seed, recorded=recorded)
        return times, times[warm]


def _length(due: Sequence[float]) -> float:
    """The window of a counted schedule: to its last request, and one mean gap beyond."""
    measured = [at for at in due if at >= 0]
    return measured[-1] * len(measured) / (len(measured) - 1) if len(measured) > 1 else 1.0
