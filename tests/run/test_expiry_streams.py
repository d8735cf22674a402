"""Deadlines of language models' streams, in virtual time: answered within 5 ms although a step runs on."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from typing import Any

from tauten.clock import run_virtual
from tauten.errors import DeadlineExceeded
from tauten.run.backends.synthetic_slots import SyntheticSlotsBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.deploy.slots_deployment import SlotDeployment
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
