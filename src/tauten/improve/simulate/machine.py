"""A machine in virtual time: work that runs side by side shares its cores and its memory bandwidth.

A run that was measured alone takes longer beside others. Threads beyond the cores get equal parts of them
(processor sharing, Kleinrock 1967); a run that waits for its own threads at each layer loses more than its part
where those are interrupted; and what moves memory slows down once all together ask for more than there is.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

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


class _Job:
    __slots__ = ("done", "engine", "left", "memory", "speed", "threads")

    def __init__(
        self, left: float, threads: int, memory: float, engine: Engine | None, done: asyncio.Future[None]
    ) -> None:
        self.engine = engine
        self.left = left  # seconds, if it were alone
        self.threads = threads
        self.memory = memory
        self.speed = 1.0
        self.done = done


class Machine:
    """Takes jobs by the seconds that they last alone; they end when the others let them. One event loop."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.core_seconds = 0.0  # in which cores were busy
        self._used = 0.0  # cores, since `_at`
        self._jobs: list[_Job] = []
        self._at = 0.0  # when `left` was true
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def work(
        self, seconds: float, threads: int = 1, memory: float = 0.0, engine: Engine | None = None
    ) -> None:
        """Occupy `threads` cores for what takes so many seconds alone; `memory` is the share of them in which
        it waits for memory and not for arithmetic (0 to 1). Jobs of one `engine` occupy its threads together."""
        if seconds <= 0.0:
            return
        loop = self._loop = asyncio.get_running_loop()
        job = _Job(seconds, min(threads, self.shared.cores), memory, engine, loop.create_future())
        self._advance(loop.time())
        self._jobs.append(job)
        if engine is not None:
            engine.running += 1
        self._retime(loop)
        try:
            await job.done
        except BaseException:
            if job in self._jobs:
                self._advance(loop.time())
                self._jobs.remove(job)
                if engine is not None:
                    engine.running -= 1
                self._retime(loop)
            raise

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return len(self._jobs)

    def _advance(self, now: float) -> None:
        passed, self._at = now - self._at, now
        self.core_seconds += passed * self._used
        for job in self._jobs:
            job.left -= passed * job.speed

    def _retime(self, loop: asyncio.AbstractEventLoop) -> None:
        """After a change: how fast each goes, and when the first will be done."""
        jobs = self._jobs
        if not jobs:
            self._used = 0.0
            return
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
        if len(jobs) == 1:
            jobs[0].speed, self._used = 1.0, jobs[0].threads
            return
        threads, wanted = 0.0, 0.0
        for job in jobs:
            own = job.threads / job.engine.running if job.engine is not None else job.threads
            threads += own
            wanted += job.memory * own
        part = min(1.0, shared.cores / threads)
        self._used = min(threads, shared.cores)
        wanted *= part
        stretch = self._stretch(wanted)
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
        if over:
            self._jobs = [job for job in self._jobs if job.left > _DONE + 1e-9 * job.speed]
            for job in over:
                if job.engine is not None:
                    job.engine.running -= 1
                if not job.done.done():
                    job.done.set_result(None)
        self._retime(loop)
