"""The generator: sends what is due when it is due, whatever became of the requests before.

Open loop: nothing is skipped, delayed on purpose or moved; a request that is sent late counts from when it
was due. Closed loop: so many clients, each sending when its answer has come; it tells a throughput, and
hides every stall from its latencies (Tene's coordinated omission).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

from tauten.clock import Clock, real
from tauten.improve.load.samples import Sample, Samples
from tauten.improve.load.schedule import Schedule
from tauten.improve.load.target import Response, Target
from tauten.improve.load.timer import timer

Stop = Callable[[Sample], bool]

LEAD_S: Final = 0.02  # between making a schedule and its first request: the timer is armed by then
_ROUNDING_S: Final = 1e-9  # a float of a day of seconds is no finer; waiting for less would spin
_GIVEN_UP: Final = Response("timed_out", error="no answer in time", lost=True)
GRACE_S: Final = 1.0  # what a target gets to end a request that it was told to stop


class Generator:
    """One run of one schedule against one target. `items` are prepared requests; `stop` ends the run early.

    A request is given up `timeout_s` after it was due; `deadline_s`, if any, is told to the target.
    """

    def __init__(
        self,
        target: Target,
        items: Sequence[Any],
        *,
        clock: Clock = real,
        timeout_s: float = 60.0,
        deadline_s: float = math.inf,
        stop: Stop | None = None,
    ) -> None:
        self.target, self.items, self.clock = target, items, clock
        self.timeout_s, self.deadline_s, self.stop = timeout_s, deadline_s, stop
        self._tasks: set[asyncio.Task[None]] = set()
        self._start = 0.0
        self._samples = Samples(0.0)
        self._done = asyncio.Event()
        self._failure: BaseException | None = None
        self._next = 0
        self._counted = 0  # of a closed loop that has no duration: sent after its warm-up
        self._flying: dict[object, tuple[int, float, float]] = {}  # item, due and sent of each in flight

    # -- open loop --------------------------------------------------------------------------------------------

    async def open_loop(self, schedule: Schedule) -> Samples:
        """Send the whole schedule; returns when each request has ended, or was given up."""
        self._samples = Samples(schedule.window_s)
        self._start = self.clock() + LEAD_S + schedule.warm_up_s
        wake = timer(self.clock, lambda: self._send_due(schedule))
        self._wake = wake
        try:
            wake.arm(self._start + schedule.due[0])
            await self._done.wait()
            await self._settle()
        finally:
            wake.close()
            await self._cancel()
        return await self._finished()

    def _send_due(self, schedule: Schedule) -> None:
        due, items = schedule.due, schedule.items
        while self._next < len(due) and not self._done.is_set():
            at = self._start + due[self._next]
            if at > self.clock() + _ROUNDING_S:
                self._wake.arm(at)
                return
            self._begin(self._one(items[self._next], due[self._next]))
            self._next += 1
        self._done.set()

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error  # a bug of the target's adapter, not of a request
            self._done.set()

    async def _one(self, item: int, due: float | None) -> None:
        """One request: due at that time, or now (closed loop)."""
        sent = self.clock()
        from_s = sent if due is None else self._start + due
        key = object()
        self._flying[key] = (item, from_s, sent)
        response = _GIVEN_UP
        try:
            async with asyncio.timeout(from_s + self.timeout_s - sent):
                response = await self.target.send(self.items[item], from_s + self.deadline_s - sent)
        except TimeoutError:
            pass  # told by the response above
        if self._flying.pop(key, None) is not None:  # else the run is over, and it was counted as lost
            self._keep(item, from_s, sent, response)

    def _keep(self, item: int, due: float, sent: float, response: Response) -> None:
        end, outputs = self.clock() - self._start, response.outputs
        first = outputs[0] - self._start if outputs else None
        sample = Sample(
            item,
            due - self._start,
            sent - self._start,
            first,
            end,
            response.outcome,
            response.lost,
            response.tokens,
            response.wrong,
            response.unsent,
            sys.intern(response.error),  # thousands fail for one reason
        )
        self._samples.add(sample)
        if sample.due >= 0:
            self._samples.gaps += [later - earlier for earlier, later in pairwise(outputs)]
        if self.stop is not None and not self._done.is_set() and self.stop(sample):
            self._samples.stopped_early = True
            self._done.set()

    async def _settle(self) -> None:
        """Wait for what was sent; its own time limits end it."""
        if self._tasks and self._failure is None and not self._samples.stopped_early:
            await asyncio.wait(list(self._tasks), timeout=self.timeout_s + GRACE_S)

    async def _cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=GRACE_S)

    async def _finished(self) -> Samples:
        """Whatever will not stop is lost, and in the table; a run that was stopped early has no such."""
        if self._failure is not None:
            raise self._failure
        samples, left = self._samples, list(self._flying.values())
        self._flying.clear()
        for each in left if not samples.stopped_early else ():
            self._keep(*each, _GIVEN_UP)
        samples.zombies = self.target.zombies()
        if samples.zombies and not samples.stopped_early:
            await asyncio.sleep(0.1)  # the bound within which cancelled work has to stop
            samples.zombies = self.target.zombies()
        samples.measured.sort(key=lambda sample: sample.due)
        samples.warm_up.sort(key=lambda sample: sample.due)
        return samples

    # -- closed loop ------------------------------------------------------------------------------------------

    async def closed_loop(
        self, clients: int, order: Sequence[int], *, duration_s: float = 0.0, warm_up_s: float = -1.0
    ) -> Samples:
        """So many clients, each with one request in flight, for a time or until `order` has been sent once.

        They send for `warm_up_s` before that. Below 0 the first tenth of `order` is the warm-up; where there is a
        duration, nothing is.
        """
        self._start = self.clock() + max(0.0, warm_up_s)
        until = self._start + duration_s if duration_s else math.inf
        self._samples = samples = Samples(duration_s)
        try:
            await asyncio.gather(*(self._client(order, until) for _ in range(clients)))
        finally:
            await self._cancel()
        if not duration_s:
            _without_warm_up(samples, len(samples.measured) // 10 if warm_up_s < 0 else 0)
        return await self._finished()

    async def _client(self, order: Sequence[int], until: float) -> None:
        while not self._done.is_set() and (now := self.clock()) < until:
            if now >= self._start and math.isinf(until):
                if self._counted == len(order):
                    return
                self._counted += 1
            item = order[self._next % len(order)]
            self._next += 1
            await self._one(item, None)


def _without_warm_up(samples: Samples, cut: int) -> None:
    """The first so many of a run that has no duration are its warm-up; its window begins with the next request."""
    ordered = sorted(samples.measured, key=lambda sample: sample.sent)
    start = ordered[cut].sent if ordered else 0.0
    samples.measured = []
    for place, sample in enumerate(ordered):
        moved = sample._replace(due=sample.due - start, sent=sample.sent - start, end=sample.end - start)
        if moved.first is not None:
            moved = moved._replace(first=moved.first - start)
        (samples.warm_up if place < cut else samples.measured).append(moved)
    samples.window_s = max((sample.end for sample in samples.measured), default=0.0)
