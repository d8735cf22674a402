"""Clients that leave batches: what nobody waits for does not begin, and is stopped where its engine can be."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.kit_onnx import linear
from tauten.clock import real, run_virtual
from tauten.run.backends.onnx import OnnxBackend
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy import deployment as module
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.estimates import Durations
from tauten.run.deploy.replica import Replica
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
    stopped = False

    def begin(self) -> None:
        self.stopped = False

    def run(self, items: Sequence[Any]) -> list[Any]:
        answers = super().run(items)
        return [RuntimeError("stopped")] * len(items) if self.stopped else answers

    def stop(self) -> None:
        self.stops += 1
        self.stopped = True
        self.go.set()


def scene(
    backend: Any,
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


async def begun(backend: Any) -> None:
    while not backend.inside.is_set():
        await asyncio.sleep(0.001)
    backend.inside.clear()


async def leave(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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


class Slow(OnnxBackend):
    """Its runs wait to be let go, before the engine's own begins."""

    inline = False  # the loop shall not wait

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.inside, self.go = threading.Event(), threading.Event()
        self.ran = 0

    def run(self, items: Sequence[Any]) -> list[Any]:
        self.inside.set()
        assert self.go.wait(LIMIT_S)
        self.go.clear()
        return super().run(items)

    def _execute(self, inputs: dict[str, Any]) -> dict[str, Any]:
        answer = super()._execute(inputs)
        self.ran += 1
        return answer


@pytest.mark.parametrize("first", [True, False])
def test_who_leaves_between_the_beginning_of_a_run_and_its_engines_stops_that_run(
    tmp_path: Path, first: bool
) -> None:
    backend = Slow(ModelSpec("linear", files={"model.onnx": linear(tmp_path)}, threads=1))
    item = {"x": np.ones(4, np.float32)}

    async def answered(asked: Any) -> None:
        following = asyncio.ensure_future(asked(item))
        await begun(backend)
        backend.go.set()
        assert (await following)["y"].tolist() == [6.0, 10.0, 14.0]

    async def body(deployment: Deployment, asked: Any) -> None:
        if not first:
            await answered(asked)
        before = backend.ran
        leaver = asyncio.ensure_future(asked(item))
        await begun(backend)
        await leave(leaver)
        assert leaver.cancelled()
        backend.go.set()
        await idle(deployment)
        assert backend.ran == before
        await answered(asked)

    scene(backend, body)


def test_a_stop_that_raises_keeps_nobody_from_leaving() -> None:
    class Clumsy(Stoppable):
        def stop(self) -> None:
            raise ValueError("clumsy")

    backend = Clumsy()
    told: list[dict[str, Any]] = []

    async def body(deployment: Deployment, asked: Any) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        leaver = asyncio.ensure_future(asked("a"))
        await begun(backend)
        await leave(leaver)
        assert leaver.cancelled()
        assert [str(context["exception"]) for context in told] == ["clumsy"]
        backend.go.set()
        await idle(deployment)

    scene(backend, body)


@pytest.mark.parametrize("leaving", ["a", "b", "ac", "abc"])
def test_of_a_batch_that_has_not_begun_nothing_is_computed_for_those_who_left(
    monkeypatch: pytest.MonkeyPatch, leaving: str
) -> None:
    backend = Held()
    learned: list[tuple[float, float]] = []
    monkeypatch.setattr(
        Durations, "observe", lambda _, count, weight, *times: learned.append((count, weight))
    )
    monkeypatch.setattr(module, "ZOMBIE_S", 0.0)

    gate, timed = threading.Event(), Replica._timed
    monkeypatch.setattr(Replica, "_timed", lambda *given: gate.wait(LIMIT_S) and timed(*given))

    async def body(deployment: Deployment, asked: Any) -> None:
        tasks = {item: asyncio.ensure_future(asked(item)) for item in "abc"}
        staying = [item for item in "abc" if item not in leaving]
        while not deployment.view().running:
            await asyncio.sleep(0)
        await leave(*(tasks[item] for item in leaving))
        gate.set()
        if staying:
            await begun(backend)
            assert deployment.zombies() == 0
            backend.go.set()
            assert await asyncio.gather(*(tasks[item] for item in staying)) == staying
        await idle(deployment)
        assert backend.ran == [staying] * bool(staying)
        assert learned == [(len(staying), len(staying))] * bool(staying)
        assert (deployment.done, deployment.zombies(), deployment.bisected) == (3, 0, 0)

    scene(backend, body, max_batch=3, wait="off")


class Ahead(Held):
    """Prepares the next batch while one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[list[Any]] = []

    def prepare(self, items: Sequence[Any]) -> list[Any]:
        self.prepared.append(list(items))
        return list(items)

    def run_prepared(self, prepared: list[Any]) -> list[Any]:
        return self.run(prepared)


@pytest.mark.parametrize("leaving", ["", "c", "cd"])
def test_nor_where_it_was_prepared_for_them(monkeypatch: pytest.MonkeyPatch, leaving: str) -> None:
    backend = Ahead()
    monkeypatch.setattr(module, "ZOMBIE_S", 0.0)

    async def body(deployment: Deployment, asked: Any) -> None:
        tasks = {item: asyncio.ensure_future(asked(item)) for item in "abcd"}
        await begun(backend)
        while not backend.prepared:
            await asyncio.sleep(0.001)
        assert backend.prepared == [["c", "d"]]
        await leave(*(tasks[item] for item in leaving))
        assert deployment.zombies() == 0, "nothing runs for them"
        backend.go.set()
        assert await asyncio.gather(tasks["a"], tasks["b"]) == ["a", "b"]
        staying = [item for item in "cd" if item not in leaving]
        if staying:
            await begun(backend)
            backend.go.set()
            assert await asyncio.gather(*(tasks[item] for item in staying)) == staying
        await idle(deployment)
        assert backend.ran == [["a", "b"], staying][: 1 + bool(staying)]

    scene(backend, body, max_batch=2, wait="off")


def test_in_virtual_time_too() -> None:
    class Early(SyntheticBackend):
        prepare = run_prepared = SyntheticBackend.run  # it may be given a batch before it has done another

    async def main() -> None:
        loop = asyncio.get_running_loop()
        spec = ModelSpec("told", options={"ms_per_batch": 1000.0, "ms_per_item": 500.0})
        deployment = Deployment(lambda: Early(spec), label="told", clock=loop.time, max_batch=2, wait="off")
        await deployment.open()
        tasks = [
            asyncio.ensure_future(deployment.infer(Request(loop.time), "s", index)) for index in range(4)
        ]
        await asyncio.sleep(1.0)
        assert deployment.view().running == 4
        await leave(tasks[2])
        assert await tasks[3] == 3
        assert loop.time() == 3.5, "two, and then one"
        await deployment.close()

    run_virtual(main())


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
