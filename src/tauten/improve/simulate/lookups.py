"""Caches in virtual time: the real ones, whose lookups take what they were measured to take."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from typing import Any

from tauten.clock import Clock
from tauten.describe.payload import Media
from tauten.improve.simulate.machine import Machine
from tauten.plan.plan import CachePlan
from tauten.run.caches.memory import Memory
from tauten.run.caching.caches import Caches
from tauten.run.caching.place import Place
from tauten.run.contracts import Kept, Sought

LOOKUP_S = 25e-6  # of CPU time: `python bench/lookups.py` says 19 us here (two cores, busy); dearer is safer
APART_S = 5e3  # no load has such a pause, and a schedule of requests one by one (`optimizer/pricing.py`) has one of 1e4 s
NAMED_BYTES_S = 200e6  # of encoded media that are hashed a second: half of what that command said there


def lookup_s(values: Iterable[Any]) -> float:
    """Seconds to name these inputs and to look for them. Media are named anew for each step, which is dearer than
    what happens: a payload keeps its name."""
    return LOOKUP_S + sum(each.size_bytes for each in values if isinstance(each, Media)) / NAMED_BYTES_S


class TimedMemory(Memory):
    """A cache in memory on a simulated machine."""

    def __init__(self, size_bytes: int, machine: Machine) -> None:
        super().__init__(size_bytes)
        self._machine = machine

    async def get(self, sought: Sought) -> Kept | None:
        values = [getattr(each, "payload", each) for each in sought.inputs.values()]
        await self._machine.loop.work(lookup_s(values))
        return await super().get(sought)


class TimedCaches(Caches):
    """Caches of a simulation: results grow old by its clock, and what is by lot is drawn from its seed."""

    def __init__(self, machine: Machine, clock: Clock, seed: int) -> None:
        super().__init__(partial(TimedMemory, machine=machine), clock)
        self._seed = seed
        self._apart_s = 0.0

    def now(self) -> float:
        """Nobody outside reads it: it needs no date."""
        return self._clock() - self._apart_s

    def idle(self, seconds: float) -> None:
        """Nobody was there for so long. Where that is `APART_S` requests are simulated one by one, and what lies between
        them is nobody's time: nothing grows old in it."""
        if seconds >= APART_S:
            self._apart_s += seconds

    def take(
        self, holder: list[str], step: str, holds: str, size_bytes: int, rules: CachePlan | None = None
    ) -> Place | None:
        place = super().take(holder, step, holds, size_bytes, rules)
        if place is not None:
            place.draw = random.Random(f"{self._seed} {step} {holds}").random
        return place
