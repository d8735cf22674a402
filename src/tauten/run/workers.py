"""Dedicated threads for blocking work: preparation, user functions, lookups, decoding.

Never the loop's default executor: a hand-off here costs half as much, and its waiting is recorded.
A crew is a place of a request's path like a deployment: its queue is bounded, fair and ordered by slack, and
says how long one more would wait. Each job leaves three rows: queue (no thread was free), its cause, and loop
(the event loop was busy when the result was ready).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from tauten.clock import Clock, VirtualLoop, real
from tauten.errors import InternalError, TautenError
from tauten.run.deploy.estimates import Durations
from tauten.run.deploy.queueing import QUEUE_BOUND, ZOMBIE_S, Entry, Queued, View
from tauten.run.deploy.scheduling import queue_wait
from tauten.run.door.known_steps import step_of
from tauten.run.request import Asked
from tauten.run.trace import Trace

R = TypeVar("R")
LEARN_S, LEARN_ALL = (
    0.001,
    64,
)  # between jobs that teach, after the first ones: shorter ones come often enough


class Job(Entry):
    """One call on its way through a crew."""

    __slots__ = ("args", "context", "function", "future", "loop", "result")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], request: Asked, queued: float
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        Entry.__init__(self, request, 1.0, queued, self.future)
        self.function: Callable[..., Any] | None = function
        self.args = args
        self.context: contextvars.Context | None = contextvars.copy_context()
        self.result: Any = None

    def call(self) -> Any:
        """Call the function where it was asked for: with the surroundings of its request."""
        context, function = self.context, self.function
        assert context is not None  # it has not been forgotten
        assert function is not None
        return context.run(function, *self.args)

    def forget(self) -> None:
        """Nobody waits for it: what it was about goes, though the queue may keep its place for a while."""
        self.function = self.context = self.result = None
        self.args = ()

    def outcome(self) -> Any:
        """What it gave; raises what it failed with."""
        if self.error is not None:
            raise self.error
        return self.result

    def write(self, trace: Trace, step: str, place: str, cause: str, back: float) -> None:
        """Where its time went, as rows, and what was asked of which place; `back` is when its request had it."""
        rows = trace.rows
        if self.taken:  # by a thread: else it took no time at all
            rows.append((step, "queue", self.queued, self.started))
            rows.append((step, "loop", self.ended, back))
        rows.append((step, cause, self.started, self.ended))
        trace.calls.append((step, place, self.queued, self.started, self.ended, back))


class Hand:
    """What a thread of a crew does with a job: it calls it."""

    patience_s = math.inf  # from when a request left until the job that runs for it is stopped

    def work(self, job: Job) -> Any:
        """The job's result. May correct when it began and ended, where it was done elsewhere."""
        return job.call()

    def stop(self) -> None:
        """End the present job, for which nobody waits; called on the loop."""

    def interrupt(self) -> None:
        """End what can be ended: the crew closes."""

    def close(self) -> None:
        """Free what the hand holds."""


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


class Workers(Queued):
    """`count` threads, started with the first job, that run blocking functions, the most urgent one first.

    In virtual time there are no threads: a function that has a `duration` (of the same arguments, in seconds)
    waits for its turn and takes so long; one that has `spend` (given what to call back, and the same arguments)
    until that is over; any other takes no time.
    """

    kind = "workers"

    def __init__(
        self,
        count: int,
        name: str,
        clock: Clock = real,
        *,
        bound: int = QUEUE_BOUND,
        make: Callable[[], Hand] = Hand,
    ) -> None:
        super().__init__(name, clock, bound)
        self.durations = Durations()
        self._hands = [make() for _ in range(count)]
        self._now: list[Job | None] = [None] * count  # what each of them works at
        self._lock = threading.RLock()  # of the queue and of `_now`, which the threads change as well
        self._turns: SimpleQueue[_Cleanup | bool] = SimpleQueue()  # True is a turn, False the end
        self._threads: list[threading.Thread] = []

    async def run(self, request: Asked, step: str, cause: str, function: Callable[..., R], *args: Any) -> R:
        """Run `function(*args)` in a thread and return its result; raises what it raises.

        Raises Overloaded where too many wait, or the deadline could not be met.
        """
        job = self._admitted(request, step, function, args)
        await self._wait(job)
        job.write(request.trace, step, self.label, cause, self.clock())
        return job.outcome()  # type: ignore[no-any-return]

    async def finish(self, request: Asked, step: str, cause: str, function: Callable[..., object]) -> None:
        """As `run`, of what ends a work that was begun: it is not refused."""
        job = Job(function, (), request, self.clock())
        await self._wait(job)
        job.write(request.trace, step, self.label, cause, self.clock())
        job.outcome()

    async def call(self, request: Asked, step: str, function: Callable[..., Any], *args: Any) -> Job:
        """As `run`; gives the job, which is over, and writes no rows."""
        job = self._admitted(request, step, function, args)
        await self._wait(job)
        return job

    async def _wait(self, job: Job) -> None:
        """Let a job wait for its turn, and until it is over."""
        if self.closed:
            raise self.closed_error()
        virtual = isinstance(job.loop, VirtualLoop)
        if virtual and not (hasattr(job.function, "duration") or hasattr(job.function, "spend")):
            self._do(_HERE, job)
            return
        with self._lock:
            self.queue.push(job)
        if virtual:
            self._simulate()
        else:
            self._start()
            self._turns.put(True)
        try:
            await job.future
        except BaseException:
            self._leave(job)
            raise

    def later(self, function: Callable[..., object], *args: Any) -> None:
        """Run a clean-up in a thread without waiting for it; what it raises goes to the thread's hook."""
        if self.closed:
            raise self.closed_error()
        self._start()
        self._turns.put(_Cleanup(function, args))

    # -- the door --------------------------------------------------------------------------------------------

    def _admitted(
        self, request: Asked, step: str, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> Job:
        job = Job(function, args, request, self.clock())
        with self._lock:
            self._check(request, step, job)
        return job

    def _check(self, request: Asked, step: str, job: Job) -> None:
        """Order a job by what is left to its request; refuse it where that is too little, or no place is free."""
        now = job.queued
        if self.queue.live >= self.bound:
            self._check_room(request, self.bound)
        if request.coming:
            self.came(request)
        if request.priority or request.tenant or self._mixed:
            self._mixed = True
            self._note(request, self.durations.expected(1) / len(self._hands), now)
        if request.deadline == math.inf:
            return
        own_s = self.durations.expected(1)
        if request.after:
            job.after = request.after.get(step_of(step), 0.0)
        job.due = job.target - own_s - job.after
        if not request.admitted and self._known(now):
            self._check_time(request, job, own_s, now)
        elif job.due > self._latest:
            self._latest = job.due

    def _leave(self, job: Job) -> None:
        """Its request ended before it: what waits goes at once, what runs may be stopped after a while."""
        now = self.clock()
        if now >= job.deadline:
            self._was_late(job)
        with self._lock:
            if job.taken:
                job.left = now
                if job in self._now and (patience_s := self._hands[0].patience_s) < math.inf:
                    job.loop.call_later(patience_s, self._stop, job)
            elif job.error is None:  # else it left the queue when it was given up
                job.forget()
                self.queue.left(job)

    def _stop(self, job: Job) -> None:
        with self._lock:  # so that it cannot hit the next one
            if job in self._now:
                self._hands[self._now.index(job)].stop()

    # -- the threads -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        for place in range(len(self._threads), len(self._hands)):
            name = f"tauten-{self.label}-{place}"
            thread = threading.Thread(target=self._serve, args=(place,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, place: int) -> None:
        hand = self._hands[place]
        while turn := self._turns.get():
            if isinstance(turn, _Cleanup):
                turn.run()
            elif (job := self._take(place)) is not None:
                self._do(hand, job)
                self._free(place)
                wake(job.loop, partial(self._over, job))
                del job  # or an idle thread would keep the last picture alive
        hand.close()

    def _take(self, place: int) -> Job | None:
        """The job whose turn it is; None where those who left had the last ones, or all have been refused."""
        with self._lock:
            if self.closed:
                return None
            job: Job | None = self.queue.pop()
            if job is not None:
                job.taken = True
                job.started = self.clock()
                self._now[place] = job
            return job

    def _do(self, hand: Hand, job: Job) -> None:
        try:
            job.result = hand.work(job)
        except BaseException as error:  # noqa: BLE001  # handed to the waiting task, which raises it
            job.error = error
        if job.ended <= job.started:
            job.ended = self.clock()

    def _free(self, place: int) -> None:
        with self._lock:
            self._now[place] = None

    def _over(self, job: Job) -> None:
        """On the loop: a job has been done."""
        self.done += 1
        durations, ended = self.durations, job.ended
        if job.error is None and (ended - durations.last > LEARN_S or durations.runs < LEARN_ALL):
            durations.observe(1, 1.0, ended - job.started, ended)
        if job.left:
            job.forget()
        elif self._margins[job.priority].value > 1.0:
            self._was_in_time(job)
        job.settle()

    def _simulate(self) -> None:
        """In virtual time: who is free takes the next job."""
        for place, busy in enumerate(self._now):
            if busy is None and (job := self._take(place)) is not None:
                function: Any = job.function
                if hasattr(function, "spend"):
                    function.spend(partial(self._simulated, place, job), *job.args)
                else:
                    job.loop.call_later(function.duration(*job.args), self._simulated, place, job)

    def _simulated(self, place: int, job: Job) -> None:
        self._do(_HERE, job)
        self._free(place)
        self._over(job)
        self._simulate()

    # -- predictions -----------------------------------------------------------------------------------------

    def wait_s(self, priority: int, now: float, coming: int = 0, tenant: str | None = None) -> float:
        with self._lock:
            return super().wait_s(priority, now, coming, tenant)

    def _usual_s(self) -> float:
        return 0.0  # nothing of its own was added

    def _known(self, now: float) -> bool:
        """Old estimates hold while every thread works: what runs will soon say better."""
        durations = self.durations
        return durations.fresh(now) or (durations.settled and None not in self._now)

    def _wait_for(self, ahead: int, now: float) -> float:
        idle = self._now.count(None)
        if ahead < idle:
            return 0.0
        durations = self.durations
        each_s = durations.expected(1)
        begun = [job.started for job in self._now if job is not None]
        # one that is overdue is taken to last as long again as it is late
        first_free_s = 0.0 if idle else min([abs(started + each_s - now) for started in begun])
        return queue_wait(ahead - idle, 1, len(self._hands), each_s, first_free_s, durations.high - 1.0)

    def zombies(self) -> int:
        """Jobs that still run for requests that ended more than 100 ms ago."""
        late = self.clock() - ZOMBIE_S
        with self._lock:
            return sum(job is not None and 0.0 < job.left < late for job in self._now)

    def view(self) -> View:
        """What metrics show of it, as of any deployment."""
        now = self.clock()
        with self._lock:
            count, idle = len(self._now), self._now.count(None)
            quantiles_ms = self.durations.quantiles_ms()
            return self._view(count - idle, count, idle, quantiles_ms, lambda: self.wait_s(0, now))

    # -- the end ---------------------------------------------------------------------------------------------

    def closed_error(self) -> TautenError:
        """What those are told who come too late."""
        return InternalError(f"workers '{self.label}' are closed")

    @property
    def started(self) -> bool:
        """Whether there are threads to wait for."""
        return bool(self._threads)

    def close(self, within_s: float | None = 5.0) -> None:
        """Fail what waits and stop the threads after what they run; may be called twice.

        A blocking user function may take longer than `within_s` and outlives us: its thread is a daemon.
        """
        with self._lock:
            self.closed = True
            waiting = list(self.queue)
            for job in waiting:
                job.error = self.closed_error()
                self.queue.left(job)
        for job in waiting:
            wake(job.loop, job.settle)
        for hand in self._hands:
            hand.interrupt()
        threads, self._threads = self._threads, []
        for _ in threads:
            self._turns.put(False)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout=within_s)


_HERE = Hand()


async def in_thread(function: Callable[..., R], *args: Any) -> R:
    """Run a rare, long, blocking call (a download, a shutdown) in a thread of its own.

    Works while the interpreter ends, when executors take no more work.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        return function(*args)  # threads do not exist in virtual time
    over: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    call = partial(contextvars.copy_context().run, function, *args)
    threading.Thread(target=_call_once, args=(call, over), name="tauten-once", daemon=True).start()
    result, error = await over
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _call_once(call: Callable[[], Any], over: asyncio.Future[tuple[Any, BaseException | None]]) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = call()
    except BaseException as caught:  # noqa: BLE001  # handed to the waiting task, which raises it
        error = caught

    def settle() -> None:
        if not over.done():
            over.set_result((result, error))

    wake(over.get_loop(), settle)


def wake(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call back on a loop from a thread; a loop that was closed meanwhile waits for nobody."""
    if loop.is_closed():
        return
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if not loop.is_closed():  # closed between the look and the call: nothing waits any more
            raise
