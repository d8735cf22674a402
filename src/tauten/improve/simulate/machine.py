"""A machine in virtual time: work that runs side by side shares its cores and its memory bandwidth.

A run that was measured alone takes longer beside others. Threads beyond the cores get equal parts of them
(processor sharing, Kleinrock 1967); a run that waits for its own threads at each layer loses more than its part
where those are interrupted; and what moves memory slows down once all together ask for more than there is. Runs that are bound to processors share
only those; the others go where there is more room.
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

    __slots__ = ("_known", "_slowed", "running")

    def __init__(self, slowed: Callable[[int], float]) -> None:
        self._slowed = slowed  # times longer each of so many takes
        self._known: dict[int, float] = {}
        self.running = 0

    def slowed(self) -> float:
        """Times longer each of those that run takes."""
        found = self._known.get(self.running)
        if found is None:
            found = self._known[self.running] = self._slowed(self.running)
        return found


ANYWHERE: frozenset[int] = frozenset()  # bound to no processor


class Job:
    """Something that occupies a part of the machine until it is over."""

    __slots__ = ("engine", "left", "memory", "on", "over", "speed", "threads")

    def __init__(
        self,
        left: float,
        threads: int,
        memory: float,
        engine: Engine | None,
        over: Callable[[], object],
        on: frozenset[int] = ANYWHERE,
    ) -> None:
        self.engine = engine
        self.on = on  # the processors that it is bound to
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
        self._bound = 0  # of them
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
        on: frozenset[int] = ANYWHERE,
    ) -> Job:
        """Occupy `threads` cores for what takes so many seconds alone, and call back; `memory` is the share of them
        in which it waits for memory and not for arithmetic (0 to 1). Jobs of one `engine` occupy its threads
        together; one that is bound goes `on` some processors only, and takes longer where those are fewer."""
        loop = asyncio.get_running_loop()
        threads = min(threads, self.shared.cores)
        if on and len(on) < threads:
            seconds, threads = seconds * threads / len(on), len(on)
        job = Job(seconds, threads, memory, engine, over, on)
        self._bound += bool(on)
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
            self._leaves(job)
            self._retime(loop)

    async def work(
        self, seconds: float, threads: int = 1, memory: float = 0.0, engine: Engine | None = None
    ) -> None:
        """As `begin`, awaited."""
        if seconds <= 0.0 or self.passes(seconds, threads, memory, engine):
            return
        done = asyncio.get_running_loop().create_future()
        job = self.begin(seconds, partial(_settle, done), threads, memory, engine)
        try:
            await done
        except BaseException:
            self.stop(job)
            raise

    def passes(
        self, seconds: float, threads: int = 1, memory: float = 0.0, engine: Engine | None = None
    ) -> bool:
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

    def _leaves(self, job: Job) -> None:
        self._jobs.remove(job)
        self._bound -= bool(job.on)
        if job.engine is not None:
            job.engine.running -= 1

    def _share(self) -> None:
        if self._bound:
            self._share_bound()
            return
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
            slowed = job.memory or job.engine is not None or (part < 1.0 and job.threads > 1)
            job.speed = part / self._slow(job, part, stretch) if slowed else part

    def _share_bound(self) -> None:
        """As `_share`, where some are bound: the others go wherever there is more room, as far as there is, and each
        goes as fast as on the fullest processor that it needs."""
        loads = dict.fromkeys(frozenset[int]().union(*(job.on for job in self._jobs)), 0.0)
        loose = 0.0
        for job in self._jobs:
            own = _threads(job)
            for processor in job.on:
                loads[processor] += own / len(job.on)
            loose += 0.0 if job.on else own
        full = [*loads.values(), *[0.0] * (self.shared.cores - len(loads))]
        level = filled(full, loose)
        parts = [
            min(1.0, 1.0 / max([level, *(loads[processor] for processor in job.on)])) for job in self._jobs
        ]
        used = [_threads(job) * part for job, part in zip(self._jobs, parts, strict=True)]
        self._used = sum(used)
        stretch = self._stretch(sum(job.memory * own for job, own in zip(self._jobs, used, strict=True)))
        for job, part in zip(self._jobs, parts, strict=True):
            job.speed = part / self._slow(job, part, stretch)

    def _slow(self, job: Job, part: float, stretch: float) -> float:
        """Times longer a job takes than its part of the cores explains, where waits for memory are so many times
        longer."""
        slow = 1.0 + job.memory * (self._beside(job, stretch) - 1.0) if job.memory else 1.0
        if part < 1.0 and job.threads > 1:
            slow *= self.shared.interrupted
        if job.engine is not None:
            slow *= job.engine.slowed()
        return slow

    def _beside(self, job: Job, stretch: float) -> float:
        """Times longer a job's waits for memory take than alone, where its own threads were in one another's way."""
        return max(1.0, stretch / self._stretch(job.memory * job.threads))

    def _stretch(self, wanted: float) -> float:
        """Times longer a wait for memory takes, where so many cores wait for it at once: measured for two."""
        return 1.0 + (self.shared.crowded - 1.0) * max(0.0, wanted - 1.0)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._advance(loop.time())
        over = [job for job in self._jobs if job.left <= _DONE + 1e-9 * job.speed]
        self._ending = True
        for job in over:
            self._leaves(job)
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

    def passes(self, seconds: float) -> bool:
        """Whether nobody is there before it and nothing else could happen before it is over: then it is."""
        return not self._busy and self._machine.passes(seconds)

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


def _threads(job: Job) -> float:
    """That it occupies now: those of an engine are shared by its jobs."""
    return job.threads / job.engine.running if job.engine is not None else float(job.threads)


def filled(loads: list[float], more: float) -> float:
    """How high all processors are filled that have not as much already, where `more` is spread over them; 0.0 of
    nothing.

    >>> filled([1.0, 0.0], 1.0), filled([1.0, 0.0], 2.0), filled([0.0, 0.0], 1.0)
    (1.0, 1.5, 0.5)
    """
    if more <= 0.0:
        return 0.0
    level, below = 0.0, 0.0
    for count, load in enumerate(sorted(loads), start=1):
        if below + more <= load * (count - 1):
            break
        below += load
        level = (below + more) / count
    return level


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
