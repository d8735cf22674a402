"""Whether a measurement had the machine to itself, and its repetition where it had not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path

import msgspec

from tauten.clock import Clock, real
from tauten.run.kernel import core_seconds

LIMIT = 0.05  # of the machine: the kernel counts in steps of 10 ms, which are 2 % of 0.2 s on two cores
SHORTEST_S = 0.2  # below that its steps say nothing
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Watch:
    """Tells what share of the cores others had since the last look: processes, and the host's own (steal).

    Off Linux nobody can tell: always 0.
    """

    def __init__(
        self,
        cores: int,
        clock: Clock = real,
        machine: Callable[[], float | None] | None = None,
        own: Callable[[], float] = core_seconds,
    ) -> None:
        self._cores = cores
        self._clock = clock
        self._machine = machine or machine_seconds
        self._own = own
        self._last = self._now()

    def share(self) -> float:
        """0.0 to 1.0, since the last call; 0.0 after too short a time, which counts to the next look."""
        (was, busy_was, own_was), now = self._last, self._now()
        wall = now[0] - was
        if wall < SHORTEST_S:
            return 0.0
        self._last = now
        others = (now[1] - busy_was) - (now[2] - own_was)
        return min(1.0, max(0.0, others / (wall * self._cores)))

    def _now(self) -> tuple[float, float, float]:
        return self._clock(), self._machine() or 0.0, self._own()


class Settled(msgspec.Struct, frozen=True):
    """The median of the least disturbed rounds; `others` is the share of the machine lost in the worst of them."""

    value: float
    others: float
    tries: int

    def note(self, name: str, limit: float = LIMIT) -> str:
        """What is to be said of it; nothing where it was quiet.

        >>> Settled(1.0, 0.2, 15).note("copy")
        'copy: others had 20 % of the machine in the best of 15 rounds'
        >>> Settled(1.0, 0.01, 7).note("copy")
        ''
        """
        if self.others <= limit:
            return ""
        return (
            f"{name}: others had {self.others * 100:.0f} % of the machine in the best of {self.tries} rounds"
        )


def settled(
    once: Callable[[], float],
    share: Callable[[], float],
    *,
    rounds: int = 5,
    most: int = 15,
    limit: float = LIMIT,
) -> Settled:
    """Measure until `rounds` of them were quiet, or `most` were tried, and take the quietest.

    `once` gives a value, `share` what others had since it was last asked.
    """
    readings: list[tuple[float, float]] = []
    while sum(others <= limit for others, _ in readings) < rounds and len(readings) < max(rounds, most):
        share()
        value = once()
        readings.append((share(), value))
    kept = sorted(readings, key=lambda each: each[0])[:rounds]
    return Settled(statistics.median(value for _, value in kept), kept[-1][0], len(readings))


def machine_seconds() -> float | None:
    """Seconds that all cores worked or were taken by the host since the start; None where nobody tells."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:  # not Linux
        return None
    user, nice, system, _idle, _wait, irq, soft, steal = (int(field) for field in first[1:9])
    return (user + nice + system + irq + soft + steal) / _TICKS
