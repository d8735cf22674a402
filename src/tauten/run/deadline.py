"""A request's one deadline: a timer that stops its work, and the error that its caller sees."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from typing import Any

from tauten.errors import DeadlineExceeded
from tauten.run.request import Request


async def stoppable(request: Request, work: Any) -> Any:
    """Await a piece of work in the caller's task; where it was stopped from our side, raise why."""
    task = asyncio.current_task()
    assert task is not None  # engines run in tasks
    asked = task.cancelling()
    try:
        if request.failure is not None:
            raise request.failure
        request.task = task
        value = await work
    except BaseException as error:
        request.task = None
        if request.failure is not None and (task.cancelling() == asked or task.uncancel() <= asked):
            raise request.failure from (None if isinstance(error, asyncio.CancelledError) else error)
        request.cancelled = request.cancelled or isinstance(error, asyncio.CancelledError)
        raise
    finally:
        request.task = None
        if asyncio.iscoroutine(work):
            work.close()
    if request.failure is not None:  # its code swallowed the cancellation
        if task.cancelling() > asked:
            task.uncancel()
        raise request.failure
    return value


def arm(request: Request) -> None:
    """Start the one timer of a request; a deadline that has passed fails it at once."""
    if request.deadline == math.inf:
        return
    if not request.left() > 0:
        request.failure = _late(request)
        return
    loop = asyncio.get_running_loop()
    request.timer = loop.call_at(loop.time() + request.left(), _expire, request)


def disarm(request: Request) -> None:
    """Stop the timer."""
    if request.timer is not None:
        request.timer.cancel()


def _expire(request: Request) -> None:
    left = request.left()
    if left > 0:  # loops that round timers may fire early: look again
        loop = asyncio.get_running_loop()
        request.timer = loop.call_at(loop.time() + left, _expire, request)
        return
    request.fail(_late(request))


def _late(request: Request) -> DeadlineExceeded:
    budget_ms = (request.deadline - request.trace.start) * 1e3
    return DeadlineExceeded(
        f"the deadline of {budget_ms:.0f} ms passed", help="allow more time, or tighten the plan"
    )
