"""Clients that leave streams of slot backends, in virtual time: nothing goes on, and places are free at once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.run.backends.synthetic_slots import SyntheticSlotsBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.request import Request

PREFILL_S, TOKEN_S = 0.5, 0.1
OPTIONS = {
    "prefill_ms": PREFILL_S * 1e3,
    "ms_per_token": TOKEN_S * 1e3,
    "tokens": 20,
    "slots": 8,
    "answer": "constant",
    "value": "word",
}


class Engine(SyntheticSlotsBackend):
    """Drops a closed stream only when the step that runs has ended, as a real engine does."""

    step_ends = math.inf
    left: tuple[float, ...] = ()

    def lingering(self) -> tuple[float, ...]:
        return self.left if asyncio.get_running_loop().time() < self.step_ends else ()


def scene(body: Callable[[SlotDeployment, Engine], Awaitable[Any]]) -> None:
    async def main() -> None:
        backend = Engine(ModelSpec("synthetic", options=OPTIONS))
        deployment = SlotDeployment(backend, label="slots", clock=asyncio.get_running_loop().time)
        await deployment.open()
        await body(deployment, backend)
        await deployment.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())


async def read(deployment: SlotDeployment) -> Request:
    request = Request(clock=asyncio.get_running_loop().time)
    async for _ in deployment.stream(request, "s", {"prompt": "x"}):
        pass
    return request


@pytest.mark.parametrize("stay_s", [0.0, PREFILL_S / 2, PREFILL_S + TOKEN_S / 2, PREFILL_S + 7 * TOKEN_S])
def test_when_all_leave_nothing_is_left_and_the_next_is_served_as_if_alone(stay_s: float) -> None:
    """Of 50 in 8 slots, some read their prompts or write their answers, and the others queue."""

    async def body(deployment: SlotDeployment, backend: Engine) -> None:
        loop = asyncio.get_running_loop()
        leavers = [asyncio.ensure_future(read(deployment)) for _ in range(50)]
        await asyncio.sleep(stay_s)
        left = loop.time()
        for task in leavers:
            task.cancel()
        await asyncio.gather(*leavers, return_exceptions=True)
        assert all(task.cancelled() for task in leavers)
        assert loop.time() == left
        assert backend.active == 0
        view = deployment.view()
        assert (view.waiting, view.running, view.idle, view.zombies) == (0, 0, 8, 0)
        await read(deployment)
        assert loop.time() - left == pytest.approx(PREFILL_S + 20 * TOKEN_S)

    scene(body)


def test_those_who_leave_one_after_the_other_start_no_work_for_those_who_have_left() -> None:
    async def body(deployment: SlotDeployment, backend: Engine) -> None:
        leavers = [asyncio.ensure_future(read(deployment)) for _ in range(50)]
        await asyncio.sleep(PREFILL_S / 2)
        for task in leavers:
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert backend.active <= backend.slots
        await asyncio.gather(*leavers, return_exceptions=True)
        assert (backend.active, deployment.waiting, deployment.zombies()) == (0, 0, 0)

    scene(body)


def test_what_an_engine_has_yet_to_drop_is_a_zombie_after_100_ms() -> None:
    async def body(deployment: SlotDeployment, backend: Engine) -> None:
        loop = asyncio.get_running_loop()
        stream = asyncio.ensure_future(read(deployment))
        await asyncio.sleep(PREFILL_S / 2)
        stream.cancel()
        backend.left, backend.step_ends = (loop.time(),), loop.time() + 0.2
        await asyncio.gather(stream, return_exceptions=True)
        assert deployment.view().running == 0  # its slot is free: what comes now is the next step's
        await asyncio.sleep(0.09)
        assert deployment.zombies() == 0
        await asyncio.sleep(0.05)
        assert deployment.zombies() == deployment.view().zombies == 1
        await asyncio.sleep(0.1)
        assert deployment.zombies() == 0

    scene(body)
