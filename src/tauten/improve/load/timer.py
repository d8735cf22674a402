"""Wakes an event loop at a time: to tens of microseconds on Linux, where loops alone round to 1 ms."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol

from tauten.clock import Clock, real

_MONOTONIC: Final = 1  # CLOCK_MONOTONIC, the line of `clock.real`
_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else 0


class Timer(Protocol):
    """Calls one function, on the loop, soon after the time it was armed with; never long before."""

    def arm(self, at: float) -> None: ...
    def close(self) -> None: ...


class LoopTimer:
    """The loop's own timers: exact on the virtual clock, within a millisecond on a real one."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock, self._wake = clock, wake
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at: float) -> None:
        self._handle = self._loop.call_later(max(0.0, at - self._clock()), self._wake)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class KernelTimer:
    """A Linux timerfd: epoll waits in whole milliseconds, a descriptor wakes it at the nanosecond."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(_MONOTONIC, _FLAGS)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._ready)

    def arm(self, at: float) -> None:
        nanoseconds = max(1, int(at * 1e9))  # 0 would disarm it
        value = (ctypes.c_long * 4)(0, 0, nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000)
        self._libc.timerfd_settime(self._file, _ABSOLUTE, value, None)

    def _ready(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # armed anew between the wake-up and now
            return
        self._wake()

    def close(self) -> None:
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1


def timer(clock: Clock, wake: Callable[[], None]) -> Timer:
    """The finest timer that there is for this clock."""
    if clock is real and sys.platform == "linux" and ctypes.sizeof(ctypes.c_long) == 8:
        return KernelTimer(wake)
    return LoopTimer(clock, wake)
