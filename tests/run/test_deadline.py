"""The deadlines of a loop share one timer: each is still kept, and those of ended requests leave nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random

import pytest

from tauten.clock import VirtualLoop, run_virtual
from tauten.errors import DeadlineExceeded
from tauten.run import deadline
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.request import Request


async def _within(left_s: float, work_s: float) -> float:
    """Work for a while under a deadline; when it ended."""
    clock = asyncio.get_running_loop().time
    request = Request(clock)
    request.deadline = clock() + left_s
    arm(request)
    try:
        await stoppable(request, asyncio.sleep(work_s))
    except DeadlineExceeded:
        assert left_s < work_s
    else:
        assert work_s <= left_s
    finally:
        disarm(request)
    return clock()


def test_each_of_many_requests_is_stopped_at_its_own_deadline() -> None:
    """Deadlines in any order, some of them moved earlier than the timer that is set, some never due."""
    draw = random.Random(7)
    given = [(draw.uniform(0.001, 5.0), draw.uniform(0.001, 5.0)) for _ in range(400)]

    async def main() -> list[float]:
        return await asyncio.gather(*(_within(left, work) for left, work in given))

    ended = run_virtual(main())
    assert ended == pytest.approx([min(left, work) for left, work in given], abs=1e-6)


def test_a_deadline_that_was_moved_is_looked_at_again() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        request = Request(clock, deadline=1.0)
        arm(request)
        request.deadline = 3.0
        with pytest.raises(DeadlineExceeded):
            await stoppable(request, asyncio.sleep(10.0))
        disarm(request)
        return clock()

    assert run_virtual(main()) == pytest.approx(3.0)


def test_requests_that_ended_leave_no_places_behind() -> None:
    """A minute's budget, a thousand requests a second: nothing waits for the minute to end."""

    async def main() -> int:
        held = Request(asyncio.get_running_loop().time, deadline=60.0)
        arm(held)
        for _ in range(10_000):
            request = Request(held.clock, deadline=held.clock() + 60.0)
            arm(request)
            disarm(request)
            assert request.armed is None
        places = len(deadline._alarms[asyncio.get_running_loop()]._heap)
        with pytest.raises(DeadlineExceeded):
            await stoppable(held, asyncio.sleep(100.0))
        assert held.clock() == pytest.approx(60.0)
        return places

    assert run_virtual(main()) < 1000


def test_a_loop_that_is_closed_is_forgotten() -> None:
    for _ in range(3):
        run_virtual(_within(1.0, 0.1))
    assert sum(isinstance(loop, VirtualLoop) for loop in deadline._alarms) == 1
