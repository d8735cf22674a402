"""Storms over rides in virtual time: clients leave, runs break, replicas die, plans change, and nothing is left over."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.kit_asgi import site
from serve.kit_onnx import two
from tauten.clock import VirtualLoop
from tauten.errors import BackendError, InternalError
from tauten.plan.plan import Batch
from tauten.run.backends.onnx import OnnxBackend
from tauten.run.deploy.deployment import Deployment
from tauten.run.engine import Engine
from tauten.serve.app import App
from tauten.serve.door import Caller, Door
from tauten.serve.http.connection import Connection
from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.thin import Hub
from tauten.serve.observe.metrics import Metrics
from tauten.serve.oip import express, ride
from tauten.serve.oip.express import Rider
from tauten.serve.oip.ride import Ride
from tauten.serve.oip.statistics import Statistics
from tauten.serve.safety.limits import Allowance, Total
from tauten.serve.tensor_model import TensorService, tensor_model

POISON = -1000  # a number that breaks the run of any batch with it
RUN_S, ROW_S = 0.002, 0.0001  # of a run, and of each of its rows
TURNS = 120
TURN_S = 0.003  # between two turns of the loop in which something happens
ALLOWED = {200, 400, 429, 499, 500, 502, 503, 504}


class Wire:
    """A transport whose other end is the test."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.sent = b""
        self.ended = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name.endswith("name") else None

    def write(self, data: bytes) -> None:
        assert not self.ended, "nothing is written to a client that is gone"
        self.sent += data

    def abort(self) -> None:
        if not self.ended:
            self.ended = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    close = abort

    def is_closing(self) -> bool:
        return self.ended

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, *_: Any) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Client:
    """One connection, and what it asked and was told."""

    def __init__(self, hub: Hub, headers: dict[str, str]) -> None:
        self.headers = headers
        self.wire = Wire()
        self.connection = self.wire.connection = Connection(hub)
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]
        self.asked: list[tuple[Any, Any]] = []
        self.told: list[int] = []
        self.left = False

    def ask(self, a: Any, b: Any) -> None:
        self.asked.append((a, b))
        self.connection.data_received(request(a, b, self.headers))

    @property
    def waits(self) -> bool:
        return not self.left and len(self.told) < len(self.asked)

    def leave(self, how: str) -> None:
        self.left = True
        if how == "half":
            if not self.connection.eof_received():
                self.wire.abort()
        elif not self.wire.ended:
            self.wire.ended = True
            self.connection.connection_lost(None)

    def read(self) -> None:
        """Take what came; each answer must be the one to the next question."""
        while b"\r\n\r\n" in self.wire.sent:
            head, _, rest = self.wire.sent.partition(b"\r\n\r\n")
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            size = int(lines[b"content-length"])
            assert len(rest) >= size
            body, self.wire.sent = rest[:size], rest[size:]
            status = int(head.split(b" ")[1])
            assert len(self.told) < len(self.asked), "an answer that nobody asked for"
            self.check(status, lines, body)
            self.told.append(status)
        assert not self.wire.sent, "half an answer"

    def check(self, status: int, lines: dict[bytes, bytes], body: bytes) -> None:
        a, b = self.asked[len(self.told)]
        assert status in ALLOWED, (status, body)
        poisoned = a.min() <= POISON
        if status == 200:
            text = int(lines[b"inference-header-content-length"])
            total, first = np.frombuffer(body[text:], np.int64).reshape(2, *a.shape)
            assert not poisoned
            np.testing.assert_array_equal(total, a + b)
            np.testing.assert_array_equal(first, a)
        elif status == 400:
            assert poisoned, body


def request(a: Any, b: Any, headers: dict[str, str]) -> bytes:
    inputs = [
        {"name": name, "shape": list(each.shape), "datatype": "INT64"}
        | {"parameters": {"binary_data_size": each.nbytes}}
        for name, each in (("b", b), ("a", a))
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("total", "first")]
    text = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    body = text + b.tobytes() + a.tobytes()
    own = {"Host": "localhost", "Content-Length": len(body), "Inference-Header-Content-Length": len(text)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (own | headers).items())
    return f"POST /v2/models/two/infer HTTP/1.1\r\n{lines}\r\n".encode() + body


class Faults:
    """What goes wrong in the backends."""

    def __init__(self, seed: int, share: float) -> None:
        self.random = random.Random(seed)
        self.share = share  # of the runs that kill their backend
        self.killed = 0

    def duration(self, items: Any) -> float:
        return RUN_S + ROW_S * sum(len(item["a"]) for item in items)

    def answer(self, backend: OnnxBackend, items: Any) -> Any:
        if self.random.random() < self.share:
            self.killed += 1
            error = BackendError("gone", help="it is opened anew")
            error.dead = True
            raise error
        return backend.run(items)


class Storm:
    """A server without sockets, its clients, and what happens to them."""

    def __init__(
        self, seed: int, folder: Path, patch: pytest.MonkeyPatch, broken: bool = False, abrupt: bool = False
    ) -> None:
        self.folder, self.patch, self.broken, self.abrupt = folder, patch, broken, abrupt
        self.random = random.Random(seed)
        self.total = Total()
        self.allowances: dict[str, Allowance] = {}
        self.faults = Faults(seed, self.random.choice([0.0, 0.0, 0.02]))
        self.clients: list[Client] = []
        self.gone: list[Client] = []
        self.problems: list[dict[str, Any]] = []
        self.swaps: list[asyncio.Task[str]] = []
        self.rows = self.random.choice([1, 2])
        self.many = self.random.choice([6, 16, 40])

    def identify(self, exchange: Any) -> Caller:
        key = exchange.headers["x-api-key"]
        allowance = self.allowances.get(key)
        if allowance is None:
            caller = Caller(name=key, tenant=key.rstrip("0123456789"), priority=8, timing=key.endswith("1"))
            allowance = self.allowances[key] = Allowance(caller, 0.0, self.total)
        allowance.begin(0.0)
        exchange.on_close(allowance.end)
        return allowance.caller

    def service(self, clock: Any) -> TensorService:
        service = tensor_model(two(self.folder), threads=1)
        engine = Engine(service.engine.deployments._store, clock=clock)
        service.engine = engine
        service.budget_s = self.random.choice([0.06, 0.2, 10.0])
        return service

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.patch.setattr(express, "real", loop.time)
        self.patch.setattr(ride, "real", loop.time)
        faults = self.faults
        self.patch.setattr(OnnxBackend, "duration", lambda _, items: faults.duration(items), raising=False)
        self.patch.setattr(OnnxBackend, "answer", lambda of, items: faults.answer(of, items), raising=False)
        execute = OnnxBackend._execute

        def picky(backend: OnnxBackend, inputs: dict[str, Any]) -> Any:
            if (inputs["a"] <= POISON).any():
                raise ValueError("poison")
            return execute(backend, inputs)

        self.patch.setattr(OnnxBackend, "_execute", picky)
        service = self.service(loop.time)
        async with site(service, door=Door(identify=self.identify), apis=["oip"]) as app:
            await self.storm(app, service)

    async def storm(self, app: App, service: TensorService) -> None:
        rng = self.random
        self.hub = Hub(app, HttpLimits())
        self.metrics, self.statistics = Metrics(app.site), Statistics()
        app.site.observers += [self.metrics, self.statistics]
        if self.broken:
            app.site.observers.append(Broken())
        while len(self.clients) < self.many:
            self.come()
        for deployment in deployments(service):
            self.narrow(deployment)
        service._station = None
        for _ in range(TURNS):
            self.turn()
            if rng.random() < 0.03:
                self.swap(service)
            await asyncio.sleep(0.0 if rng.random() < 0.3 else rng.random() * TURN_S)
            for client in self.clients:
                client.read()
            if rng.random() < 0.5:
                await self.balance(service)
            while len(self.clients) < self.many:
                self.come()
        if self.abrupt:
            self.turn()
            await asyncio.sleep(0.0 if rng.random() < 0.5 else rng.random() * TURN_S)
            held = deployments(service)
            await service.close()
            assert all(each.queue.live == 0 for each in held)
        await self.calm()
        await self.check(app, service)

    async def balance(self, service: TensorService) -> None:
        for _ in range(3):  # tasks that were cancelled have seen it then
            await asyncio.sleep(0)
        for deployment in deployments(service):
            balanced(deployment)

    def narrow(self, deployment: Deployment) -> None:
        rng = self.random
        deployment.max_batch = rng.choice([1, 2, 4, 8, 32])
        deployment.bound = rng.choice([4, 16, 1024])
        deployment.max_weight = rng.choice([float("inf"), float("inf"), 20.0])
        deployment._prepares = rng.random() < 0.5  # a busy replica is given a second batch then

    def swap(self, service: TensorService) -> None:
        (opened, *_) = service.engine.plans.values()
        stages = {
            "model": opened.plan.stages["model"].__class__(
                batch=Batch(max=self.random.choice([2, 4, 8, 16])),
                threads=1,
                replicas=self.random.choice([1, 2]),
            )
        }
        plan = opened.plan.__class__(graph=opened.plan.graph, stages=stages)
        self.swaps.append(asyncio.create_task(service.swap(plan)))

    def come(self) -> None:
        rng = self.random
        headers = {"X-Api-Key": rng.choice(["a1", "a2", "a2", "b1"])}
        if rng.random() < 0.15:
            headers["X-Tauten-Priority"] = str(rng.choice([-1, 2]))
        if rng.random() < 0.04:
            headers["X-Tauten-Deadline-Ms"] = str(rng.choice([5, 12, 500]))
        self.clients.append(Client(self.hub, headers))

    def turn(self) -> None:
        """What one turn of the loop finds in the sockets."""
        rng = self.random
        rows = self.rows
        eager = rng.choice([0.1, 0.6, 1.0])
        for client in list(self.clients):
            if client.wire.ended:
                client.left = True
            if client.waits and rng.random() < 0.03:
                client.leave(rng.choice(["close", "half"]))
            elif not client.left and not client.waits and rng.random() < eager:
                self.ask(client, rows)
                if rng.random() < 0.05:
                    self.ask(client, rows)  # a second one behind the first
                if rng.random() < 0.05:
                    client.leave(rng.choice(["close", "half"]))
            if client.left:
                self.clients.remove(client)
                self.gone.append(client)

    def ask(self, client: Client, rows: int) -> None:
        rng = self.random
        a = np.array([[rng.randrange(100), rng.randrange(100)] for _ in range(rows)])
        if rng.random() < 0.01:
            a[0, 0] = POISON
        client.ask(a, a * 3 + 1)

    async def calm(self) -> None:
        until = asyncio.get_running_loop().time() + 60.0
        while any(client.waits for client in self.clients):
            for client in self.clients:
                if client.wire.ended:
                    client.left = True
                client.read()
            assert asyncio.get_running_loop().time() < until, "an answer was lost"
            await asyncio.sleep(0.01)
        for each in await asyncio.gather(*self.swaps, return_exceptions=True):
            closed = self.abrupt and isinstance(each, InternalError)  # which overtook it
            assert closed or isinstance(each, str), each
        for _ in range(20):
            await asyncio.sleep(0.01)

    async def check(self, app: App, service: TensorService) -> None:
        """Each answer came once, and nothing is held any more."""
        for client in self.clients:
            client.read()
        engine = service.engine
        assert app.site.in_flight == 0
        assert not self.hub.running
        assert engine.door.limit.running == 0
        assert self.total.running == 0
        assert {each.running for each in self.allowances.values()} <= {0}
        for opened in engine.plans.values():
            assert (opened.requests, opened.running) == (set(), 0)
        for deployment in deployments(service):
            queue = deployment.queue
            assert (queue.live, deployment._groups, deployment.coming) == (0, {}, 0)
            assert deployment.zombies() == 0
            queue._sweep()
            counts = [lane.count for cls in queue._classes for _, _, lane in cls.lanes]
            assert (queue._size, sum(counts)) == (0, 0)
        expected = "an observer broke" if self.broken else "nothing"
        assert {str(each["exception"]) for each in self.problems} <= {expected}, self.problems
        self.check_kept(app)
        self.check_counts(service)

    def check_kept(self, app: App) -> None:
        """What the ring of traces keeps of an answered one is times and names, no tensors and no connection."""
        app.site.traces._index()
        found = [done.kept for of in app.site.traces._kept._tenants.values() for done, *_ in of.values()]
        kept = [each for each in found if isinstance(each, Rider)]
        assert kept
        for rider in kept:
            assert rider.ride is not None
            job: Any = rider.ride.job
            assert (rider.data, getattr(rider.wire, "transport", None)) == (b"", None)
            assert (rider._closing, rider.ride.riders, rider.ride.armed, rider.ride.coming) == (
                [],
                [],
                None,
                set(),
            )
            assert (job.item, job.result, job.error, job.waiter.done()) == (None, None, None, True)

    def check_counts(self, service: TensorService) -> None:
        told = Counter(status for client in (*self.clients, *self.gone) for status in client.told)
        self.metrics.count()
        counted: Counter[int] = Counter()
        for (_, status), times in self.metrics.responses.series.items():
            counted[int(status)] += int(times)
        lost = sum(len(client.asked) - len(client.told) for client in self.gone)
        for each in ALLOWED - {499}:  # those who left have no answer, or have not read it
            assert told[each] <= counted[each] <= told[each] + lost
        shown = self.statistics.shown(service)
        parts = shown["inference_stats"]
        assert parts["success"]["count"] == counted[200]
        assert shown["inference_count"] == counted[200] * self.rows
        assert sum(each["ns"] for each in shown["tauten"]["causes"].values()) == pytest.approx(
            parts["success"]["ns"], rel=1e-3, abs=5e6
        )


def balanced(deployment: Deployment) -> None:
    """Every count of what waits agrees with what waits."""
    queue = deployment.queue
    waiting = list(queue)
    assert queue.live == sum(job.count for job in waiting)
    groups: Counter[Any] = Counter()
    weights: dict[Any, float] = {}
    for job in waiting:
        groups[job.group] += job.count
        weights[job.group] = weights.get(job.group, 0.0) + job.weight
        assert job.count == job.waiter.count == len(job.waiter.riders) if isinstance(job.waiter, Ride) else 1
        assert len(job.item["a"]) == round(getattr(job.waiter, "rows", len(job.item["a"])))
        assert job.weight == pytest.approx(sum(array.size for array in job.item.values()))
    if deployment.max_batch > 1:
        assert {group: crowd.count for group, crowd in deployment._groups.items()} == groups
        assert {group: crowd.weight for group, crowd in deployment._groups.items()} == pytest.approx(weights)
    lanes = [lane for cls in queue._classes for _, _, lane in cls.lanes]
    assert [lane.count for lane in lanes] == [sum(job.count for *_, job in lane.heap) for lane in lanes]
    assert queue._size == sum(len(lane.heap) for lane in lanes)


class Broken:
    """An observer that raises."""

    def finished(self, *_: Any) -> None:
        raise RuntimeError("an observer broke")


def deployments(service: TensorService) -> list[Deployment]:
    found = [
        each
        for opened in service.engine.plans.values()
        for each in opened.bound["model"].deployments.values()
    ]
    return [each for each in found if isinstance(each, Deployment)]


@pytest.mark.parametrize("how", ["calm", "broken", "abrupt"])
@pytest.mark.parametrize("seed", [4, 202, 206, 224])  # of hundreds those that found something
def test_after_a_storm_nothing_is_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, how: str
) -> None:
    storm = Storm(seed, tmp_path, monkeypatch, how == "broken", how == "abrupt")
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(storm.run())
