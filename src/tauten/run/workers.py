"""Dedicated threads for blocking work: preparation, user functions, lookups.

Never the loop's default executor: a hand-off here costs half as much, and its waiting is recorded.
Each job leaves three rows: queue (no thread was free), its cause, and loop (the event loop was busy when
the result was ready).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from tauten.clock import Clock, VirtualLoop, real
from tauten.errors import InternalError
from tauten.run.trace import Trace

R = TypeVar("R")
_ZOMBIE_S = 0.1  # work for a request that has ended counts from here on


class _Job:
    __slots__ = ("args", "context", "ended", "error", "function", "future", "loop", "result", "started")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.context = contextvars.copy_context()
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.started = self.ended = 0.0

    def run(self, clock: Clock) -> None:
        self.started = clock()
        try:
            self.result = self.context.run(self.function, *self.args)
        except BaseException as error:  # noqa: BLE001  # handed to the waiting task, which raises it
            self.error = error
        self.ended = clock()

    def settle(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Cleanup:
    __slots__ = ("args", "function")

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args

    def run(self) -> None:
        try:
            self.function(*self.args)
        except Exception:  # noqa: BLE001  # nobody waits; a failing clean-up must not end the thread
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


class Workers:
    """`count` threads that run blocking functions in the order they came."""

    def __init__(self, count: int, name: str, clock: Clock = real) -> None:
        self._clock = clock
        self._count = count
        self._name = name
        self._queue: SimpleQueue[_Job | _Cleanup | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._left: dict[_Job, float] = {}  # jobs in a thread whose request ended, and when
        self._closed = False

    async def run(self, trace: Trace, step: str, cause: str, function: Callable[..., R], *args: Any) -> R:
        """Run `function(*args)` in a thread and return its result; raises what it raises."""
        job = _Job(function, args)
        asked = self._clock()
        if isinstance(job.loop, VirtualLoop):
            job.run(self._clock)  # threads do not exist in virtual time
        else:
            self._start()
            self._queue.put(job)
            try:
                await job.future
            except asyncio.CancelledError:
                self._forget()
                if job.started and not job.ended:
                    self._left[job] = self._clock()
                raise
            rows = trace.rows
            rows.append((step, "queue", asked, job.started))
            rows.append((step, "loop", job.ended, self._clock()))
        trace.rows.append((step, cause, job.started, job.ended))
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[no-any-return]

    def _forget(self) -> None:
        """Drop those that have ended meanwhile."""
        self._left = {job: when for job, when in self._left.items() if not job.ended}

    def zombies(self) -> int:
        """Jobs that still run for requests that ended more than 100 ms ago."""
        self._forget()
        late = self._clock() - _ZOMBIE_S
        return sum(1 for when in self._left.values() if when < late)

    def later(self, function: Callable[..., object], *args: Any) -> None:
        """Run a clean-up in a thread without waiting for it; what it raises goes to the thread's hook."""
        self._start()
        self._queue.put(_Cleanup(function, args))

    def _start(self) -> None:
        if self._closed:
            raise InternalError(f"workers '{self._name}' are closed")
        while len(self._threads) < self._count:
            thread = threading.Thread(
                target=self._serve, name=f"tauten-{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            if isinstance(job, _Cleanup):
                job.run()
                continue
            if job.future.cancelled():
                continue  # the request left while this waited
            job.run(self._clock)
            wake(job.loop, job.settle)

    def close(self) -> None:
        """Stop the threads after the jobs they hold; may be called twice."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5.0)  # a blocking user function may outlive us; the thread is a daemon
        self._threads.clear()


async def in_thread(function: Callable[..., R], *args: Any) -> R:
    """Run a rare, long, blocking call (a download, a shutdown) in a thread of its own.

    Works while the interpreter ends, when executors take no more work.
    """
    job = _Job(function, args)

    def serve() -> None:
        job.run(real)
        wake(job.loop, job.settle)

    if isinstance(job.loop, VirtualLoop):
        job.run(real)  # threads do not exist in virtual time
    else:
        threading.Thread(target=serve, name="tauten-once", daemon=True).start()
        await job.future
    if job.error is not None:
        raise job.error
    return job.result  # type: ignore[no-any-return]


def wake(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call back on a loop from a thread; a loop that was closed meanwhile waits for nobody."""
    if loop.is_closed():
        return
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if not loop.is_closed():  # closed between the look and the call: nothing waits any more
            raise
