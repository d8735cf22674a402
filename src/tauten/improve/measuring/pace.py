"""How fast a machine is now, beside how fast it was when a search began: shared ones have quick and slow hours."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import statistics
from typing import Final

import msgspec

from tauten.improve.measuring.prober import Slice
from tauten.improve.measuring.process import Measurer, started
from tauten.improve.measuring.profile import TIMEOUT_S
from tauten.run.ambient import shared

AROUND: Final = (
    4  # slices before and after what cannot be interrupted: their median bears two that were disturbed
)


class Pace:
    """Slices of the probe between measurements, from a process of their own, where arithmetic takes one thread.
    `reference` is what the machine was when its pace was 1."""

    def __init__(self, measurer: Measurer, reference: Slice) -> None:
        self._measurer = measurer
        self._reference = reference
        self._compute: list[float] = []
        self._memory: list[float] = []

    def begin(self) -> None:
        """A measurement begins: slices that nobody has asked for are of one that failed."""
        self._compute, self._memory = [], []

    def look(self, slices: int = 1) -> None:
        """Take some slices, about 35 ms each, while nothing else runs here; one before them, whose arrays others drove
        out of the caches, does not count. Raises BackendError where their process has ended."""
        for found in _slices(self._measurer, slices):
            self._compute.append(found.compute / self._reference.compute)
            self._memory.append(found.memory / self._reference.memory)

    def taken(self) -> float:
        """Times the reference's speed, in the median since it was asked last; 1.0 without a slice.

        Arithmetic and copying count alike (their geometric mean): models live from both.
        """
        compute, memory, self._compute, self._memory = self._compute, self._memory, [], []
        if not compute:
            return 1.0
        return math.sqrt(statistics.median(compute) * statistics.median(memory))

    def close(self) -> None:
        """Let the process go, and its 256 MiB."""
        shared().block(self._measurer.end())


def opened() -> Measurer:
    """A process that gives slices. Raises MachineError."""
    process: Measurer = shared().block(started())
    return process


def reference_of(measurer: Measurer) -> Slice:
    """The median of some slices, to compare later ones with."""
    found = _slices(measurer, 4 * AROUND)
    return Slice(
        statistics.median(each.compute for each in found), statistics.median(each.memory for each in found)
    )


def _slices(measurer: Measurer, count: int) -> list[Slice]:
    """So many, after one that does not count; whoever asks is held up, on an event loop, too."""
    asked = (shared().block(measurer.ask({"probe": True}, TIMEOUT_S)) for _ in range(count + 1))
    return [msgspec.convert(each, Slice) for each in asked][1:]
