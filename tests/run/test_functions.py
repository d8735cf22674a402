"""A stage's own blocking code has a queue like a model's: bounded, ordered by slack, predicted."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.errors import DeadlineExceeded, Overloaded, StageError, WorkflowError
from tauten.plan.plan import Plan, StagePlan
from tauten.run.backends.python import PythonBackend
from tauten.run.engine import Engine
from tauten.run.steps import FUNCTION_THREADS

RUN_S = 0.010
ONE, TWO = (Plan(name=f"threads{n}", stages={"work": StagePlan(threads=n)}) for n in (1, 2))


@tt.stage
def work(q: int) -> int:
    return q


@tt.workflow
def flow(q: int) -> int:
    return work(q)


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Functions take that long on the virtual clock, where threads do not exist."""

    def last(seconds: float) -> None:
        monkeypatch.setattr(PythonBackend, "duration", lambda self, items: seconds, raising=False)
        monkeypatch.setattr(PythonBackend, "answer", PythonBackend.run, raising=False)

    return last


async def outcome(engine: Engine, ended: list[int], q: int, **asked: Any) -> str:
    try:
        await engine.run({"q": q}, **asked)
    except (Overloaded, DeadlineExceeded) as error:
        return type(error).__name__
    ended.append(q)
    return "done"


async def warm(engine: Engine) -> None:
    for _ in range(4):
        await engine.run({"q": 0})


def test_they_leave_by_slack_and_priority(lasting: Callable[[float], None]) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(flow, ONE)
        ended: list[int] = []
        asked: list[dict[str, Any]] = [
            {"deadline_ms": 1000},
            {"deadline_ms": 900},
            {"deadline_ms": 300},
            {"deadline_ms": 600},
            {"deadline_ms": 950, "priority": 1},
        ]
        tasks = [asyncio.ensure_future(outcome(engine, ended, q, **each)) for q, each in enumerate(asked)]
        assert await asyncio.gather(*tasks) == ["done"] * 5
        assert ended == [4, 2, 3, 1, 0]

    lasting(RUN_S)
    virtual(body)


def test_an_expired_request_is_answered_while_every_thread_is_busy(lasting: Callable[[float], None]) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(flow, TWO)
        busy = [asyncio.ensure_future(engine.run({"q": q})) for q in range(FUNCTION_THREADS)]
        await asyncio.sleep(0)
        began = engine.clock()
        for budget_ms in (20.0, 50.0):
            began = engine.clock()
            with pytest.raises(DeadlineExceeded):
                await engine.run({"q": 9}, deadline_ms=budget_ms)
            assert 0.0 <= engine.clock() - began - budget_ms / 1e3 < 0.005
        await asyncio.gather(*busy)
        assert engine.zombies() == 0

    lasting(2.0)
    virtual(body)


@pytest.mark.parametrize("times", [1.5, 3.0])
def test_overload_keeps_goodput(lasting: Callable[[float], None], times: float) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(flow, TWO)
        await warm(engine)
        draws, seconds, capacity = random.Random(3), 5.0, FUNCTION_THREADS / RUN_S
        ended: list[int] = []
        tasks = []
        for q in range(int(times * capacity * seconds)):
            await asyncio.sleep(draws.expovariate(times * capacity))
            tasks.append(asyncio.ensure_future(outcome(engine, ended, q, deadline_ms=200)))
        ways = Counter(await asyncio.gather(*tasks))
        assert ways["done"] >= 0.9 * capacity * seconds
        assert ways["DeadlineExceeded"] <= 0.02 * ways["done"]

    lasting(RUN_S)
    virtual(body)


def test_the_queue_is_bounded_and_seen(lasting: Callable[[float], None]) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(flow, TWO)
        ended: list[int] = []
        tasks = [asyncio.ensure_future(outcome(engine, ended, q)) for q in range(2000)]
        await asyncio.sleep(RUN_S / 2)
        (view,) = engine.deployments.views().values()
        assert (view.label, view.replicas, view.running) == ("work/python", 2, 2)
        assert 0 < view.waiting <= 1024
        ways = Counter(await asyncio.gather(*tasks))
        assert ways["Overloaded"] > 0
        assert ways["done"] + ways["Overloaded"] == 2000

    lasting(RUN_S)
    virtual(body)


# -- real threads ------------------------------------------------------------------------------------------


def real(body: Callable[[Engine], Awaitable[None]]) -> None:
    others = set(threading.enumerate())  # those that engines of other tests left

    async def main() -> None:
        async with Engine() as engine:
            await body(engine)
        left = set(threading.enumerate()) - others
        assert not [thread.name for thread in left if "/python" in thread.name]

    asyncio.run(main())


def test_threads_take_the_most_urgent_first() -> None:
    gate = threading.Event()
    took: list[int] = []

    @tt.stage(name="work")
    def gated(q: int) -> int:
        gate.wait(30)
        took.append(q)
        return q

    @tt.workflow
    def one(q: int) -> int:
        return gated(q)

    async def body(engine: Engine) -> None:
        await engine.open(one, ONE)
        first = asyncio.ensure_future(engine.run({"q": 0}))
        while not any(view.running for view in engine.deployments.views().values()):
            await asyncio.sleep(0.001)
        rest = [
            asyncio.ensure_future(engine.run({"q": q}, deadline_ms=60_000 - 1000 * q)) for q in range(1, 6)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.set()
        answer = await first
        assert [cause for _, cause, _, _ in answer.trace.rows if cause in ("queue", "user")] == [
            "queue",
            "user",
        ]
        await asyncio.gather(*rest)

    real(body)
    assert took == [0, 5, 4, 3, 2, 1]


def test_as_many_run_at_once_as_the_plan_has_threads() -> None:
    meet = threading.Barrier(3, timeout=30)

    @tt.stage
    def together(q: int) -> int:
        return meet.wait()

    @tt.workflow
    def three(q: int) -> int:
        return together(q)

    async def body(engine: Engine) -> None:
        await engine.open(three, Plan(stages={"together": StagePlan(replicas=3)}))
        answers = await asyncio.gather(*[engine.run({"q": 0}) for _ in range(3)])
        assert sorted(answer.value for answer in answers) == [0, 1, 2]

    real(body)


def test_stages_that_call_stages_hold_no_thread_meanwhile() -> None:
    @tt.stage
    async def caller(q: int) -> int:
        inner = work(q)
        return int(await inner) + 1  # type: ignore[misc]

    @tt.workflow
    async def observed(q: int) -> int:
        return await work(await caller(q))  # type: ignore[no-any-return,misc]

    async def body(engine: Engine) -> None:
        await engine.open(
            observed, Plan(stages={name: StagePlan(threads=1) for name in ("work", "caller/work")})
        )
        answers = await asyncio.gather(*[engine.run({"q": q}) for q in range(20)])
        assert [answer.value for answer in answers] == list(range(1, 21))

    real(body)


@pytest.mark.parametrize("kind", ["function", "class"])
def test_blocking_code_that_calls_a_stage_is_told_instead_of_waiting_for_ever(kind: str) -> None:
    @tt.stage(name="nests")
    def function(q: int) -> int:
        return work(q)

    @tt.stage(name="nests")
    class Loaded:
        def __call__(self, q: int) -> int:
            return work(q)

    nests: Any = function if kind == "function" else Loaded

    @tt.workflow
    def outer(q: int) -> int:
        return nests(q)  # type: ignore[no-any-return]

    async def body(engine: Engine) -> None:
        await engine.open(outer)
        with pytest.raises(WorkflowError, match="E117"):
            await engine.run({"q": 1})

    real(body)


def test_a_blocking_generator_queues_step_by_step() -> None:
    @tt.stage
    def counts(q: int) -> tt.Stream[int]:  # type: ignore[misc]
        yield from range(q)

    @tt.workflow
    def streamed(q: int) -> tt.Stream[int]:
        return counts(q)

    async def body(engine: Engine) -> None:
        await engine.open(streamed, Plan(stages={"counts": StagePlan(threads=1)}))

        async def read() -> list[int]:
            return [each async for each in engine.stream({"q": 5})]

        assert await asyncio.gather(*[read() for _ in range(4)]) == [[0, 1, 2, 3, 4]] * 4
        (view,) = engine.deployments.views().values()
        assert view.done == 4 * 6  # the end is a step, too

    real(body)


def test_what_ends_a_function_is_its_stages_error() -> None:
    @tt.stage
    def leaves(q: int) -> int:
        raise SystemExit(3)

    @tt.stage
    def says(q: int) -> int:
        try:
            return int("x")
        except ValueError as error:
            raise StageError("my own words", help="none") from error

    async def body(engine: Engine) -> None:
        for stage, words in ((leaves, "stage 'leaves' raised SystemExit"), (says, "my own words")):
            with pytest.raises(StageError, match=words):
                await engine.run_stage(stage, (1,), {})

    real(body)


def test_a_list_of_a_coroutine_is_stepped_without_a_deployment() -> None:
    @tt.stage
    async def listed(q: int) -> tt.Stream[int]:  # type: ignore[misc]
        return iter(range(q))  # type: ignore[return-value]

    async def body(engine: Engine) -> None:
        found: Any = await engine.run_stage(listed, (3,), {})
        assert list(found) == [0, 1, 2]

    real(body)
