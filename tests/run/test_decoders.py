"""Decoders: threads and processes give the same, a dying worker fails one job, and close leaves nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from typing import Any, ClassVar

import numpy as np
import pytest

from media import make
from tauten.describe.payload import Audio, Image, Video
from tauten.describe.view import Frames, Pixels, Samples, View
from tauten.errors import BackendError, MachineError, MediaError, Overloaded, PlanError
from tauten.run import contracts
from tauten.run.decode import decoders
from tauten.run.decode.arena import Arena
from tauten.run.decode.decoders import Decoders

PICTURE = Image(make.encode(make.drawing(), "PNG"))


@pytest.fixture
def run() -> Iterator[Callable[[Callable[[Decoders], Coroutine[Any, Any, None]]], None]]:
    """Run a coroutine with decoders, and see that closing them leaves nothing behind."""
    names, threads = set(os.listdir("/dev/shm")), set(threading.enumerate())

    def runner(body: Callable[[Decoders], Coroutine[Any, Any, None]], **options: Any) -> None:
        made = Decoders(**{"threads": 1, "processes": 1, "job_limit_s": 20.0, **options})
        try:
            asyncio.run(body(made))
        finally:
            pids = made.pids
            made.close()
        assert not [pid for pid in pids if alive(pid)]
        assert made.pids == []
        made.close()  # twice is allowed
        gc.collect()
        assert not made.arena.leaks()

    yield runner
    assert not set(threading.enumerate()) - threads  # those of tests before may end meanwhile
    assert set(os.listdir("/dev/shm")) == names


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was handed to worker processes so far."""
    messages: list[object] = []
    send = decoders._worker.send

    def noted(link: Any, message: Any) -> None:
        send(link, message)
        messages.append(message)

    monkeypatch.setattr(decoders._worker, "send", noted)
    return messages


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Waits:
    """A codec that waits until a test lets it go."""

    name = "waits"
    param_keys: ClassVar[dict[str, type]] = {}
    go = threading.Event()
    begun = threading.Event()

    def accepts(self, payload: object) -> bool:
        return True

    def decode(self, data: bytes, media_type: str, params: object, name: str) -> object:
        self.begun.set()
        self.go.wait(10)
        if data == PICTURE.data:
            return name
        raise ZeroDivisionError("a bug")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> type[Waits]:
    Waits.go, Waits.begun = threading.Event(), threading.Event()
    found = {"waits": Waits}
    monkeypatch.setattr(decoders, "find", lambda shelf, name: found.get(name) or contracts.find(shelf, name))
    return Waits


def test_a_thread_and_a_process_give_the_same(run: Any) -> None:
    jobs = [
        (PICTURE, View("pixels", {"max_side": 60})),
        (Audio.from_array(make.sine(), 48_000), View("samples")),
        (Video(make.clip()), View("frames", {"count": 3})),
    ]

    async def body(made: Decoders) -> None:
        for payload, view in jobs:
            here, began, ended = await made.decode(payload, view, mode="thread")
            asked = monotonic()
            there, started, finished = await made.decode(payload, view, mode="process")
            assert began <= ended <= asked <= started <= finished <= monotonic()
            assert same(here, there)
        assert made.arena.lent_bytes > 0
        del there
        # The crew's thread lets go of the job a moment after the result is here.
        await until(lambda: gc.collect() >= 0 and made.arena.lent_bytes == 0)

    run(body)


def same(left: Any, right: Any) -> bool:
    assert left.__class__ is right.__class__
    assert left.name == right.name
    if isinstance(left, Frames):
        pairs = zip(left.pixels, right.pixels, strict=True)
        return (
            left.times_s == right.times_s and left.meta == right.meta and all(same(*pair) for pair in pairs)
        )
    if isinstance(left, Samples):
        assert left.rate == right.rate
    if isinstance(left, Pixels):
        assert (left.width, left.height) == (right.width, right.height)
    return left.array.dtype == right.array.dtype and np.array_equal(left.array, right.array)


def test_a_view_is_named_by_hash_and_parameters(run: Any) -> None:
    async def body(made: Decoders) -> None:
        value, _, _ = await made.decode(PICTURE, View("pixels", {"max_side": 60}))
        assert value.name == f"{PICTURE.hash}/pixels(max_side=60)"

    run(body)


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_bad_media_is_the_callers_error_and_costs_nothing_else(run: Any, mode: Any) -> None:
    cut = Image(PICTURE.data[:200])
    bomb = Image(make.png_header(50_000, 50_000))

    async def body(made: Decoders) -> None:
        await made.decode(PICTURE, View("pixels"), mode=mode)
        pids = made.pids
        for payload, code in ((cut, "E216"), (bomb, "E215")):
            with pytest.raises(MediaError) as caught:
                await made.decode(payload, View("pixels"), mode=mode)
            assert caught.value.code == code
            assert caught.value.help
        with pytest.raises(PlanError, match="no parameter `size`"):
            await made.decode(PICTURE, View("pixels", {"size": 3}), mode=mode)
        await made.decode(PICTURE, View("pixels"), mode=mode)
        assert made.pids == pids  # the worker lived through all of it

    run(body)


def test_wishes_that_fit_nothing(run: Any) -> None:
    async def body(made: Decoders) -> None:
        with pytest.raises(MediaError, match="does not read Image"):
            await made.decode(PICTURE, View("samples"))
        with pytest.raises(PlanError, match="did you mean `pixels`"):
            await made.decode(PICTURE, View("pixel"))
        with pytest.raises(PlanError, match="did you mean `process`"):
            await made.decode(PICTURE, View("pixels"), mode="proces")  # type: ignore[arg-type]
        assert made.pids == []

    run(body)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_worker_fails_its_job_and_comes_back(
    run: Any, sent: list[object], number: signal.Signals
) -> None:
    async def body(made: Decoders) -> None:
        await made.decode(PICTURE, View("pixels"), mode="process")
        (pid,) = made.pids
        os.kill(pid, signal.SIGSTOP)
        job = asyncio.ensure_future(made.decode(PICTURE, View("pixels"), mode="process"))
        await until(lambda: len(sent) == 2)  # the job is with the stopped worker
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        with pytest.raises(BackendError, match=f"signal {int(number)}") as caught:
            await job
        assert caught.value.code == "E405"
        value, _, _ = await made.decode(PICTURE, View("pixels"), mode="process")
        assert value.array.shape == (80, 120, 3)
        assert made.pids not in ([], [pid])

    run(body)


def test_a_hanging_worker_is_killed(run: Any) -> None:
    async def body(made: Decoders) -> None:
        await made.decode(PICTURE, View("pixels"), mode="process")
        (pid,) = made.pids
        for hand in made._process_hands:
            assert hand._link is not None
            hand._link.settimeout(0.1)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(BackendError, match="was killed"):
            await made.decode(PICTURE, View("pixels"), mode="process")
        assert not alive(pid)
        await made.decode(PICTURE, View("pixels"), mode="process")

    run(body)


def test_a_full_arena_fails_the_job_not_the_worker_line(run: Any) -> None:
    arena = Arena(limit_bytes=1000)

    async def body(made: Decoders) -> None:
        with pytest.raises(MachineError, match="limit is 1000"):
            await made.decode(PICTURE, View("pixels"), mode="process")
        arena.limit_bytes = 1 << 20
        await made.decode(PICTURE, View("pixels"), mode="process")

    run(body, arena=arena)
    arena.close()


def test_the_queue_is_bounded_and_the_cancelled_leave_it(run: Any, waits: type[Waits]) -> None:
    async def body(made: Decoders) -> None:
        loop = asyncio.get_running_loop()
        jobs = [asyncio.ensure_future(made.decode(PICTURE, View("waits"))) for _ in range(1)]
        await loop.run_in_executor(None, waits.begun.wait)
        jobs += [asyncio.ensure_future(made.decode(PICTURE, View("waits"))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="decode-thread: 2 requests are waiting"):
            await made.decode(PICTURE, View("waits"))
        jobs[1].cancel()
        jobs[0].cancel()  # under way: its result is dropped
        await asyncio.sleep(0)
        jobs.append(asyncio.ensure_future(made.decode(PICTURE, View("waits"))))
        await asyncio.sleep(0)
        waits.go.set()
        done = await asyncio.gather(*jobs, return_exceptions=True)
        assert [isinstance(outcome, asyncio.CancelledError) for outcome in done] == [True, True, False, False]

    run(body, queue=2)


def test_who_leaves_from_behind_a_live_one_frees_its_place(run: Any, waits: type[Waits]) -> None:
    async def body(made: Decoders) -> None:
        loop = asyncio.get_running_loop()
        jobs = [asyncio.ensure_future(made.decode(PICTURE, View("waits")))]
        await loop.run_in_executor(None, waits.begun.wait)
        jobs += [asyncio.ensure_future(made.decode(PICTURE, View("waits"))) for _ in range(3)]
        await asyncio.sleep(0)
        for job in jobs[2:]:
            job.cancel()
        await asyncio.wait(jobs[2:])
        later = [asyncio.ensure_future(made.decode(PICTURE, View("waits"))) for _ in range(2)]
        await asyncio.sleep(0)
        waits.go.set()
        assert len(await asyncio.gather(*jobs[:2], *later)) == 4

    run(body, queue=3)


def test_a_decode_that_nobody_waits_for_is_counted_while_it_runs(run: Any, waits: type[Waits]) -> None:
    now = [1.0]

    async def body(made: Decoders) -> None:
        loop = asyncio.get_running_loop()
        job = asyncio.ensure_future(made.decode(PICTURE, View("waits")))
        await loop.run_in_executor(None, waits.begun.wait)
        job.cancel()
        await asyncio.wait([job])
        assert made.zombies() == 0
        now[0] += 0.11
        assert made.zombies() == 1
        waits.go.set()
        await until(lambda: made.zombies() == 0)

    run(body, clock=lambda: now[0])


def test_a_process_that_decodes_for_nobody_is_killed_and_the_next_job_has_another(
    run: Any, sent: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders._ProcessHand, "patience_s", 0.0)

    async def body(made: Decoders) -> None:
        await made.decode(PICTURE, View("pixels"), mode="process")
        (pid,) = made.pids
        os.kill(pid, signal.SIGSTOP)  # as if it took for ever
        job = asyncio.ensure_future(made.decode(PICTURE, View("pixels"), mode="process"))
        await until(lambda: len(sent) == 2)
        following = asyncio.ensure_future(made.decode(PICTURE, View("pixels"), mode="process"))
        await asyncio.sleep(0)
        job.cancel()
        value, _, _ = await following
        assert value.array.shape == (80, 120, 3)
        assert made.pids not in ([], [pid])
        assert not alive(pid)
        del value

    run(body)


def test_a_cancelled_process_job_leaves_the_line_clean(run: Any) -> None:
    async def body(made: Decoders) -> None:
        await made.decode(PICTURE, View("pixels"), mode="process")
        jobs = [asyncio.ensure_future(made.decode(PICTURE, View("pixels"), mode="process")) for _ in range(4)]
        await asyncio.sleep(0)
        for job in jobs[:3]:
            job.cancel()
        value, _, _ = await jobs[3]
        assert value.array.shape == (80, 120, 3)
        del value

    run(body)


def test_a_codecs_bug_is_a_backend_error(run: Any, waits: type[Waits]) -> None:
    async def body(made: Decoders) -> None:
        waits.go.set()
        with pytest.raises(BackendError, match="a bug") as caught:
            await made.decode(Audio.from_array(make.sine(), 48_000), View("waits"))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        await made.decode(PICTURE, View("waits"))

    run(body)


def test_close_fails_what_waits_and_ends_what_runs(sent: list[object]) -> None:
    async def body() -> None:
        made = Decoders(threads=1, processes=1)
        await made.decode(PICTURE, View("pixels"), mode="process")
        (pid,) = made.pids
        os.kill(pid, signal.SIGSTOP)
        jobs = [asyncio.ensure_future(made.decode(PICTURE, View("pixels"), mode="process")) for _ in range(2)]
        await until(lambda: len(sent) == 2)
        made.close()
        first, second = await asyncio.gather(*jobs, return_exceptions=True)
        assert isinstance(first, BackendError)
        assert isinstance(second, MachineError)
        with pytest.raises(MachineError, match="closed"):
            await made.decode(PICTURE, View("pixels"))
        assert not alive(pid)

    asyncio.run(body())


def test_decoders_that_decoded_nothing_end_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot wake a loop in virtual time, where engines are closed as well."""
    begun: list[Any] = []

    async def noted(function: Callable[[], None]) -> None:
        begun.append(function)
        function()

    monkeypatch.setattr(decoders, "in_thread", noted)

    async def body() -> None:
        idle, used = Decoders(threads=1), Decoders(threads=1)
        await idle.end()
        assert not begun
        await used.decode(PICTURE, View("pixels"))
        await used.end()
        assert begun == [used.close]
        with pytest.raises(MachineError, match="closed"):
            await idle.decode(PICTURE, View("pixels"))

    asyncio.run(body())
