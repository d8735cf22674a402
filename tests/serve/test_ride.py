"""Requests of one turn of the loop travel together: one item, and an answer, a departure and a refusal for each."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from serve.kit_http import Peer, run
from serve.kit_onnx import write
from serve.test_express import (
    WEIGHT,
    Broken,
    Gate,
    X,
    deployments_of,
    empty,
    gate,
    listening,
    request,
    service_of,
    serving,
)
from tauten.errors import Overloaded
from tauten.plan.plan import Batch, Plan, StagePlan
from tauten.run.backends.onnx import OnnxBackend
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.job import Job
from tauten.serve.app import App
from tauten.serve.door import Caller, Door
from tauten.serve.http.arrival import Inbox
from tauten.serve.observe.metrics import Metrics
from tauten.serve.oip.ride import Line, Ride
from tauten.serve.oip.statistics import Statistics
from tauten.serve.tensor_model import STAGE

__all__ = ["gate"]  # the fixture

LEARNING = 3  # requests after which a head is known, and its way
WARMED = 1  # that the service asked itself before it was ready


class Crowd:
    """Clients whose heads are known, and what is done for them."""

    def __init__(self, app: App, peers: list[Peer], jobs: list[Job], port: int) -> None:
        self.app = app
        self.port = port
        self.peers = peers
        self.jobs = jobs  # that were pushed since
        (self.deployment,) = deployments_of(app)

    async def say(
        self,
        arrays: list[Any],
        peers: list[Peer] | None = None,
        headers: Callable[[int], dict[str, str]] = lambda _: {},
    ) -> None:
        """Let all ask in one turn of the loop: it finds all of it in the sockets when it looks again."""
        for index, (peer, array) in enumerate(zip(peers or self.peers, arrays, strict=True)):
            peer.writer.write(request(array, headers=headers(index)))
        until = time.monotonic() + 0.02
        while time.monotonic() < until:  # the loop shall not look before all is there
            pass

    def ran(self) -> int:
        """Requests in all runs since the service was ready."""
        return sum(size * times for size, times in self.deployment.batch_sizes.items()) - WARMED

    async def answers(self, peers: list[Peer] | None = None) -> list[tuple[int, Any]]:
        found = []
        for peer in peers or self.peers:
            status, headers, body = await peer.answer()
            size = headers.get("inference-header-content-length")
            rows = np.frombuffer(body[int(size) :], np.float32).reshape(-1, 3) if size else body
            found.append((status, rows))
        return found


@asynccontextmanager
async def crowd(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    door: Door | None = None,
    headers: Callable[[int], dict[str, str]] = lambda _: {},
) -> AsyncIterator[Crowd]:
    jobs: list[Job] = []
    push = Deployment.push

    def noted(self: Deployment, asks: Any, step: str, job: Job, **how: bool) -> None:
        push(self, asks, step, job, **how)
        jobs.append(job)

    monkeypatch.setattr(Deployment, "push", noted)
    async with serving(folder, door) as (app, _), listening(app) as port:
        peers = [await Peer.of(port) for _ in range(count)]
        try:
            for index, peer in enumerate(peers):
                for _ in range(LEARNING):
                    await peer.say(request(headers=headers(index)))
                    assert (await peer.answer())[0] == 200
            await empty(app)
            jobs.clear()
            yield Crowd(app, peers, jobs, port)
        finally:
            for each in peers:
                await each.close()


def arrays(count: int) -> list[Any]:
    return [X + number for number in range(count)]


def right(answers: list[tuple[int, Any]], given: list[Any]) -> None:
    assert [status for status, _ in answers] == [200] * len(given)
    for (_, found), array in zip(answers, given, strict=True):
        np.testing.assert_allclose(found, array @ WEIGHT, rtol=1e-5)


async def at(gate: Gate, all: Crowd, given: list[Any]) -> None:
    """The first clients ask, and their run waits at the gate."""
    gate.entered.clear()
    gate.open.clear()
    await all.say(given, all.peers[: len(given)])
    assert await asyncio.to_thread(gate.entered.wait, 10)


async def staying(all: Crowd, given: list[Any], *left: int) -> None:
    """All but those that left get what is right."""
    here = [index for index in range(len(given)) if index not in left]
    right(await all.answers([all.peers[index] for index in here]), [given[index] for index in here])
    await empty(all.app)
    assert service_of(all.app).engine.door.limit.running == 0


async def behind(all: Crowd, gate: Gate, given: list[Any]) -> None:
    """The first one runs, the others wait for it."""
    await at(gate, all, given[:1])
    await all.say(given[1:], all.peers[1:])
    while service_of(all.app).engine.door.limit.running < len(given):
        await asyncio.sleep(0.001)


def test_those_of_one_turn_are_one_item_and_each_has_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 6) as all:
            given = arrays(6)
            await all.say(given)
            right(await all.answers(), given)
            assert [job.count for job in all.jobs] == [6]
            assert all.deployment.batch_sizes[6] == 1
            await empty(all.app)
            assert service_of(all.app).engine.door.limit.running == 0

    run(main)


def test_a_ride_fills_what_room_there_is_and_the_rest_waits_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 7) as all:
            monkeypatch.setattr(all.deployment, "max_batch", 4)
            given = arrays(7)
            await behind(all, gate, given)
            gate.open.set()
            right(await all.answers(), given)
            await empty(all.app)
            assert all.deployment.batch_sizes[4] == 1
            assert all.ran() == 7 * (LEARNING + 1)
            assert all.deployment.waiting == 0
            assert service_of(all.app).engine.door.limit.running == 0

    run(main)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_who_leaves_while_it_waits_takes_its_rows_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, how: str
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 6) as all:
            given = arrays(6)
            await behind(all, gate, given)
            all.peers[3].go(how)
            while all.deployment.waiting > 4:
                await asyncio.sleep(0.001)
            assert service_of(all.app).engine.door.limit.running == 5
            gate.open.set()
            await staying(all, given, 3)
            assert all.ran() == 6 * LEARNING + 5

    run(main)


def test_who_leaves_while_it_runs_changes_nothing_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 4) as all:
            given = arrays(4)
            await at(gate, all, given)
            all.peers[1].go("close")
            while all.app.site.in_flight > 3:
                await asyncio.sleep(0.001)
            assert all.deployment.zombies() == 0
            await asyncio.sleep(0.12)
            assert all.deployment.zombies() == 1
            gate.open.set()
            await staying(all, given, 1)
            assert all.deployment.zombies() == 0

    run(main)


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_where_all_leave_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, when: str
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 5) as all:
            given = arrays(5)
            if when == "waiting":
                await behind(all, gate, given)
            else:
                await at(gate, all, given)
            for peer in all.peers:
                peer.go("close")
            await empty(all.app)
            assert all.deployment.waiting == 0
            assert [job.item for job in all.jobs if not job.taken] == [None] * (when == "waiting")
            gate.open.set()
            assert service_of(all.app).engine.door.limit.running == 0

    run(main)


def test_a_poisoned_one_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 7) as all:
            execute = OnnxBackend._execute

            def picky(self: OnnxBackend, inputs: dict[str, Any]) -> dict[str, Any]:
                if (inputs["x"] < -50).any():
                    raise ValueError("poison")
                return execute(self, inputs)

            monkeypatch.setattr(OnnxBackend, "_execute", picky)
            given = arrays(7)
            given[4] = X - 100
            await all.say(given)
            answers = await all.answers()
            assert answers[4][0] == 400
            right(answers[:4] + answers[5:], given[:4] + given[5:])
            await empty(all.app)
            assert all.deployment.bisected >= 2
            assert all.deployment.done == 7 * (LEARNING + 1) + WARMED, "each is done once"
            assert all.deployment.waiting == 0
            assert service_of(all.app).engine.door.limit.running == 0

    run(main)


def test_in_a_close_nobody_is_blamed_for_anothers_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 3) as all:
            execute = OnnxBackend._execute

            def refuses(self: OnnxBackend, inputs: dict[str, Any]) -> dict[str, Any]:
                execute(self, inputs)
                raise ValueError("poison")

            monkeypatch.setattr(OnnxBackend, "_execute", refuses)
            gate.entered.clear()
            gate.open.clear()
            await all.say(arrays(3))
            assert await asyncio.to_thread(gate.entered.wait, 10)
            closing = asyncio.create_task(all.deployment.close())
            await asyncio.sleep(0)
            gate.open.set()
            answers = await all.answers()
            assert {status for status, _ in answers} == {all.deployment.gone().http_status}
            assert all_say(answers, b"E406")
            await closing
            await empty(all.app)

    run(main)


def all_say(answers: list[tuple[int, Any]], text: bytes) -> bool:
    return [text in body for _, body in answers] == [True] * len(answers)


def test_a_result_without_their_rows_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may call an axis by the batch's name that is none: then each request runs alone."""

    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 5) as all:
            execute = OnnxBackend._execute

            def summed(self: OnnxBackend, inputs: dict[str, Any]) -> dict[str, Any]:
                return {"y": execute(self, inputs)["y"].sum(axis=0, keepdims=True)}

            monkeypatch.setattr(OnnxBackend, "_execute", summed)
            given = arrays(5)
            await all.say(given)
            for (status, found), array in zip(await all.answers(), given, strict=True):
                assert status == 200
                np.testing.assert_allclose(found, (array @ WEIGHT).sum(axis=0, keepdims=True), rtol=1e-5)
            await empty(all.app)
            assert all.deployment.waiting == 0

    run(main)


@pytest.mark.parametrize("array", [np.float32(1.0).reshape(()), X[:, :3].copy()])
def test_together_they_are_told_what_each_is_told_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: Any
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 3) as all:
            peer = await Peer.of(all.port)
            await peer.say(request(array))
            status, _, alone = await peer.answer()
            await peer.close()
            assert (status, b"E296" in alone) == (400, True)
            for _ in range(LEARNING):
                await all.say([array] * 3)
                assert await all.answers() == [(400, alone)] * 3
            await empty(all.app)

    run(main)


@pytest.mark.parametrize("when", ["coming", "waiting", "running"])
def test_an_observer_that_raises_when_one_leaves_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, when: str
) -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        closed: list[Inbox] = []
        close = Inbox.close
        monkeypatch.setattr(Inbox, "close", lambda inbox: (closed.append(inbox), close(inbox)))
        async with crowd(tmp_path, monkeypatch, 4) as all:
            all.app.site.observers.append(Broken())
            given = arrays(4)
            if when == "waiting":
                await behind(all, gate, given)
            else:
                gate.entered.clear()
                gate.open.clear()
                await all.say(given)
            if when == "running":
                assert await asyncio.to_thread(gate.entered.wait, 10)
            all.peers[2].go("close")
            while not closed or all.app.site.in_flight > 3:  # its connection is left in good order, too
                await asyncio.sleep(0.001)
            gate.open.set()
            staying = [0, 1, 3]
            right(
                await all.answers([all.peers[index] for index in staying]),
                [given[index] for index in staying],
            )
            await empty(all.app)
            await asyncio.sleep(0)
            assert [str(context["exception"]) for context in told] == ["an observer broke"] * 4
            assert service_of(all.app).engine.door.limit.running == 0

    run(main)


def test_a_plan_that_goes_in_the_turn_in_which_they_came_counts_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 3) as all:
            engine = service_of(all.app).engine
            (plan,) = engine.plans
            board, boarded = Line.board, []
            retiring = engine.retire(plan, drain_s=0.0)

            def noted(self: Line, *given: Any, **more: Any) -> None:
                board(self, *given, **more)
                boarded.append(given)
                if len(boarded) == 3:
                    retiring.send(None)  # until it waits for them

            monkeypatch.setattr(Line, "board", noted)
            await all.say(arrays(3))
            assert [status for status, _ in await all.answers()] == [503] * 3
            retiring.close()
            assert engine.door.limit.running == 0
            assert all.app.site.in_flight == 0

    run(main)


@pytest.mark.parametrize("left", [False, True])
def test_nothing_of_those_who_failed_stays_in_a_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, left: bool
) -> None:
    seen: list[weakref.ref[Any]] = []
    execute, init = OnnxBackend._execute, Ride.__init__

    def picky(self: OnnxBackend, inputs: dict[str, Any]) -> dict[str, Any]:
        execute(self, inputs)
        raise ValueError("poison")

    def noted(self: Ride, *given: Any) -> None:
        init(self, *given)
        seen.append(weakref.ref(self))

    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 4) as all:
            monkeypatch.setattr(OnnxBackend, "_execute", picky)
            monkeypatch.setattr(Ride, "__init__", noted)
            gc.disable()
            gate.entered.clear()
            gate.open.clear()
            await all.say(arrays(4))
            assert await asyncio.to_thread(gate.entered.wait, 10)
            if left:
                for peer in all.peers:
                    peer.go("close")
                await empty(all.app)
            gate.open.set()
            if not left:
                assert [status for status, _ in await all.answers()] == [400] * 4
                await empty(all.app)
            while all.deployment.view().running:
                await asyncio.sleep(0.001)
            all.jobs.clear()
            await asyncio.sleep(0.01)
            assert seen
            assert [each() for each in seen] == [None] * len(seen)

    try:
        run(main)
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [1, 2])
def test_for_so_many_so_many_are_shed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, count: int
) -> None:
    async def main() -> None:
        door = Door(identify=lambda _: Caller(priority=8))
        own = [{"X-Tauten-Priority": "0"}] * 6 + [{"X-Tauten-Priority": "3"}] * count
        async with crowd(tmp_path, monkeypatch, 6 + count, door, lambda index: own[index]) as all:
            given = arrays(6 + count)
            low, high = all.peers[1:6], all.peers[6:]
            gate.entered.clear()
            gate.open.clear()
            await all.say(given[:1], all.peers[:1], lambda _: own[0])
            assert await asyncio.to_thread(gate.entered.wait, 10)
            await all.say(given[1:6], low, lambda _: own[0])
            while all.deployment.waiting < 5:
                await asyncio.sleep(0.001)
            all.deployment.bound = 5
            await all.say(given[6:], high, lambda _: own[6])
            shed = [(await peer.answer())[0] for peer in low[5 - count :]]
            assert shed == [429] * count
            assert (all.deployment.waiting, all.deployment.shed) == (5, count)
            assert all.deployment.queue.at_least(0) == 5
            assert all.deployment.queue.at_least(1) == count
            gate.open.set()
            staying = [*range(6 - count), *range(6, 6 + count)]
            right(
                await all.answers([all.peers[index] for index in staying]),
                [given[index] for index in staying],
            )
            await empty(all.app)
            assert service_of(all.app).engine.door.limit.running == 0

    run(main)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_tenant_with_fewer_riders_gets_places_of_one_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, count: int
) -> None:
    """Of five places two are the lighter one's share; those who waited as one give up as many as come."""

    async def main() -> None:
        door = Door(identify=lambda exchange: Caller(tenant=exchange.headers["x-api-key"]))
        own = [{"X-Api-Key": "heavy"}] * 6 + [{"X-Api-Key": "light"}] * count
        async with crowd(tmp_path, monkeypatch, 6 + count, door, lambda index: own[index]) as all:
            given, shed = arrays(6 + count), min(count, 2)
            heavy, light = all.peers[1:6], all.peers[6:]
            gate.entered.clear()
            gate.open.clear()
            await all.say(given[:1], all.peers[:1], lambda _: own[0])
            assert await asyncio.to_thread(gate.entered.wait, 10)
            await all.say(given[1:6], heavy, lambda _: own[0])
            while all.deployment.waiting < 5:
                await asyncio.sleep(0.001)
            all.deployment.bound = 5
            await all.say(given[6:], light, lambda _: own[6])
            refused = [*heavy[5 - shed :], *light[2:]]
            assert [(await peer.answer())[0] for peer in refused] == [429] * count
            assert (all.deployment.waiting, all.deployment.shed) == (5, shed)
            assert all.deployment.rejected == count - shed
            (cls,) = all.deployment.queue._classes
            held = {lane.tenant: (lane.count, lane.live) for *_, lane in cls.lanes}
            assert held == {"heavy": (5 - shed,) * 2, "light": (shed,) * 2}
            gate.open.set()
            staying = [*range(6 - shed), *range(6, 6 + shed)]
            right(
                await all.answers([all.peers[index] for index in staying]),
                [given[index] for index in staying],
            )
            await empty(all.app)
            assert service_of(all.app).engine.door.limit.running == 0
            assert (all.deployment.waiting, all.deployment.coming) == (0, 0)

    run(main)


def test_those_who_come_in_a_drain_are_all_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 3) as all:
            door = service_of(all.app).engine.door
            refused, door.draining = door.refused, True
            await all.say(arrays(3))
            assert [status for status, _ in await all.answers()] == [503] * 3
            assert door.refused == refused + 3

    run(main)


def test_those_who_do_not_fit_all_come_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 5) as all:
            door = service_of(all.app).engine.door
            refused, check, seen = door.refused, door.limit.check, []

            def narrow(priority: int = 0, *, predicted: bool = False, count: int = 1) -> None:
                seen.append(count)
                if door.limit.running + count > 3:
                    raise Overloaded("three at most", help="retry later", retry_after_s=1.0)
                check(priority, predicted=predicted, count=count)

            monkeypatch.setattr(door.limit, "check", narrow)
            given = arrays(5)
            await all.say(given)
            answers = await all.answers()
            assert [status for status, _ in answers] == [200, 200, 200, 429, 429]
            right(answers[:3], given[:3])
            assert seen == [5, 1, 1, 1, 1]  # the fifth need not ask: the fourth was told no just now
            assert door.refused == refused + 2
            await empty(all.app)
            assert door.limit.running == 0

    run(main)


def test_tenants_and_own_deadlines_travel_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        door = Door(identify=lambda exchange: Caller(tenant=exchange.headers["x-api-key"]))
        own = [{"X-Api-Key": "a"}, {"X-Api-Key": "b"}, {"X-Api-Key": "a"}, {"X-Api-Key": "a"}]
        own[3]["X-Tauten-Deadline-Ms"] = "9000"
        async with crowd(tmp_path, monkeypatch, 4, door, lambda index: own[index]) as all:
            given = arrays(4)
            await all.say(given, headers=lambda index: own[index])
            right(await all.answers(), given)
            found = sorted((job.tenant, job.count) for job in all.jobs)
            assert found == [("a", 1), ("a", 2), ("b", 1)]
            assert {job.count for job in all.jobs if job.deadline - job.queued < 9.5} == {1}

    run(main)


def test_a_deadline_ends_all_of_a_ride(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 3) as all:
            service_of(all.app).budget_s = 0.15
            gate.open.clear()
            await all.say(arrays(3))
            assert [status for status, _ in await all.answers()] == [504] * 3
            await empty(all.app)
            gate.open.set()
            assert service_of(all.app).engine.door.limit.running == 0

    run(main)


def test_counts_of_a_ride_are_those_of_its_riders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 5) as all:
            app = all.app
            metrics, statistics = Metrics(app.site), Statistics()
            app.site.observers += [metrics, statistics]
            await all.say(arrays(5))
            await all.answers()
            await empty(app)
            await asyncio.sleep(0)
            told = statistics.shown(service_of(app))
            assert (told["inference_count"], told["execution_count"]) == (10, 1)
            assert [each["batch_size"] for each in told["batch_stats"]] == [10]
            parts = told["inference_stats"]
            assert parts["success"]["count"] == 5
            assert sum(each["ns"] for each in told["tauten"]["causes"].values()) == pytest.approx(
                parts["success"]["ns"], rel=1e-6
            )
            metrics.count()
            assert sum(each.count for each in metrics.requests.series.values()) == 5
            assert metrics.responses.series == {("oip-infer", "200"): 5}
            metrics.slice(10.0)
            assert metrics.looked_at.series == {("linear",): 5}
            kept = list(app.site.traces._new[""])[-5:]
            seconds = [
                amount for rider in kept for _, unit, amount in rider.trace.spent if unit == "replica_seconds"
            ]
            assert sum(seconds) == pytest.approx(all.jobs[0].seconds)
            assert [rider.trace.batches for rider in kept] == [[("model", 5, all.jobs[0].reason)]] * 5

    run(main)


def test_texts_are_each_callers_own_as_is_where_the_time_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def textual(folder: Path, axis: str) -> Path:
        nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)]
        return write(folder / "linear.onnx", nodes, {"x": ("float32", [axis, 4])}, {"y": ("str", [axis, 4])})

    async def main() -> None:
        monkeypatch.setattr("serve.test_express.linear", textual)
        door = Door(identify=lambda exchange: Caller(timing="x-api-key" in exchange.headers))
        own = [{"X-Api-Key": "a"}, {}, {"X-Api-Key": "b"}]
        async with crowd(tmp_path, monkeypatch, 3, door, lambda index: own[index]) as all:
            given, alone = arrays(3), []
            for peer, array in zip(all.peers, given, strict=True):
                await peer.say(request(array, headers={"X-Unknown": "the longer way"}))
                alone.append((await peer.answer())[2])
            for index, peer in enumerate(all.peers):
                for _ in range(LEARNING):
                    await peer.say(request(headers=own[index]))
                    await peer.answer()
            all.jobs.clear()
            await all.say(given, headers=lambda index: own[index])
            answers = [await peer.answer() for peer in all.peers]
            assert [job.count for job in all.jobs] == [3]
            assert [(status, body) for status, _, body in answers] == [(200, body) for body in alone]
            assert ["server-timing" in headers for _, headers, _ in answers] == [True, False, True]

    run(main)


def test_models_without_a_batch_axis_take_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(tmp_path, axis="other") as (app, _), listening(app) as port:
            peers = [await Peer.of(port) for _ in range(3)]
            given = arrays(3)
            for _ in range(LEARNING + 1):
                for peer, array in zip(peers, given, strict=True):
                    await peer.say(request(array))
                for peer, array in zip(peers, given, strict=True):
                    status, headers, body = await peer.answer()
                    size = int(headers["inference-header-content-length"])
                    assert status == 200
                    np.testing.assert_allclose(
                        np.frombuffer(body[size:], np.float32).reshape(2, 3), array @ WEIGHT, rtol=1e-5
                    )
            for peer in peers:
                await peer.close()

    run(main)


# -- while a run keeps the model -----------------------------------------------------------------------------


@asynccontextmanager
async def gathering(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, count: int, gather_s: float = 10.0
) -> AsyncIterator[Crowd]:
    """The first client's run waits at the gate, and is thought to take long."""
    monkeypatch.setattr("tauten.serve.oip.ride.GATHER_S", gather_s)
    monkeypatch.setattr("tauten.serve.oip.ride._OF_BUDGET", 1.0)
    monkeypatch.setattr(Deployment, "busy_s", lambda self: 0.0 if self._idle else 10.0)
    async with crowd(folder, monkeypatch, count) as all:
        await at(gate, all, arrays(1))
        yield all


async def one_by_one(all: Crowd, given: list[Any], **how: Any) -> None:
    """Each asks in a turn of its own."""
    for index in range(1, len(given)):
        before = all.app.site.in_flight
        await all.say([given[index]], [all.peers[index]], **how)
        while all.app.site.in_flight == before:
            await asyncio.sleep(0.001)


def test_those_who_would_only_wait_for_the_model_travel_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    async def main() -> None:
        async with gathering(tmp_path, monkeypatch, gate, 6) as all:
            seen: list[Any] = []
            statistics = Statistics()
            all.app.site.observers.append(statistics)
            answered = all.app.site.answered
            monkeypatch.setattr(
                all.app.site, "answered", lambda riders: (seen.extend(riders), answered(riders))
            )
            given = arrays(6)
            await one_by_one(all, given)
            assert all.deployment.waiting == 0, "they have yet to begin"
            gate.open.set()
            right(await all.answers(), given)
            await empty(all.app)
            assert [job.count for job in all.jobs] == [1, 5]
            causes = statistics.shown(service_of(all.app))["tauten"]["causes"]
            waited_s = sum(all.jobs[1].started - rider.came for rider in seen[1:])
            assert causes["queue"]["ns"] / 1e9 == pytest.approx(waited_s, rel=0.02)
            riders = sorted(seen[1:], key=lambda rider: float(rider.came))
            traces = [rider.trace for rider in riders]
            waits = [row for trace in traces for row in trace.rows if row[1] == "queue" and row[3] > row[2]]
            assert [row[2] for row in waits[::2]] == [rider.came for rider in riders], "from when each came"
            for trace in traces:
                assert all_parts(trace) == pytest.approx(trace.end - trace.start, rel=0.01)

    def all_parts(trace: Any) -> float:
        owned = sum(row[3] - row[2] for row in trace.rows if row[1] not in ("user", "visit", "client"))
        return float(owned)

    run(main)


def test_a_run_that_goes_on_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    async def main() -> None:
        async with gathering(tmp_path, monkeypatch, gate, 4, gather_s=0.02) as all:
            given = arrays(4)
            await one_by_one(all, given)
            while all.deployment.waiting < 3:
                await asyncio.sleep(0.001)
            gate.open.set()
            right(await all.answers(), given)
            assert sum(job.count for job in all.jobs) == 4

    run(main)


def test_a_full_ride_gathers_no_more_and_who_has_a_deadline_never_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    async def main() -> None:
        async with gathering(tmp_path, monkeypatch, gate, 7) as all:
            monkeypatch.setattr(service_of(all.app).station(), "most", 3)
            given = arrays(7)
            await one_by_one(all, given[:4])
            while all.deployment.waiting < 3:
                await asyncio.sleep(0.001)
            await all.say([given[4]], [all.peers[4]])
            while all.app.site.in_flight < 5:
                await asyncio.sleep(0.001)
            assert all.deployment.waiting == 3
            timed = {"x-tauten-deadline-ms": "60000"}
            await all.say([given[5]], [all.peers[5]], headers=lambda _: timed)
            while all.deployment.waiting < 5:
                await asyncio.sleep(0.001)
            gate.open.set()
            right(await all.answers(all.peers[:6]), given[:6])
            await empty(all.app)
            assert sorted(job.count for job in all.jobs) == [1, 1, 1, 3]

    run(main)


def test_who_leaves_while_they_gather_is_not_taken_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    async def main() -> None:
        async with gathering(tmp_path, monkeypatch, gate, 5) as all:
            given = arrays(5)
            await one_by_one(all, given)
            all.peers[2].go("close")
            while all.app.site.in_flight > 4:
                await asyncio.sleep(0.001)
            gate.open.set()
            await staying(all, given, 2)
            assert [job.count for job in all.jobs] == [1, 3]

    run(main)


def test_a_replica_that_becomes_idle_before_their_turn_is_over_begins_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        leave, wrong = Line._leave, []

        def begun_before(line: Line) -> None:
            line._begin()
            leave(line)

        monkeypatch.setattr(Line, "_leave", begun_before)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        async with crowd(tmp_path, monkeypatch, 3) as all:
            given = arrays(3)
            await all.say(given)
            right(await all.answers(), given)
            assert [job.count for job in all.jobs] == [3]
        assert not wrong

    run(main)


def test_the_ride_of_a_short_budget_gathers_less_than_it_could_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    async def main() -> None:
        async with gathering(tmp_path, monkeypatch, gate, 3) as all:
            monkeypatch.setattr("tauten.serve.oip.ride._OF_BUDGET", 1e-6)
            given = arrays(3)
            await one_by_one(all, given)
            while all.deployment.waiting < 2:
                await asyncio.sleep(0.001)
            gate.open.set()
            right(await all.answers(), given)
            assert [job.count for job in all.jobs] == [1, 1, 1]

    run(main)


def test_under_another_plan_they_weigh_what_its_backend_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with crowd(tmp_path, monkeypatch, 2) as all:
            service = service_of(all.app)
            given = arrays(2)
            await all.say(given)
            right(await all.answers(), given)
            assert {(job.weight / job.count, job.group) for job in all.jobs} == {(X.size, all.jobs[0].group)}
            monkeypatch.setattr(OnnxBackend, "weight", lambda self, item: 3.0)
            monkeypatch.setattr(OnnxBackend, "group", lambda self, item: "all")
            graph = service.workflow.graph
            assert graph is not None
            stage = StagePlan(batch=Batch(max=4), threads=1)
            await service.swap(Plan(name="other", graph=graph.hash, stages={STAGE: stage}))
            all.jobs.clear()
            await all.say(given)
            right(await all.answers(), given)
            assert {(job.weight / job.count, job.group) for job in all.jobs} == {(3.0, "all")}
            await empty(all.app)

    run(main)
