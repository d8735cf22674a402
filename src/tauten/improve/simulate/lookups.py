"""Caches in virtual time: the real ones, whose lookups take what they were measured to take."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tauten.describe.payload import Media
from tauten.improve.simulate.machine import Machine
from tauten.run.caches.memory import Memory
from tauten.run.contracts import Kept, Sought

LOOKUP_S = 25e-6  # of CPU time: `python bench/lookups.py` says 19 us here (two cores, busy); dearer is safer
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
