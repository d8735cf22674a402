"""Calls outside any workflow: blocking, awaited, streamed, from threads, from a running loop, at the end."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import functools
import gc
import math
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import tauten as tt
from tauten.describe.stage import AMBIENT
from tauten.errors import StageError, WorkflowError
from tauten.run.engine import Engine


@tt.stage(pure=True)
async def step(q: str, *, s: float = 0.0) -> str:
    await asyncio.sleep(s)
    return q.upper()


@tt.stage(pure=True)
def plain(q: tt.Text) -> str:
    return q.text * 2


@tt.stage(pure=True)
async def words(q: str) -> tt.Stream[str]:  # type: ignore[misc]
    for word in q.split():
        await asyncio.sleep(0)
        yield word


made: list[str] = []


@tt.stage
class Model:
    def __init__(self) -> None:
        made.append(threading.current_thread().name)

    def __call__(self, q: str) -> str:
        return f"<{q}>"


@tt.workflow
def drawn(q: tt.Text) -> tt.Text:
    return Model(plain(q))  # type: ignore[return-value,arg-type,call-arg]


@tt.workflow
async def program(q: tt.Text) -> tt.Stream[tt.Text]:  # type: ignore[misc]
    async for word in words(q):  # type: ignore[arg-type,attr-defined]
        yield await step(word)  # type: ignore[misc]


@tt.workflow
async def fails(q: str) -> str:
    raise_here: Any = {}
    return raise_here[q]  # type: ignore[no-any-return]


def test_blocking_calls() -> None:
    assert drawn("ab") == tt.Text("<abab>")
    assert program("a b") == tt.Text("AB")
    assert list(program.stream("a b")) == [tt.Text("A"), tt.Text("B")]
    assert step("x") == "X"
    assert plain("x") == "xx"
    assert words("a b") == "ab"
    assert Model("x") == "<x>"
    assert tt.map(step, ["a", "b"]) == ["A", "B"]
    assert step(None) is None, "a stage whose input is absent is skipped"  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        fails("x")


def test_awaited_calls_and_streams() -> None:
    async def main() -> None:
        assert await drawn.acall("ab") == tt.Text("<abab>")
        assert await asyncio.gather(*(program.acall("a b") for _ in range(5))) == [tt.Text("AB")] * 5
        assert [word async for word in program.astream("a b")] == [tt.Text("A"), tt.Text("B")]

    asyncio.run(main())


def test_models_of_a_loop_are_made_once_and_freed_with_it() -> None:
    async def main() -> None:
        await asyncio.gather(*(drawn.acall("x") for _ in range(10)))
        await drawn.acall("y")

    drawn("warm")  # the background loop's own
    before = set(threading.enumerate())  # those that others of this process left may end meanwhile
    for _ in range(3):
        made.clear()
        asyncio.run(main())
        assert len(made) == 1
        gc.collect()
        assert set(threading.enumerate()) <= before


def test_a_blocking_call_inside_a_running_loop_does_not_hang() -> None:
    async def notebook_cell() -> None:
        assert drawn("ab") == tt.Text("<abab>")
        assert list(program.stream("a b")) == [tt.Text("A"), tt.Text("B")]
        assert await drawn.acall("c") == tt.Text("<cc>")

    asyncio.run(notebook_cell())


def test_calls_from_many_threads_at_once() -> None:
    barrier = threading.Barrier(8, timeout=10)

    def call(number: int) -> Any:
        barrier.wait()
        return drawn(str(number)), step("x"), "".join(map(str, program.stream("a b")))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(8)))
    assert results == [(tt.Text(f"<{number}{number}>"), "X", "AB") for number in range(8)]


def test_a_reader_that_leaves_stops_the_work() -> None:
    stopped = threading.Event()

    @tt.stage
    async def endless(q: str) -> tt.Stream[str]:  # type: ignore[misc]
        try:
            while True:
                await asyncio.sleep(0)
                yield q
        finally:
            stopped.set()

    @tt.workflow
    def forever(q: str) -> tt.Stream[str]:
        return endless(q)

    for word in forever.stream("x"):
        assert word == "x"
        break
    gc.collect()
    assert stopped.wait(5)


def test_a_slow_blocking_reader_holds_the_producer() -> None:
    sent: list[int] = []

    @tt.stage
    async def numbers(q: str) -> tt.Stream[int]:  # type: ignore[misc]
        for number in range(10_000):
            sent.append(number)
            yield number

    @tt.workflow
    def counted(q: str) -> tt.Stream[int]:
        return numbers(q)

    stream = counted.stream("x")
    assert next(stream) == 0
    step("x")  # a round trip: the producer had its chance to run ahead
    assert len(sent) < 200
    stream.close()  # type: ignore[attr-defined]


def test_a_stage_cannot_block_the_loop_that_would_run_it() -> None:
    @tt.stage(inline=True)
    def inner(q: str) -> str:
        return q

    @tt.workflow
    def other(q: str) -> str:
        return inner(q)

    @tt.stage
    async def blocks(q: str) -> str:
        return "".join(other.stream(q))

    with pytest.raises(tt.TautenError, match=r"E11[0-9] test_engine_ambient"):
        blocks("x")


def test_an_error_of_a_stage_reaches_a_blocking_caller() -> None:
    @tt.stage
    def broken(q: str) -> str:
        raise ValueError(q)

    with pytest.raises(StageError, match="stage 'broken' raised ValueError: x") as caught:
        broken("x")
    assert isinstance(caught.value.__cause__, ValueError)


def script(text: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # as a terminal starts it
    )


HEAD = """
import asyncio, os, signal, sys, threading
import tauten as tt

@tt.stage
async def slow(q: str, *, s: float) -> str:
    try:
        print("in", flush=True)
        await asyncio.sleep(s)
    finally:
        print("out", flush=True)
    return q

@tt.stage
def blocking(q: str) -> str:
    return q

@tt.stage
class Model:
    def __call__(self, q: str) -> str:
        return q
    def close(self) -> None:
        print("closed", flush=True)
"""


def test_a_process_ends_cleanly() -> None:
    done = script(
        HEAD
        + "print(blocking('a'), Model('b'), asyncio.run(tt.workflow(name='w')(lambda q: blocking(q)).acall('c')))"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["a", "b", "c", "closed"]


def test_ctrl_c_stops_a_blocking_call_and_its_work() -> None:
    done = script(
        HEAD
        + """
def interrupt():
    entered.wait()  # asleep: a loop would take the interpreter from what it waits for
    os.kill(os.getpid(), signal.SIGINT)

entered = threading.Event()
class Noted:
    def write(self, text):
        sys.__stdout__.write(text)
        if "in" in text:
            entered.set()
    def flush(self):
        sys.__stdout__.flush()
sys.stdout = Noted()
threading.Thread(target=interrupt, daemon=True).start()
try:
    slow("x", s=60.0)
except KeyboardInterrupt:
    print("interrupted", blocking("again"))
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["in", "out", "interrupted", "again"]


@tt.stage
async def left(q: str) -> float:
    return tt.deadline_left()


@tt.stage
async def said(q: str, session: tt.Session) -> int:
    session.say("user", q)
    return len(session.history)


@tt.workflow
def asked(q: str) -> float:
    return left(q)  # type: ignore[return-value]


@tt.workflow
async def streamed(q: str) -> tt.Stream[float]:  # type: ignore[misc]
    yield tt.deadline_left()


def test_what_running_code_asks_of_a_workflow_has_its_deadline_and_is_of_its_tenant() -> None:
    seen: list[Any] = []

    @tt.stage
    async def who(q: str) -> str:
        request = AMBIENT.get().request  # type: ignore[union-attr]
        seen.append((request.tenant, request.priority, request.partition))
        return q

    @tt.workflow
    def inner(q: str) -> str:
        return who(q)  # type: ignore[return-value]

    @tt.workflow
    async def outer(q: str) -> list[float]:
        await inner.acall(q)
        return [await asked.acall(q), *[each async for each in streamed.astream(q)]]

    async def main() -> list[float]:
        async with Engine() as engine:
            await engine.open(outer)
            request = engine.request(deadline_ms=60_000, tenant="acme", priority=3)
            request.partition = "mine"
            values: list[float] = (await engine.run({"q": "x"}, request=request)).value
            return values

    assert all(0.0 < each <= 60.0 for each in asyncio.run(main()))
    assert seen == [("acme", 3, "mine")]
    assert asyncio.run(asked.acall("x")) == math.inf, "nobody else's"


def test_code_that_asks_for_a_session_always_has_one() -> None:
    @tt.workflow
    def plainly(q: str) -> tuple[int, int]:
        return said(q), said(q, name="again")  # type: ignore[call-arg,return-value]

    @tt.workflow
    async def inner(q: str, session: tt.Session) -> int:
        session.say("user", q)
        return len(session.history)

    @tt.workflow
    async def outer(q: str) -> list[int]:
        given = tt.Session()
        return [await inner(q), await inner(q), await inner(q, session=given), await said(q)]  # type: ignore[misc,call-arg]

    assert sorted(plainly("x")) == [1, 2]
    assert outer("x") == [1, 2, 1, 3]


def test_a_map_in_running_code_takes_a_call_that_was_passed_on_without_await() -> None:
    @tt.stage(pure=True)
    async def split(q: str) -> list[str]:
        return q.split()

    @tt.workflow
    async def mapped(q: str | None) -> Any:
        return await tt.map(step, split(q))  # type: ignore[arg-type]

    assert mapped("a b c") == ["A", "B", "C"]
    assert mapped(None) is None, "an absent input skips what takes it"


def test_a_map_in_running_code_knows_what_may_become_of_errors() -> None:
    @tt.workflow
    async def mapped(q: str) -> Any:
        return await tt.map(step, [q], errors="skip")  # type: ignore[call-overload]

    with pytest.raises(WorkflowError, match="errors='skip'"):
        mapped("a")
    with pytest.raises(WorkflowError, match="errors='skip'"):
        tt.map(step, ["a"], errors="skip")  # type: ignore[arg-type]
