"""Clients that leave batches: what nobody waits for does not begin, and is stopped where its engine can be."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from tauten.clock import real, run_virtual
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.deployment import Deployment
from tauten.run.request import Request

LIMIT_S = 20.0  # a hang is a failure; no test comes near it


class Held:
    """Each run lasts until it is let go; what ran is noted."""

    name = "held"
    option_keys: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        self.ran: list[list[Any]] = []

    def open(self) -> None: ...

    def group(self, item: Any) -> Any:
        return ()

    def weight(self, item: Any) -> float:
        return 1.0

    def run(self, items: Sequence[Any]) -> list[Any]:
        self.ran.append(list(items))
        self.inside.set()
        assert self.go.wait(LIMIT_S)
        self.go.clear()
        return list(items)

    def properties(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None: ...


class Stoppable(Held):
    stops = 0

    def run(self, items: Sequence[Any]) -> list[Any]:
        stops = self.stops
        answers = super().run(items)
        return answers if stops == self.stops else [RuntimeError("stopped")] * len(items)

    def stop(self) -> None:
        self.stops += 1
        self.go.set()


def scene(
    backend: Held,
    body: Callable[[Deployment, Callable[[Any], Awaitable[Any]]], Awaitable[Any]],
    **settings: Any,
) -> None:
    async def main() -> None:
        deployment = Deployment(lambda: backend, label="held", clock=real, **settings)
        await deployment.open()

        async def asked(item: Any) -> Any:
            return await deployment.infer(Request(real), "s", item)

        try:
            await asyncio.wait_for(body(deployment, asked), LIMIT_S)
        finally:
            backend.go.set()
            await deployment.close()

    asyncio.run(main())


async def begun(backend: Held) -> None:
    while not backend.inside.is_set():
        await asyncio.sleep(0.001)
    backend.inside.clear()


async def leave(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def idle(deployment: Deployment) -> None:
    while deployment.view().running:
        await asyncio.sleep(0.001)


def test_a_run_that_nobody_waits_for_is_stopped() -> None:
    backend = Stoppable()

    async def body(deployment: Deployment, asked: Any) -> None:
        tasks = [asyncio.ensure_future(asked(item)) for item in "ab"]
        await begun(backend)
        await leave(tasks[0])
        assert backend.stops == 0  # the other one still waits
        await leave(tasks[1])
        assert backend.stops == 1
        await idle(deployment)
        view = deployment.view()
        assert (view.zombies, view.bisected, view.restarts) == (0, 0, 0)
        following = asyncio.ensure_future(asked("c"))
        await begun(backend)
        backend.go.set()
        assert await following == "c"
        assert backend.stops == 1
        assert backend.ran == [["a", "b"], ["c"]]

    scene(backend, body, max_batch=2, pure=True)


def test_a_stop_never_meets_the_next_run() -> None:
    """A leaver whose run has just ended stops nobody."""
    backend = Stoppable()

    async def body(deployment: Deployment, asked: Any) -> None:
        first = asyncio.ensure_future(asked("a"))
        await begun(backend)
        second = asyncio.ensure_future(asked("b"))
        await asyncio.sleep(0)
        backend.go.set()
        for replica in deployment._replicas:
            while replica._running:
                pass  # the loop is held: it does not know yet that the run has ended
        await leave(first)
        assert backend.stops == 0
        await begun(backend)
        backend.go.set()
        assert await second == "b"

    scene(backend, body)


def test_an_engine_that_cannot_be_stopped_runs_on_and_its_result_is_dropped() -> None:
    backend = Held()

    async def body(deployment: Deployment, asked: Any) -> None:
        leaver = asyncio.ensure_future(asked("a"))
        await begun(backend)
        await leave(leaver)
        assert deployment.view().running == 1
        backend.go.set()
        await idle(deployment)
        assert deployment.zombies() == 0

    scene(backend, body)


@pytest.mark.parametrize("leavers", [1, 2])
def test_in_virtual_time_a_batch_of_leavers_does_not_begin(leavers: int) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        backend = SyntheticBackend(ModelSpec("told", options={"ms_per_batch": 1000.0}))
        deployment = Deployment(lambda: backend, label="told", clock=loop.time)
        await deployment.open()

        async def asked(item: Any) -> Any:
            return await deployment.infer(Request(loop.time), "s", item)

        tasks = [asyncio.ensure_future(asked(index)) for index in range(3)]
        await asyncio.sleep(0.5)
        await leave(*tasks[1 : 1 + leavers])
        assert deployment.waiting == 2 - leavers
        await asyncio.wait([task for task in tasks if not task.done()])
        ended = loop.time()
        await deployment.close()
        return ended

    assert run_virtual(main()) == pytest.approx(3.0 - leavers)
