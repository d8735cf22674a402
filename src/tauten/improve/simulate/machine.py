"""A machine in virtual time: work that runs side by side shares its cores and its memory bandwidth.

A run that was measured alone takes longer beside others. Threads beyond the cores get equal parts of them
(processor sharing, Kleinrock 1967); a run that waits for its own threads at each layer loses more than its part
where those are interrupted; and what moves memory slows down once all together ask for more than there is.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from tauten.clock import VirtualLoop
from tauten.plan.peaks import Peaks

_DONE = 1e-12  # seconds: less than this is rounding


class Shared(msgspec.Struct, frozen=True):
    """What jobs share, as measured once on the machine that a plan is for."""

    cores: int
    interrupted: float = (
        1.0  # times longer a job of several threads takes than its part of the cores explains
    )
    # times longer two jobs take that both live from memory alone, one core each; 1: the bandwidth is for both
    crowded: float = 1.0


def shared_of(peaks: Peaks) -> Shared:
    """What jobs share on the machine whose peaks were measured.

    Two jobs with all cores each get half of them, which makes them twice as long: what they were longer than that,
    they were interrupted. Two that copy, a core each, have all they need but bandwidth. Where nothing was measured,
    neither costs anything.
    """
    cores = peaks.hardware.cores
    split = peaks.slowdown("compute", "compute", cores) if cores > 1 else None
    copying = peaks.slowdown("memory", "memory", 1) if cores > 1 else None
    return Shared(
        cores,
        interrupted=max(1.0, split / 2.0) if split is not None else 1.0,
        crowded=max(1.0, copying) if copying is not None else 1.0,
    )


class Engine:
    """One that batches what it is given by itself: its jobs share its threads, and slow one another."""

    __slots__ = ("running", "slowed")

    def __init__(self, slowed: Callable[[int], float]) -> None:
        self.slowed = slowed  # times longer each of so many takes
        self.running = 0


class Job:
    """Something that occupies a part of the machine until it is over."""

    __slots__ = ("engine", "left", "memory", "over", "speed", "threads")

    def __init__(
        self,
        left: float,
        threads: int,
        memory: float,
        engine: Engine | None,
        over: Callable[[], object],
    ) -> None:
        self.engine = engine
        self.left = left  # seconds, if it were alone
        self.threads = threads
        self.memory = memory
        self.speed = 1.0
        self.over = over  # called when it is


class Machine:
    """Takes jobs by the seconds that they last alone; they end when the others let them. One event loop, which is a
    thread of this machine too."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.core_seconds = 0.0  # in which cores were busy
        self._used = 0.0  # cores, since `_at`
        self._jobs: list[Job] = []
        self._at = 0.0  # when `left` was true
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False  # jobs: who hears of it may begin others
        self.loop = Thread(self)  # where the code of all steps runs

    def begin(
        self,
        seconds: float,
        over: Callable[[], object],
        threads: int = 1,
        memory: float = 0.0,
        engine: Engine | None = None,
    ) -> Job:
        """Occupy `threads` cores for what takes so many seconds alone, and call back; `memory` is the share of them
        in which it waits for memory and not for arithmetic (0 to 1). Jobs of one `engine` occupy its threads
        together."""
        loop = asyncio.get_running_loop()
        job = Job(seconds, min(threads, self.shared.cores), memory, engine, over)
        self._advance(loop.time())
        self._jobs.append(job)
        if engine is not None:
            engine.running += 1
        if not self._ending:
            self._retime(loop)
        return job

    def stop(self, job: Job) -> None:
        """Who waited for it left: what runs gives its part back."""
        if job in self._jobs:
            loop = asyncio.get_running_loop()
            self._advance(loop.time())
            self._jobs.remove(job)
            if job.engine is not None:
                job.engine.running -= 1
            self._retime(loop)

    async def work(
        self, seconds: float, threads: int = 1, memory: float = 0.0, engine: Engine | None = None
    ) -> None:
        """As `begin`, awaited."""
        if seconds <= 0.0 or self._passed(seconds, threads, memory, engine):
            return
        done = asyncio.get_running_loop().create_future()
        job = self.begin(seconds, partial(_settle, done), threads, memory, engine)
        try:
            await done
        except BaseException:
            self.stop(job)
            raise

    def _passed(self, seconds: float, threads: int, memory: float, engine: Engine | None) -> bool:
        """Let the time of a job that meets nobody pass at once, where nothing else can happen before its end."""
        loop = asyncio.get_running_loop()
        meets = self._jobs and (memory > 0.0 or engine or self._used + threads > self.shared.cores)
        if meets or self._ending or not isinstance(loop, VirtualLoop) or not loop.skips(seconds):
            return False
        self._advance(loop.time())
        self.core_seconds += seconds * min(threads, self.shared.cores)
        return True

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return len(self._jobs)

    def _advance(self, now: float) -> None:
        passed = now - self._at
        if passed:
            self._at = now
            self.core_seconds += passed * self._used
            for job in self._jobs:
                job.left -= passed * job.speed

    def _retime(self, loop: asyncio.AbstractEventLoop) -> None:
        """After a change: how fast each goes, and when the first will be done."""
        jobs = self._jobs
        if not jobs:
            self._used = 0.0
            return
        if len(jobs) == 1:
            job = jobs[0]
            job.speed, self._used = 1.0, job.threads
            due = self._at + job.left
        else:
            self._share()
            due = self._at + min([job.left / job.speed for job in jobs])
        timer = self._timer
        if timer is not None:
            if timer.when() <= due:
                return  # it looks again
            timer.cancel()
        self._timer = loop.call_at(due, self._end, loop)

    def _share(self) -> None:
        jobs, shared = self._jobs, self.shared
        threads, wanted = 0.0, 0.0
        for job in jobs:
            own = job.threads / job.engine.running if job.engine is not None else job.threads
            threads += own
            wanted += job.memory * own
        part = min(1.0, shared.cores / threads)
        self._used = min(threads, shared.cores)
        stretch = self._stretch(wanted * part)
        for job in jobs:
            slow = 1.0 - job.memory + job.memory * stretch
            if part < 1.0 and job.threads > 1:
                slow *= shared.interrupted
            if job.engine is not None:
                slow *= job.engine.slowed(job.engine.running)
            job.speed = part / slow

    def _stretch(self, wanted: float) -> float:
        """Times longer a wait for memory takes, where so many cores wait for it at once: measured for two."""
        return 1.0 + (self.shared.crowded - 1.0) * max(0.0, wanted - 1.0)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._advance(loop.time())
        over = [job for job in self._jobs if job.left <= _DONE + 1e-9 * job.speed]
        self._ending = True
        for job in over:
            self._jobs.remove(job)
            if job.engine is not None:
                job.engine.running -= 1
        try:
            for job in over:
                job.over()
        finally:
            self._ending = False
            self._retime(loop)


class Thread:
    """Does one thing after the other, on one core: an event loop, and whatever holds the interpreter's lock."""

    __slots__ = ("_busy", "_machine", "_waiting")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._busy = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def work(self, seconds: float) -> None:
        """Wait for one's turn, and take so long."""
        if self._busy:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if not turn.cancelled():
                    self._next()  # it came as who waited left
                raise
        self._busy = True
        try:
            await self._machine.work(seconds)
        finally:
            self._next()

    def _next(self) -> None:
        self._busy = False
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy = True
                turn.set_result(None)
                return


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
