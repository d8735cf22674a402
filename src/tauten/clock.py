"""Real or virtual time, as float seconds on one monotonic line.

Everything that measures or waits asks a `Clock`; nothing else in the engine reads the time.
Under the virtual clock an hour of traffic runs in seconds and the same seed gives the same trace.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from time import monotonic
from typing import Any

Clock = Callable[[], float]

real: Clock = monotonic
"""Monotonic seconds; the very clock that asyncio and uvloop schedule by, and safe in any thread."""


ASKED = 256  # turns of a virtual loop without files of which one looks whether another thread has woken it


class _SkippingSelector(selectors.DefaultSelector):
    """A selector that never sleeps: it moves its loop's clock forward instead."""

    loop: VirtualLoop
    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        # a loop that has no file but its own waker is asked now and then: a call to the kernel costs a tenth of a hop
        asks = timeout is None or self.turns % ASKED == 0 or len(self.get_map()) > 1
        ready = super().select(0) if asks else []
        if not ready:
            if timeout is None:
                raise RuntimeError("virtual deadlock: nothing is scheduled and nobody can wake the loop")
            if timeout > 0:
                self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer: no sleep is slept.

    A loop with nothing left to wait for raises instead of hanging, which finds deadlocks.
    It cannot run threads, executors or processes: those live in real time.
    """

    def __init__(self) -> None:
        self.now = 0.0
        selector = _SkippingSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9  # asyncio fires timers due within this; real loops use the OS's

    def time(self) -> float:
        return self.now


def run_virtual(main: Any) -> Any:
    """Run the coroutine `main` on a fresh virtual loop and return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def in_ms(seconds: float) -> str:
    """Milliseconds as a person reads them: whole from 100 on, three figures below, to the microsecond.

    >>> in_ms(0.4121), in_ms(0.000382)
    ('412', '0.382')
    """
    ms = seconds * 1e3
    return f"{ms:.0f}" if ms >= 100 else f"{round(ms, 3):.3g}"
