"""What a run costs the machine: CPU of the generator, of the target and of strangers; memory over time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

import msgspec

from tauten.clock import real
from tauten.improve.load.generator import Generator
from tauten.improve.load.schedule import Schedule
from tauten.improve.load.target import Response
from tauten.run.kernel import busy_seconds, core_seconds, tree, tree_bytes, tree_seconds, waited_seconds
from tauten.statistics import Interval
from tauten.statistics.trend import slope_interval

SAMPLE_S: Final = 0.5  # a look at /proc takes 0.1 ms: a share of 0.0002 of a core
SLOPE_S: Final = 10.0  # a shorter line is the warm-up's
BINS: Final = 20  # points of the memory line; enough to tell a slope from a step


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of the target's processes. The slope has a 99 % interval; growth is significant when
    its lower end is above 0."""

    start_mb: float
    peak_mb: float
    end_mb: float
    slope_mb_per_min: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None

    @property
    def grows(self) -> bool:
        return self.slope_low is not None and self.slope_low > 0


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Cores in use on average over the run; None where nobody can tell. `starved` is the share of the run
    in which the generator's thread wanted a core and got none: the machine, not the target, made that wait."""

    generator_cores: float | None = None
    target_cores: float | None = None
    other_cores: float | None = None
    starved: float | None = None
    memory: Memory | None = None


class Meter:
    """Reads the machine while a run goes on; use as ``async with``. `costs` is there afterwards.

    `pid` is the server's process (with its children), which may be one that we started. With `cost_s`, what one request costs the generator,
    the target is this very process; otherwise this process is the generator alone.
    """

    def __init__(self, *, pid: int = 0, cost_s: float | None = None) -> None:
        self.pid, self.cost_s = pid, cost_s
        self._started = pid not in (0, os.getpid()) and pid in tree(os.getpid())
        self.sent = 0
        self.costs = Costs()
        self._memory: list[tuple[float, float]] = []

    async def __aenter__(self) -> Meter:
        self._before = self._read()
        self._sampler = asyncio.get_running_loop().create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sampler.cancel()
        await asyncio.wait([self._sampler])
        self._look()
        self.costs = self._costs()

    def _read(self) -> tuple[float, float, float | None, float | None, float | None]:
        target = tree_seconds(self.pid) if self.pid else None
        own = core_seconds() - (target if self._started and target else 0.0)
        return real(), own, target, busy_seconds(), waited_seconds()

    async def _sample(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(SAMPLE_S)

    def _look(self) -> None:
        pid = self.pid or (os.getpid() if self.cost_s is not None else 0)
        size = tree_bytes(pid) if pid else None
        if size is not None:
            self._memory.append((real(), size / 1e6))

    def _costs(self) -> Costs:
        after = self._read()
        wall_s = max(1e-9, after[0] - self._before[0])
        own = max(0.0, after[1] - self._before[1]) / wall_s
        target = _rate(self._before[2], after[2], wall_s)
        busy = _rate(self._before[3], after[3], wall_s)
        generator = own
        if self.cost_s is not None:
            generator = min(own, self.cost_s * self.sent / wall_s)
            target = own - generator
        known = own if self.cost_s is not None else own + (target or 0.0)
        return Costs(
            generator_cores=generator,
            target_cores=target,
            other_cores=None if busy is None else max(0.0, busy - known),
            starved=_rate(self._before[4], after[4], wall_s),
            memory=memory_line(self._memory),
        )


def _rate(before: float | None, after: float | None, wall_s: float) -> float | None:
    return None if before is None or after is None else max(0.0, after - before) / wall_s


def memory_line(points: list[tuple[float, float]]) -> Memory | None:
    """(seconds, MB) points as start, peak, end and slope; none for under 10 s."""
    if not points:
        return None
    sizes = [size for _, size in points]
    slope = _slope(points) if points[-1][0] - points[0][0] >= SLOPE_S else None
    return Memory(
        start_mb=sizes[0],
        peak_mb=max(sizes),
        end_mb=sizes[-1],
        slope_mb_per_min=slope.mid if slope else None,
        slope_low=slope.low if slope else None,
        slope_high=slope.high if slope else None,
    )


def _slope(points: list[tuple[float, float]]) -> Interval | None:
    """MB a minute, after the first tenth: caches and pools fill in that."""
    points = points[len(points) // 10 :]
    per_bin = max(1, len(points) // BINS)
    bins = [points[place : place + per_bin] for place in range(0, len(points) - per_bin + 1, per_bin)]
    return slope_interval(
        [sum(at for at, _ in each) / len(each) / 60.0 for each in bins],
        [sum(size for _, size in each) / len(each) for each in bins],
        confidence=0.99,
    )


# -- what the generator itself takes -------------------------------------------------------------------------

CALIBRATION: Final = 2000  # requests at once: 40 ms, and 1 % steady


async def generator_cost_s() -> float:
    """CPU seconds that sending one request takes the generator, the target left out."""
    schedule = Schedule([0.0] * CALIBRATION, [0] * CALIBRATION, 1.0, 0.0)
    before = time.thread_time()
    await Generator(_Nothing(), [None]).open_loop(schedule)
    return (time.thread_time() - before) / CALIBRATION


class _Nothing:
    """A target that answers at once."""

    name, shares_loop = "nothing", True

    async def open(self) -> None:
        return None

    def prepare(self, inputs: object) -> None:
        return None

    async def send(self, prepared: object, budget_s: float) -> Response:
        return Response()

    def zombies(self) -> None:
        return None

    async def close(self) -> None:
        return None
