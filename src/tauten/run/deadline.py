"""A request's one deadline: what stops its work when it passes, and the error that its caller sees.

The requests of a loop share one timer of it, set to the earliest of their deadlines: making and dropping a
timer costs as much as ten places in a heap, and hardly any is ever needed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from heapq import heapify, heappop, heappush
from typing import Any

from tauten.clock import in_ms
from tauten.errors import DeadlineExceeded
from tauten.run.request import Asked, Request


async def stoppable(request: Request, work: Any) -> Any:
    """Await a piece of work in the caller's task; where it was stopped from our side, raise why."""
    task = asyncio.current_task()
    assert task is not None  # engines run in tasks
    asked = task.cancelling()
    if request.failure is not None:
        if asyncio.iscoroutine(work):
            work.close()  # it never began
        raise request.failure
    request.task = task
    try:
        value = await work
    except BaseException as error:
        request.task = None
        if request.failure is not None and (task.cancelling() == asked or task.uncancel() <= asked):
            raise request.failure from (None if isinstance(error, asyncio.CancelledError) else error)
        request.cancelled = request.cancelled or isinstance(error, asyncio.CancelledError)
        raise
    request.task = None
    if request.failure is not None:  # its code swallowed the cancellation
        if task.cancelling() > asked:
            task.uncancel()
        raise request.failure
    return value


def arm(request: Asked) -> None:
    """Let the deadline stop the request from now on; one that has passed fails it at once."""
    if request.deadline == math.inf:
        return
    left = request.left()
    if not left > 0:
        request.failure = late(request)
        return
    loop = asyncio.get_running_loop()
    (_alarms.get(loop) or _alarm_of(loop)).add(request, left, loop)


def disarm(request: Asked) -> None:
    """The deadline stops nothing any more."""
    armed = request.armed
    if armed is not None:
        request.armed = armed[2] = None
        armed[3].dropped()


class _Alarm:
    """The deadlines of one loop's requests, the earliest first."""

    __slots__ = ("_count", "_dead", "_due", "_heap", "_timer")

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []  # [when, a number that orders equal ones, request or None, alarm]
        self._count = 0
        self._dead = 0  # places whose requests have ended
        self._due = math.inf  # when the timer fires
        self._timer: asyncio.TimerHandle | None = None

    def add(self, request: Asked, left: float, loop: asyncio.AbstractEventLoop) -> None:
        when = loop.time() + left
        self._count = count = self._count + 1
        request.armed = place = [when, count, request, self]
        heappush(self._heap, place)
        if when < self._due:
            self._set(when, loop)

    def dropped(self) -> None:
        """A request has ended; its place goes when the timer comes to it, or half of all are such."""
        self._dead = dead = self._dead + 1
        if dead > _TIDY and dead * 2 > len(self._heap):
            self._heap = [place for place in self._heap if place[2] is not None]
            heapify(self._heap)
            self._dead = 0

    def _set(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due, self._timer = when, loop.call_at(when, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop those whose deadline has passed; loops that round timers may fire early: look again."""
        self._due, self._timer = math.inf, None
        now = loop.time()
        while (heap := self._heap) and (heap[0][2] is None or heap[0][0] <= now):
            request = heappop(heap)[2]
            if request is None:
                self._dead -= 1
                continue
            left = request.left()
            if left > 0:  # it was given more time, or the timer was early
                self.add(request, left, loop)
            else:
                request.armed = None
                request.fail(late(request))
        if heap:
            self._set(heap[0][0], loop)


_alarms: dict[asyncio.AbstractEventLoop, _Alarm] = {}
_TIDY = 256  # places of ended requests that are left to lie: less than a sweep through all is worth


def _alarm_of(loop: asyncio.AbstractEventLoop) -> _Alarm:
    """A new loop's alarm; those of loops that are closed go."""
    for known in [each for each in _alarms if each.is_closed()]:
        del _alarms[known]
    return _alarms.setdefault(loop, _Alarm())


def late(request: Asked) -> DeadlineExceeded:
    """What the caller of a request sees whose deadline has passed."""
    budget_s = request.deadline - request.trace.start
    return DeadlineExceeded(
        f"the deadline of {in_ms(budget_s)} ms passed", help="allow more time, or tighten the plan"
    )
