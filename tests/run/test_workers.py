"""Dedicated threads: results, errors, rows, leavers, closing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.errors import InternalError
from tauten.run.request import Request
from tauten.run.workers import Workers, in_thread

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")


def with_workers(count: int, body: Callable[[Workers, Request], Awaitable[Any]]) -> None:
    async def main() -> None:
        before = set(threading.enumerate())
        workers = Workers(count, "test")
        await body(workers, Request())
        workers.close()
        workers.close()
        assert set(threading.enumerate()) <= before
        with pytest.raises(InternalError, match="closed"):
            await workers.run(Request(), "s", "user", int)

    asyncio.run(main())


def test_results_errors_context_and_rows() -> None:
    def fails() -> None:
        raise KeyError("no")

    async def body(workers: Workers, request: Request) -> None:
        NAME.set("kept")
        assert await workers.run(request, "s", "decode", lambda a: a + NAME.get(), "x") == "xkept"
        assert [row[:2] for row in request.trace.rows] == [("s", "queue"), ("s", "loop"), ("s", "decode")]
        (_, _, asked, started), (_, _, ended, back), decode = request.trace.rows
        assert asked <= started <= ended <= back
        assert decode[2:] == (started, ended)
        with pytest.raises(KeyError, match="no"):
            await workers.run(request, "s", "user", fails)

    with_workers(2, body)


def test_jobs_run_side_by_side_up_to_the_count() -> None:
    async def body(workers: Workers, request: Request) -> None:
        barrier = threading.Barrier(2, timeout=5)
        await asyncio.gather(*(workers.run(request, "s", "user", barrier.wait) for _ in range(4)))

    with_workers(2, body)


def test_a_job_whose_request_left_does_not_run() -> None:
    ran: list[str] = []

    async def body(workers: Workers, request: Request) -> None:
        go, inside = threading.Event(), threading.Event()

        def hold() -> None:
            inside.set()
            go.wait(5)

        first = asyncio.ensure_future(workers.run(request, "s", "user", hold))
        second = asyncio.ensure_future(workers.run(request, "s", "user", ran.append, "second"))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        second.cancel()
        await asyncio.sleep(0)
        go.set()
        await first
        await workers.run(request, "s", "user", ran.append, "third")
        assert ran == ["third"]

    with_workers(1, body)


def test_work_for_a_request_that_left_is_counted_from_a_tenth_of_a_second_on_until_it_ends() -> None:
    async def main() -> None:
        now = [1.0]
        workers = Workers(2, "test", lambda: now[0])
        go, inside = threading.Event(), threading.Event()

        def hold() -> None:
            inside.set()
            go.wait(5)

        try:
            left = asyncio.ensure_future(workers.run(Request(), "s", "user", hold))
            while not inside.is_set():
                await asyncio.sleep(0.001)
            now[0] += 10.0
            assert workers.zombies() == 0, "somebody waits for it"
            left.cancel()
            await asyncio.wait([left])
            now[0] += 0.09
            assert workers.zombies() == 0
            now[0] += 0.02
            assert workers.zombies() == 1
        finally:
            go.set()
        for _ in range(5000):
            if not workers.zombies():
                break
            await asyncio.sleep(0.001)
        assert workers.zombies() == 0
        workers.close()

    asyncio.run(main())


def test_closing_fails_what_waits() -> None:
    async def main() -> None:
        workers = Workers(1, "test")
        go, inside = threading.Event(), threading.Event()

        def hold() -> str:
            inside.set()
            go.wait(5)
            return "done"

        jobs = [asyncio.ensure_future(workers.run(Request(), "s", "user", hold)) for _ in range(2)]
        while not inside.is_set():
            await asyncio.sleep(0.001)
        closing = asyncio.ensure_future(in_thread(workers.close))
        with pytest.raises(InternalError, match="closed"):
            await jobs[1]
        go.set()
        assert await jobs[0] == "done"
        await closing

    asyncio.run(main())


def test_a_cleanup_that_fails_is_reported_and_ends_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)

    async def body(workers: Workers, request: Request) -> None:
        workers.later(lambda: 1 / 0)
        assert await workers.run(request, "s", "user", int) == 0
        assert [each.exc_type for each in seen] == [ZeroDivisionError]

    with_workers(1, body)


def test_in_virtual_time_a_job_takes_none() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        workers = Workers(1, "test", clock)
        request = Request(clock)
        assert await workers.run(request, "s", "user", len, "abc") == 3
        assert request.trace.rows == [("s", "user", 0.0, 0.0)]
        workers.close()

    run_virtual(main())


def test_in_thread() -> None:
    def fails() -> None:
        raise OSError("no")

    async def main() -> None:
        assert await in_thread(len, "abc") == 3
        with pytest.raises(OSError, match="no"):
            await in_thread(fails)

    asyncio.run(main())


class Takes:
    """Work of so many seconds in virtual time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def duration(self) -> float:
        return self.seconds

    def __call__(self) -> None:
        return


def test_a_thread_that_hangs_says_nothing_of_when_the_other_will_be_free() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        workers = Workers(2, "test", clock)

        def work(seconds: float) -> asyncio.Task[None]:
            return asyncio.ensure_future(workers.run(Request(clock), "s", "user", Takes(seconds)))

        for _ in range(8):
            await work(1.0)
        hangs = work(3600.0)
        await asyncio.sleep(30.0)
        busy = work(1.0)
        await asyncio.sleep(0.25)
        assert workers.wait_s(0, clock()) == pytest.approx(0.75)
        await busy
        hangs.cancel()
        await asyncio.wait([hangs])
        workers.close()

    run_virtual(main())


def test_a_job_that_was_refused_by_a_close_does_not_run() -> None:
    async def main() -> None:
        ran: list[str] = []
        workers = Workers(1, "test")
        inside = threading.Event()

        def until_it_closes() -> None:
            inside.set()
            while not workers.closed:
                pass

        first = asyncio.ensure_future(workers.run(Request(), "s", "user", until_it_closes))
        second = asyncio.ensure_future(workers.run(Request(), "s", "user", ran.append, "second"))
        while not inside.is_set():
            await asyncio.sleep(0.001)
        workers.close()  # as an engine does it: on the loop, which tells nobody meanwhile
        await first
        with pytest.raises(InternalError, match="closed"):
            await second
        assert ran == []

    asyncio.run(main())
