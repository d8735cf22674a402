"""Real or virtual time, as float seconds on one monotonic line.

Everything that measures or waits asks a `Clock`; nothing else in the engine reads the time.
Under the virtual clock an hour of traffic runs in seconds and the same seed gives the same trace.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Sized
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import Any, TypeVarTuple

Clock = Callable[[], float]
Ts = TypeVarTuple("Ts")

real: Clock = monotonic
"""Monotonic seconds; the very clock that asyncio and uvloop schedule by, and safe in any thread."""


ASKED = 256  # turns of a virtual loop without files of which one looks whether another thread has woken it
_SAME_S = 1e-9  # timers due within this fire together; real loops use the resolution of their clock
_TIDY = 128  # cancelled timers that are left to lie: less than a sweep through all is worth


class _Soon(asyncio.Handle):
    """A callback of the next turn, without what only a debugger reads: half of a simulation's time are hops."""

    __slots__ = ()
    _repr = None
    _source_traceback = None

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], loop: VirtualLoop, context: Context | None
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._cancelled = False
        self._context = copy_context() if context is None else context

    def cancel(self) -> None:
        self._cancelled = True


class _Later(asyncio.TimerHandle):
    """As `_Soon`, of an instant."""

    __slots__ = ()
    _repr = None
    _source_traceback = None

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._cancelled = self._scheduled = False
        self._context = copy_context() if context is None else context

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._loop.dropped(self)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer: no sleep is slept.

    A loop with nothing left to wait for raises instead of hanging, which finds deadlocks.
    It cannot run threads, executors or processes: those live in real time.
    Timers of one instant fire in the order in which they were set.
    """

    _ready: deque[asyncio.Handle]
    _stopping: bool
    _closed: bool
    _selector: selectors.BaseSelector

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(selectors.DefaultSelector())
        # what `get_map` looks into: asked each turn, its two calls would be a twentieth of a simulation's
        self._files: Sized = getattr(self._selector, "_fd_to_key", None) or self._selector.get_map()
        self._timers: list[tuple[float, int, _Later]] = []
        self._set = 0  # timers, ever
        self._dead = 0  # of those in the heap, cancelled ones
        self._turns = 0

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle = _Soon(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = self.call_soon(callback, *args, context=context)  # no lock: one operation of a deque
        self._write_to_self()  # type: ignore[attr-defined]  # wakes a loop that has nothing else to do
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        timer = _Later(when, callback, args, self, context)
        self._set = count = self._set + 1
        heappush(self._timers, (when, count, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def skips(self, seconds: float) -> bool:
        """Let time pass at once, where nothing is ready or due before its end; false where something is."""
        until = self.now + seconds
        if self._ready or self._stopping or len(self._files) > 1:
            return False
        if self._timers and self._timers[0][0] <= until + _SAME_S:
            return False
        self.now = until
        return True

    def dropped(self, _: asyncio.TimerHandle) -> None:
        """A timer was cancelled: its place goes when its time comes, or half of all are such."""
        self._dead = dead = self._dead + 1
        if dead > _TIDY and dead * 2 > len(self._timers):
            self._timers = [each for each in self._timers if not each[2]._cancelled]
            heapify(self._timers)
            self._dead = 0

    def _run_once(self) -> None:
        """Run what is ready, turn by turn, until somebody stops the loop."""
        ready = self._ready
        while True:
            self._turns = turns = self._turns + 1
            # a loop that has no file but its own waker is asked now and then: the kernel costs as much as a hop
            if turns % ASKED == 0 or len(self._files) > 1:
                self._ask()
            if not ready and not self._stopping:
                self._skip()
            self._due()
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    try:
                        handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:  # noqa: BLE001  # as every loop does
                        self.call_exception_handler(
                            {"message": f"Exception in callback {handle!r}", "exception": error}
                        )
            if self._stopping:
                return

    def _ask(self) -> bool:
        """Whether a file, or another thread, has something for us."""
        events = self._selector.select(0)
        self._process_events(events)  # type: ignore[attr-defined]
        return bool(events)

    def _skip(self) -> None:
        """Nothing is ready: on to the next timer."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
            self._dead -= 1
        if timers:
            self.now = max(self.now, timers[0][0])
        elif not self._ask() and not self._ready:
            raise RuntimeError("virtual deadlock: nothing is scheduled and nobody can wake the loop")

    def _due(self) -> None:
        """Timers whose time has come are ready."""
        timers, until = self._timers, self.now + _SAME_S
        while timers and timers[0][0] < until:
            timer = heappop(timers)[2]
            if timer._cancelled:
                self._dead -= 1
            else:
                self._ready.append(timer)


def run_virtual(main: Any, loop: Callable[[], VirtualLoop] = VirtualLoop) -> Any:
    """Run the coroutine `main` on a fresh virtual loop and return its result."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def in_ms(seconds: float) -> str:
    """Milliseconds as a person reads them: whole from 100 on, three figures below, to the microsecond.

    >>> in_ms(0.4121), in_ms(0.000382)
    ('412', '0.382')
    """
    ms = seconds * 1e3
    return f"{ms:.0f}" if ms >= 100 else f"{round(ms, 3):.3g}"
