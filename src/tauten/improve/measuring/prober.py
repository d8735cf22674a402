"""The probe: a fixed mixture of arithmetic and copying on one core, in slices that fit between measurements.

The same work on every machine, so that its speed says how two machines, or two hours of one, compare. It needs
a process in which numpy computes in one thread.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from tauten.clock import Clock, real
from tauten.plan.peaks import Probe

PROBE_S = 2.0  # some sixty slices: their median moves by a percent or two on a quiet machine
_SIDE = 384  # three matrices of 0.6 MB: they stay in a second-level cache of today
_PRODUCTS = 8  # about 10 ms of arithmetic a slice
_COPY_BYTES = 128 << 20  # beyond what one core sees of a last cache; about 25 ms


class Slice(msgspec.Struct, frozen=True):
    """One slice's speeds, as in `Probe`."""

    compute: float
    memory: float


class Prober:
    """The arrays of the mixture, and its slices. Holds 256 MiB."""

    def __init__(self, clock: Clock = real) -> None:
        import numpy as np

        self._clock = clock
        self._copy: Any = np.copyto
        self._left = np.linspace(-1.0, 1.0, _SIDE * _SIDE, dtype=np.float32).reshape(_SIDE, _SIDE)
        self._product = np.empty_like(self._left)
        self._multiply: Any = np.matmul
        self._from = np.ones(_COPY_BYTES // 4, dtype=np.float32)
        self._to = np.zeros_like(self._from)
        self.slice()  # pages are touched, the library is loaded

    def slice(self) -> Slice:
        """About 35 ms of work."""
        began = self._clock()
        for _ in range(_PRODUCTS):
            self._multiply(self._left, self._left, out=self._product)
        between = self._clock()
        self._copy(self._to, self._from)
        end = self._clock()
        flops, moved = _PRODUCTS * 2.0 * _SIDE**3, 2.0 * _COPY_BYTES
        return Slice(flops / max(between - began, 1e-9) / 1e9, moved / max(end - between, 1e-9) / 1e9)


def probe_of(slices: Sequence[Slice]) -> Probe:
    """The median of each speed; of one slice at least.

    >>> probe_of([Slice(90.0, 9.0), Slice(100.0, 10.0), Slice(20.0, 10.5)])
    Probe(compute=90.0, memory=10.0)
    """
    return Probe(
        statistics.median(each.compute for each in slices), statistics.median(each.memory for each in slices)
    )
