"""How fast a machine is now, beside how fast it was when a search began: shared ones have quick and slow hours."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Final

from tauten.improve.measuring.prober import Slice

AROUND: Final = (
    4  # slices before and after what cannot be interrupted: their median bears two that were disturbed
)


class Pace:
    """Slices of the probe between measurements. `reference` is what a machine was when its pace was 1."""

    def __init__(self, probe: Callable[[], Slice], reference: Slice) -> None:
        self._probe = probe
        self._reference = reference
        self._compute: list[float] = []
        self._memory: list[float] = []

    def look(self, slices: int = 1) -> None:
        """Take some slices, about 35 ms each, while nothing else runs here; one before them, whose arrays others drove
        out of the caches, does not count."""
        self._probe()
        for _ in range(slices):
            found = self._probe()
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


def reference_of(probe: Callable[[], Slice]) -> Slice:
    """The median of some slices, to compare later ones with."""
    found = [probe() for _ in range(4 * AROUND)][1:]
    return Slice(
        statistics.median(each.compute for each in found), statistics.median(each.memory for each in found)
    )
