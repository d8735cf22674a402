"""The code of steps is one thread: two requests that compute take twice as long, two that wait do not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

import tauten as tt
from tauten.clock import run_virtual
from tauten.describe.stage import stage
from tauten.describe.workflow import Workflow
from tauten.improve.simulate.capture import Captured, KeepingEngine, capture
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Machine, Shared
from tauten.improve.simulate.simulator import Simulator
from tauten.plan.plan import Plan
from tauten.run.engine import Engine

COMPUTES_S = 0.02
WAITS_S = 0.2  # much longer than a busy machine lets a thread wait for its core


@stage(pure=True)
async def compute(text: str) -> str:
    until = time.thread_time() + COMPUTES_S
    while time.thread_time() < until:
        pass
    return text


@stage(pure=True)
async def wait(text: str) -> str:
    await asyncio.sleep(WAITS_S)
    return text


@tt.workflow
def computing(text: str) -> str:
    return compute(text)  # type: ignore[no-any-return]  # a port, while it is drawn


@tt.workflow
def waiting(text: str) -> str:
    return wait(text)  # type: ignore[no-any-return]  # as above


def plan_of(workflow: Workflow[..., str]) -> Plan:
    assert workflow.graph is not None
    return Plan(graph=workflow.graph.hash)


async def seen(workflow: Workflow[..., str]) -> Captured:
    engine = KeepingEngine()
    async with engine:
        return await capture(engine, workflow, plan_of(workflow), [("one", {"text": "a"})], repeats=1)


@pytest.mark.parametrize(
    ("workflow", "times"), [(computing, 2.0), (waiting, 1.0)], ids=["computing", "waiting"]
)
def test_two_at_once_take_twice_as_long_where_they_compute(
    workflow: Workflow[..., str], times: float
) -> None:
    library = Library()
    library.add(asyncio.run(seen(workflow)))
    simulator, plan = Simulator(workflow, library, Shared(cores=2)), plan_of(workflow)
    alone = simulator.run(plan, [(0.0, "one")]).latency_ms(1.0)
    two = simulator.run(plan, [(0.0, "one"), (0.0, "one")]).latency_ms(1.0)
    assert abs(two / alone - times) < 0.45


def test_the_engine_does_the_same() -> None:
    """Of the real one: never two at a time, though the machine has more cores."""

    async def main() -> list[tuple[float, float]]:
        async with Engine() as engine:
            await engine.open(computing)
            answers = await asyncio.gather(*(engine.run({"text": "a"}) for _ in range(3)))
        rows = [row for answer in answers for row in answer.trace.rows]
        return sorted((start, end) for _, cause, start, end in rows if cause == "user")

    spans = asyncio.run(main())
    assert len(spans) == 3
    assert all(end - start >= COMPUTES_S * 0.99 for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_who_leaves_the_queue_of_the_loop_holds_nobody_up() -> None:
    async def main() -> float:
        loop, machine = asyncio.get_running_loop(), Machine(Shared(cores=2))
        first, second, third = (asyncio.ensure_future(machine.loop.work(1.0)) for _ in range(3))
        await asyncio.sleep(0.5)
        second.cancel()
        await asyncio.wait([first, second, third])
        assert machine.busy == 0
        return loop.time()

    assert run_virtual(main()) == pytest.approx(2.0)
