"""Deadlines of language models' streams, in virtual time: though a step runs on, and though nobody reads."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.clock import run_virtual
from tauten.describe.stage import Context, Role
from tauten.errors import Cancelled, DeadlineExceeded
from tauten.plan.plan import Plan, StagePlan
from tauten.run.backends.synthetic_slots import SyntheticSlotsBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.engine import Engine
from tauten.run.request import Request

STEP_S = 3.0  # one step of the engine: longer than every deadline below
WITHIN_S = 0.005
OPTIONS = {
    "prefill_ms": STEP_S * 1e3,
    "ms_per_token": STEP_S * 1e3,
    "tokens": 5,
    "slots": 2,
    "answer": "constant",
    "value": "word",
}


async def ended(deployment: SlotDeployment, budget_s: float, seen: list[str]) -> float:
    """How long after its deadline a request was answered; every one has to expire."""
    now = asyncio.get_running_loop().time
    request = Request(now, deadline=now() + budget_s)

    async def read() -> None:
        async for chunk in deployment.stream(request, "s", {"prompt": "x"}):
            seen.append(chunk.text)

    arm(request)
    try:
        await stoppable(request, read())
    except DeadlineExceeded:
        return now() - request.deadline
    finally:
        disarm(request)
    raise AssertionError("it ended before its deadline")


def test_who_expires_while_a_step_runs_is_answered_at_the_deadline() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        backend = SyntheticSlotsBackend(ModelSpec("told", options=OPTIONS))
        deployment = SlotDeployment(backend, label="slots", clock=loop.time)
        await deployment.open()
        draws, seen = random.Random(3), list[str]()
        reading = [ended(deployment, STEP_S * 2 + draws.uniform(0.1, STEP_S - 0.1), seen) for _ in range(2)]
        both = asyncio.gather(*reading)
        await asyncio.sleep(STEP_S / 2)  # both slots read their prompts
        queued: list[Any] = [ended(deployment, draws.uniform(0.05, 1.0), seen) for _ in range(60)]
        late_s = await asyncio.gather(*queued)
        assert loop.time() < STEP_S, "the step still runs"
        assert 0.0 <= min(late_s) <= max(late_s) <= WITHIN_S
        assert deployment.waiting == 0
        assert 0.0 <= max(await both) <= WITHIN_S, "between two tokens"
        assert seen.count("word") == 2, "each had its first token"
        assert backend.active == 0
        await deployment.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


# -- nobody reads --------------------------------------------------------------------------------------------

WORD_S, FREE_S = 0.05, 0.1  # a word of the model; after which the slot of one who was stopped is another's
TOLD = StagePlan(
    settings={"ms_per_token": WORD_S * 1e3, "tokens": 100, "slots": 1, "answer": "constant", "value": "word"}
)


@tt.stage(pure=True, roles={"model": Role("told", ("synthetic_slots",))})
async def tell(ctx: Context, q: str) -> tt.Stream[str]:  # type: ignore[misc]
    async for chunk in ctx.stream("model", {"prompt": q}):
        if chunk.text:
            yield chunk.text


@tt.workflow
def drawn(q: str) -> tt.Stream[str]:
    return tell(q)  # type: ignore[call-arg,arg-type]


@tt.workflow
async def program(q: str) -> tt.Stream[str]:  # type: ignore[misc]
    async for word in tell(q):  # type: ignore[arg-type,attr-defined,call-arg]
        yield word


@tt.workflow
async def given(q: str) -> tt.Stream[str]:
    return tell(q)  # type: ignore[call-arg,arg-type]


cleaned: list[str] = []


@tt.workflow
async def tidy(q: str) -> tt.Stream[str]:  # type: ignore[misc]
    try:
        async for word in tell(q):  # type: ignore[arg-type,attr-defined,call-arg]
            yield word
    finally:
        await asyncio.sleep(WORD_S)
        cleaned.append(q)


@pytest.mark.parametrize("leaves", [False, True], ids=["expires", "leaves"])
@pytest.mark.parametrize("workflow", [drawn, program, given, tidy], ids=["drawn", "program", "given", "tidy"])
def test_a_slot_is_free_although_nobody_reads_any_more(workflow: Any, leaves: bool) -> None:
    """A reader that stands still holds nothing: at the deadline, and when his client goes."""

    async def body(engine: Engine) -> None:
        await engine.open(workflow, Plan(stages={"tell": TOLD}))
        request = engine.request(deadline_ms=1000.0)
        async with aclosing(engine.stream({"q": "first"}, request=request)) as stream:
            assert await anext(stream) == "word"
            await asyncio.sleep(0.5)
            (slots,) = engine.deployments.views().values()
            assert slots.running == engine.door.limit.running == 1
            if leaves:
                request.fail(Cancelled("the client left", help="none"))
            else:
                await asyncio.sleep(request.left())
            stopped = engine.clock()
            await asyncio.sleep(FREE_S)
            (slots,) = engine.deployments.views().values()
            assert (slots.running, engine.door.limit.running, engine.zombies()) == (0, 0, 0)
            assert request.trace.end - stopped <= FREE_S
            async with aclosing(engine.stream({"q": "next"})) as other:
                assert await anext(other) == "word", "the slot is another's"
            with pytest.raises(Cancelled if leaves else DeadlineExceeded):
                await anext(stream)
        assert request.unread is None
        assert cleaned == (["first", "next"] if workflow is tidy else [])

    cleaned.clear()
    virtual(body)
