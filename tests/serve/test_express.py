"""Requests whose head repeats: answered without a task, and in everything else as any other."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.kit_asgi import site
from serve.kit_http import Peer, run, up
from serve.kit_onnx import linear
from tauten.describe.slo import Slo
from tauten.errors import Cancelled, DeadlineExceeded, InputError, Overloaded
from tauten.run.backends.onnx import OnnxBackend
from tauten.run.deploy.deployment import Deployment
from tauten.run.single import Single
from tauten.run.trace import Trace
from tauten.serve.app import App
from tauten.serve.door import Call, Caller, Door
from tauten.serve.exchange import Exchange
from tauten.serve.http.known import Heads, Known
from tauten.serve.observe.metrics import Metrics
from tauten.serve.oip.express import Express, Rider
from tauten.serve.oip.statistics import Statistics
from tauten.serve.safety.guard import Guard
from tauten.serve.safety.keys import Keys, new_key, revoke_key
from tauten.serve.safety.limits import Allowance
from tauten.serve.tensor_model import TensorService, tensor_model

X = np.arange(8, dtype=np.float32).reshape(2, 4)
WEIGHT = np.add.outer(np.arange(4), np.arange(3)).astype(np.float32)
LOOP = ("", "loop")  # what a task waits for its turns; the quicker way has none
LEARNING = 2  # requests until a head is known


class Watch:
    """An observer that keeps what it is told of all exchanges, however they went."""

    def __init__(self) -> None:
        self.seen: list[tuple[Exchange, Call | None, BaseException | None, float]] = []

    def finished(
        self, exchange: Exchange, call: Call | None, error: BaseException | None, seconds: float
    ) -> None:
        self.seen.append((exchange, call, error, seconds))


class Taken:
    """How many requests went the quicker way."""

    count = 0


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    found, take = Taken(), Express.take

    def counted(self: Express, *given: Any) -> Any:
        answer = take(self, *given)
        found.count += answer is not None
        return answer

    monkeypatch.setattr(Express, "take", counted)
    return found


class Gate:
    """Runs of the model wait until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Shut once `entered` was cleared after the model's warm-up; open before."""
    found, execute = Gate(), OnnxBackend._execute
    found.open.set()

    def held(self: OnnxBackend, inputs: dict[str, Any]) -> dict[str, Any]:
        found.entered.set()
        assert found.open.wait(20)
        return execute(self, inputs)

    monkeypatch.setattr(OnnxBackend, "_execute", held)
    monkeypatch.setattr(OnnxBackend, "inline", False)  # the loop shall not wait at the gate
    return found


@asynccontextmanager
async def listening(app: App) -> AsyncIterator[int]:
    server = await up(app)
    try:
        yield server.port
    finally:
        await server.close()


@asynccontextmanager
async def serving(
    folder: Path, door: Door | None = None, slo: Slo | None = None, axis: str = "n"
) -> AsyncIterator[tuple[App, Peer]]:
    """The linear model, and one client of it."""
    service = tensor_model(linear(folder, axis=axis), threads=1)
    if slo is not None:
        service.promise(slo)
    async with site(service, door=door, apis=["oip", "native"]) as app, listening(app) as port:
        peer = await Peer.of(port)
        try:
            yield app, peer
        finally:
            await peer.close()


def request(array: Any = X, headers: dict[str, str] | None = None, **more: Any) -> bytes:
    """Bytes of one inference with raw tensors both ways."""
    given = {"name": "x", "shape": list(array.shape), "datatype": "FP32"}
    asked = {
        "inputs": [{**given, "parameters": {"binary_data_size": array.nbytes}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        **more,
    }
    text = json.dumps(asked).encode()
    body = text + array.tobytes()
    lines = {
        "Host": "localhost",
        "Content-Length": str(len(body)),
        "Inference-Header-Content-Length": str(len(text)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /v2/models/linear/infer HTTP/1.1\r\n{head}\r\n".encode() + body


async def asked(peer: Peer, data: bytes) -> tuple[int, dict[str, str], bytes]:
    await peer.say(data)
    return await peer.answer()


async def repeated(peer: Peer, data: bytes, times: int) -> list[tuple[int, dict[str, str], bytes]]:
    return [await asked(peer, data) for _ in range(times)]


def service_of(app: App) -> TensorService:
    service = app.site.services.find("linear")
    assert isinstance(service, TensorService)
    return service


async def empty(app: App) -> None:
    """Wait until nothing runs: what is left open then is left open for ever."""
    (opened,) = service_of(app).engine.plans.values()
    while opened.requests or app.site.in_flight:
        await asyncio.sleep(0.001)


# -- what is answered ----------------------------------------------------------------------------------------


def test_both_ways_give_the_same_answer(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, peer):
            answers = await repeated(peer, request(), 6)
            assert taken.count == 6 - LEARNING
            plain = [
                (
                    status,
                    {name: value for name, value in headers.items() if name not in ("date", "x-request-id")},
                    body,
                )
                for status, headers, body in answers
            ]
            assert plain == [plain[0]] * 6
            status, headers, body = answers[-1]
            text = int(headers["inference-header-content-length"])
            assert status == 200
            np.testing.assert_allclose(np.frombuffer(body[text:], np.float32).reshape(2, 3), X @ WEIGHT)
            assert len({headers["x-request-id"] for _, headers, _ in answers}) == 6

    run(main)


@pytest.mark.parametrize("headers", [{"Accept-Encoding": "gzip, deflate"}, {"X-Tauten-Priority": "3"}])
def test_what_changes_nothing_holds_nobody_up(tmp_path: Path, taken: Taken, headers: dict[str, str]) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, peer):
            answers = await repeated(peer, request(headers=headers), 5)
            assert [status for status, _, _ in answers] == [200] * 5
            assert taken.count == 5 - LEARNING

    run(main)


def test_each_request_has_its_own_tensors(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, peer):
            for number in range(6):
                array = X + number
                _, headers, body = await asked(peer, request(array))
                text = int(headers["inference-header-content-length"])
                found = np.frombuffer(body[text:], np.float32).reshape(2, 3)
                np.testing.assert_allclose(found, array @ WEIGHT)
            assert taken.count == 6 - LEARNING

    run(main)


def test_a_head_means_the_same_on_the_clients_next_connection(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        watch = Watch()
        async with serving(tmp_path) as (app, peer):
            await repeated(peer, request(), LEARNING)
            app.site.observers.append(watch)
            other, foreign = [
                Peer(*await asyncio.open_connection("127.0.0.1", peer.port, local_addr=(host, 0)))
                for host in ("127.0.0.1", "127.0.0.2")
            ]
            for client, quick in ((other, 1), (foreign, 0)):
                taken.count = 0
                status, headers, body = await asked(client, request(X + 1.0))
                text = int(headers["inference-header-content-length"])
                found = np.frombuffer(body[text:], np.float32).reshape(2, 3)
                np.testing.assert_allclose(found, (X + 1.0) @ WEIGHT)
                assert (status, taken.count) == (200, quick)
            assert (await asked(other, request()))[0] == 200
            client = other.writer.get_extra_info("sockname")
            assert watch.seen[-1][0].scope["client"] == client, "each connection is told as itself"
            unlike = request()[: -X.nbytes].replace(b'"FP32"', b'"fp32"') + X.tobytes()
            assert (await asked(other, unlike))[0] == 400, "its JSON is read, whatever its head was"
            assert watch.seen[-1][0].scope["client"] == client
            await other.close()
            await foreign.close()

    run(main)


def test_a_head_is_known_once_two_connections_have_sent_it(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, peer):
            for quick in (0, 0, 1, 1):  # each its first request
                client = Peer(*await asyncio.open_connection("127.0.0.1", peer.port))
                taken.count = 0
                assert (await asked(client, request()))[0] == 200
                assert taken.count == quick
                await client.close()

    run(main)


def test_a_head_that_has_no_quicker_way_is_asked_about_once(
    tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        tried: list[Any] = []
        async with serving(tmp_path) as (app, peer):
            offer = app.express
            monkeypatch.setattr(app, "express", lambda scope: tried.append(scope) or offer(scope))
            for _ in range(5):
                client = Peer(*await asyncio.open_connection("127.0.0.1", peer.port))
                assert (await asked(client, request(headers={"Accept-Encoding": "gzip"})))[0] == 200
                await client.close()
            assert (len(tried), taken.count) == (1, 0)

    run(main)


def test_a_body_in_pieces_goes_the_same_way(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            for number in range(6):
                array = X + number
                data = request(array)
                cut = len(data) - array.nbytes
                *begin, end = (data[: cut - 7], data[cut - 7 : cut + 5], data[cut + 5 :])
                for piece in begin:
                    await peer.say(piece)
                    await asyncio.sleep(0.005)
                status, headers, body = await asked(peer, end)
                text = int(headers["inference-header-content-length"])
                found = np.frombuffer(body[text:], np.float32).reshape(2, 3)
                assert status == 200
                np.testing.assert_allclose(found, array @ WEIGHT)
            assert taken.count == 6 - LEARNING
            await peer.say(request()[:-3])
            await asyncio.sleep(0.005)
            await peer.close()
            await empty(app)

    run(main)


def test_few_heads_outlive_their_connection() -> None:
    heads = Heads()

    def head(number: int) -> bytes:
        return f"POST / HTTP/1.1\r\nhost: h\r\nx-n: {number}\r\n\r\n".encode()

    def known(data: bytes, host: str = "127.0.0.1") -> Known:
        return Known(data, {"headers": [], "client": (host, 1)}, 0)

    assert heads.find(head(0), "127.0.0.1") is None

    def kept(host: str) -> list[int]:
        return [number for number in range(1_000) if heads.find(head(number), host)]

    for number in range(1_000):
        heads.keep(known(head(number)))
    assert kept("127.0.0.1") == list(range(936, 1_000)), "the newest"
    heads.keep(known(head(936)))
    assert kept("127.0.0.1") == list(range(936, 1_000)), "one that is there takes nobody's place"
    assert kept("127.0.0.2") == []
    for number in range(63):
        heads.keep(known(head(0), f"10.0.0.{number}"))
    assert len(kept("127.0.0.1")) == 64, "other addresses take nothing from it"
    heads.keep(known(head(0), "10.0.0.63"))
    assert (kept("127.0.0.1"), kept("10.0.0.63")) == ([], [0]), "but there is room for so many"


def test_a_long_head_goes_through_the_parser_each_time(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, peer):
            answers = await repeated(peer, request(headers={"User-Agent": "x" * 5_000}), 4)
            assert [status for status, _, _ in answers] == [200] * (LEARNING + 2)
            assert taken.count == 0

    run(main)


def test_what_is_recalled_takes_no_others_place_but_by_its_own_request(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        one, two = request(), request(headers={"User-Agent": "two"})
        async with serving(tmp_path) as (_, peer):
            await repeated(peer, two, LEARNING)
            other = await Peer.of(peer.port)
            await repeated(other, one, LEARNING + 1)
            taken.count = 0
            await asked(other, two)
            assert taken.count == 1, "recalled"
            await repeated(other, one, 2)
            assert taken.count == 3, "recalled as well"
            half = len(two) // 2
            await other.say(two[:half])
            await asyncio.sleep(0.01)
            assert (await asked(other, two[half:]))[0] == 200
            await repeated(other, one, 2)
            assert taken.count == 6, "in pieces, too"
            await other.close()

    run(main)


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ({"Idempotency-Key": "k"}, {}),
        ({"Accept-Encoding": "gzip"}, {}),
        ({"X-Unknown-To-Us": "anything"}, {}),
        ({}, {"id": "7"}),
        ({}, {"parameters": {"timeout": 5_000_000}}),
        ({}, {"outputs": [{"name": "y"}]}),
    ],
)
def test_who_asks_for_more_takes_the_longer_way(
    tmp_path: Path, taken: Taken, headers: dict[str, str], more: dict[str, Any]
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, peer):
            answers = await repeated(peer, request(headers=headers, **more), 4)
            assert [status for status, _, _ in answers] == [200] * (LEARNING + 2)
            assert taken.count == 0

    run(main)


def test_ids_deadlines_and_traces_are_each_requests_own(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            watch = Watch()
            app.site.observers.append(watch)
            for number in range(1, 7):
                own = {
                    "X-Request-Id": f"mine-{number}",
                    "x-tauten-deadline-ms": f"{number}5000",
                    "traceparent": f"00-{number:032x}-{number:016x}-01",
                }
                status, headers, _ = await asked(peer, request(headers=own))
                assert (status, headers["x-request-id"]) == (200, f"mine-{number}")
            await empty(app)
            assert taken.count == 6 - LEARNING
            calls = [call for _, call, _, _ in watch.seen if call is not None]
            assert [call.id for call in calls] == [f"mine-{number}" for number in range(1, 7)]
            assert [call.deadline_ms for call in calls] == [number * 1e4 + 5e3 for number in range(1, 7)]
            assert [call.parent and call.parent.span_id for call in calls] == [
                f"{number:016x}" for number in range(1, 7)
            ]

    run(main)


@pytest.mark.parametrize(
    "own",
    [
        {"X-Request-Id": "not an id"},
        {"X-Request-Id": "not/an/id"},
        {"X-Tauten-Deadline-Ms": "soon"},
        {"X-Tauten-Deadline-Ms": "1\tx"},
        {"X-Request-Id": ""},
    ],
)
def test_what_varies_is_checked_as_in_any_head(tmp_path: Path, taken: Taken, own: dict[str, str]) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, peer):
            good = {"X-Request-Id": "good", "X-Tauten-Deadline-Ms": "9000"}
            await repeated(peer, request(headers=good), 4)
            status, _, body = await asked(peer, request(headers=good | own))
            empty_id = own == {"X-Request-Id": ""}
            assert (status, b"E291" in body) == ((200, False) if empty_id else (400, True))
            assert taken.count == 4 - LEARNING
            assert (await asked(peer, request(headers=good)))[0] == 200

    run(main)


@pytest.mark.parametrize(
    ("own", "status", "id"),
    [
        ({"X-Request-Id": "one", "x-request-id": "an other"}, 400, None),
        ({"X-Request-Id": "one", "x-request-id": "other"}, 200, "other"),
        ({"X-Request-Id": " spaced"}, 200, "spaced"),
        ({"x-request-id": "", "X-Request-Id": "last"}, 200, "last"),
    ],
)
def test_what_varies_may_be_written_oddly(
    tmp_path: Path, own: dict[str, str], status: int, id: str | None
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, peer):
            answers = await repeated(peer, request(headers=own), 5)
            assert [found for found, _, _ in answers] == [status] * 5
            assert id is None or [headers["x-request-id"] for _, headers, _ in answers] == [id] * 5

    run(main)


def test_a_deadline_that_is_written_oddly_holds_beside_what_varies(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            watch = Watch()
            app.site.observers.append(watch)
            for number in range(5):
                own = {"X-Tauten-Deadline-Ms": " 20000", "X-Request-Id": f"mine-{number}"}
                assert (await asked(peer, request(headers=own)))[0] == 200
            await empty(app)
            assert [call and call.deadline_ms for _, call, _, _ in watch.seen] == [2e4] * 5

    run(main)


def test_tensors_that_do_not_fit_are_refused_alike(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            answers = await repeated(peer, request(X[:, :3].copy()), 5)
            assert taken.count == 5 - LEARNING
            assert {(status, body) for status, _, body in answers} == {(400, answers[0][2])}
            assert b"E296" in answers[0][2]
            await empty(app)

    run(main)


def test_a_model_that_is_not_ready_says_so(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            await repeated(peer, request(), 4)
            service_of(app).ready = False
            status, headers, _ = await asked(peer, request())
            assert (status, headers["retry-after"]) == (503, "1")
            service_of(app).ready = True
            assert (await asked(peer, request()))[0] == 200

    run(main)


def test_where_budgets_are_to_be_asked_a_task_does_that(tmp_path: Path, taken: Taken) -> None:
    """As of a model that somebody else computes, of whom each run is a call."""

    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            service = service_of(app)
            assert not service.pays
            service.pays = True
            assert [status for status, _, _ in await repeated(peer, request(), LEARNING + 2)] == [200] * (
                LEARNING + 2
            )

    run(main)
    assert taken.count == 0


def test_a_model_without_a_plan_says_so(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            await repeated(peer, request(), 4)
            plans = service_of(app).engine.plans
            kept = dict(plans)
            plans.clear()
            assert (await asked(peer, request()))[0] == 500
            plans.update(kept)
            assert (await asked(peer, request()))[0] == 200
            await empty(app)
            assert taken.count == 5 - LEARNING

    run(main)


@pytest.mark.parametrize("axis", ["n", "other"])
def test_an_item_is_of_its_own_group(
    tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch, axis: str
) -> None:
    groups: list[tuple[Any, Any, Any]] = []  # with the items, so that none has the place of an earlier one
    push = Deployment.push

    def noted(self: Deployment, asks: Any, step: str, job: Any, **how: bool) -> None:
        groups.append((job.group, self.kin(job.item)[1], job.item))
        push(self, asks, step, job, **how)

    async def main() -> None:
        async with serving(tmp_path, axis=axis) as (_, peer):
            monkeypatch.setattr(Deployment, "push", noted)
            await repeated(peer, request(), 6)
            assert taken.count == 6 - LEARNING
            assert [found for found, _, _ in groups] == [right for _, right, _ in groups]

    run(main)


def test_a_new_plan_takes_over(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            watch = Watch()
            app.site.observers.append(watch)
            await repeated(peer, request(), 4)
            service = service_of(app)
            (opened,) = service.engine.plans.values()
            plan = opened.plan
            stages = {"model": plan.stages["model"].__class__(threads=2)}
            new = await service.swap(plan.__class__(graph=plan.graph, stages=stages))
            assert (await asked(peer, request()))[0] == 200
            await empty(app)
            plans = [call.request.plan for _, call, _, _ in watch.seen if call is not None and call.request]
            assert plans == [opened.id] * 4 + [new]
            assert taken.count == 5 - LEARNING

    run(main)


# -- whom the mistakes of others do not concern ---------------------------------------------------------------


class Broken:
    """An observer that raises."""

    def finished(self, *_: Any) -> None:
        raise RuntimeError("an observer broke")


@asynccontextmanager
async def crowd(app: App, count: int) -> AsyncIterator[list[Peer]]:
    """More clients."""
    async with listening(app) as port:
        peers = [await Peer.of(port) for _ in range(count)]
        try:
            yield peers
        finally:
            for each in peers:
                await each.close()


def deployments_of(app: App) -> list[Deployment]:
    (opened,) = service_of(app).engine.plans.values()
    return [each for each in opened.bound["model"].deployments.values() if isinstance(each, Deployment)]


async def together(deployment: Deployment, gate: Gate, first: Peer, others: list[Peer]) -> None:
    """While one runs, let others wait; then let all run."""
    gate.entered.clear()
    gate.open.clear()
    await first.say(request())
    assert await asyncio.to_thread(gate.entered.wait, 10)
    for each in others:
        await each.say(request())
    while deployment.waiting < len(others):
        await asyncio.sleep(0.001)
    gate.open.set()


@pytest.mark.parametrize("fails", [False, True])
def test_an_observer_that_raises_holds_up_nobody(
    tmp_path: Path, taken: Taken, gate: Gate, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with serving(tmp_path) as (app, peer), crowd(app, 3) as peers:
            for each in (peer, *peers):
                await repeated(each, request(), 3)
            count = taken.count
            await empty(app)
            app.site.observers.append(Broken())
            (deployment,) = deployments_of(app)
            execute = OnnxBackend._execute

            def refuses(self: OnnxBackend, inputs: dict[str, Any]) -> dict[str, Any]:
                execute(self, inputs)
                raise ValueError("bad shape")

            if fails:
                monkeypatch.setattr(OnnxBackend, "_execute", refuses)
            await together(deployment, gate, peer, peers)
            answers = [await each.answer() for each in (peer, *peers)]
            assert {status for status, _, _ in answers} == {400 if fails else 200}
            await empty(app)
            assert taken.count == count + 4
            assert deployment.batch_sizes[3] >= 1
            assert [str(context["exception"]) for context in told] == ["an observer broke"] * 4
            assert service_of(app).engine.door.limit.running == 0

    run(main)


# -- who may, and how much -----------------------------------------------------------------------------------


def test_bounds_of_the_caller_hold(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        guard = Guard()
        async with serving(tmp_path, Door(identify=guard.identify, meet=guard.meet, share=False)) as (
            app,
            peer,
        ):
            watch = Watch()
            app.site.observers.append(watch)
            await repeated(peer, request(), 4)
            guard._keyless = Allowance(
                Caller(name="slow", rate_per_s=1e-3, burst=2), guard._clock(), guard._total
            )
            answers = await repeated(peer, request(), 3)
            assert [status for status, _, _ in answers] == [200, 200, 429]
            assert int(answers[-1][1]["retry-after"]) > 100
            [call] = [call for exchange, call, _, _ in watch.seen if exchange.status == 429]
            assert call is not None
            assert call.id == answers[-1][1]["x-request-id"], "the log names what the client was told"
            assert taken.count == 7 - LEARNING
            await empty(app)
            assert guard.running == 0
            assert guard._keyless.running == 0

    run(main)


def test_a_key_that_is_taken_back_opens_nothing(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        file = tmp_path / "keys.toml"
        tokens = [new_key(file, name, created="2026-01-01", tenant=name) for name in ("shop", "lab")]
        keys = Keys(file)
        guard = Guard(keys)
        async with serving(tmp_path, Door(identify=guard.identify, meet=guard.meet, share=False)) as (
            app,
            peer,
        ):
            shop, lab = [request(headers={"Authorization": f"Bearer {token}"}) for token in tokens]
            answers = await repeated(peer, shop, 4) + await repeated(peer, lab, 4)
            assert taken.count == 8 - 2 * LEARNING
            owners = [
                [
                    bool(app.site.traces._kept.get(tenant, headers["x-request-id"]))
                    for tenant in ("shop", "lab")
                ]
                for _, headers, _ in answers
                if len(app.site.traces)
            ]
            assert owners == [[True, False]] * 4 + [[False, True]] * 4
            revoke_key(file, "lab")
            keys.refresh()
            status, headers, body = await asked(peer, lab)
            assert (status, b"E262" in body) == (401, True)
            assert headers["www-authenticate"].startswith("Bearer")
            assert (await asked(peer, shop))[0] == 200
            await empty(app)
            assert guard.running == 0

    run(main)


def test_a_drain_waits_for_the_answer_and_a_close_does_not(tmp_path: Path, taken: Taken, gate: Gate) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, _):
            for waits in (True, False):
                server = await up(app)
                peer = await Peer.of(server.port)
                await repeated(peer, request(), 3)
                count = taken.count
                gate.entered.clear()
                gate.open.clear()
                await peer.say(request())
                assert await asyncio.to_thread(gate.entered.wait, 10)
                draining = asyncio.create_task(server.drain(10.0 if waits else 0.01))
                await asyncio.sleep(0.05)
                if waits:
                    gate.open.set()
                    status, headers, _ = await peer.answer()
                    assert (status, headers["connection"], await draining) == (200, "close", 0)
                else:
                    assert await draining == 1
                await server.close()
                await empty(app)
                gate.open.set()
                assert taken.count == count + 1
                assert await peer.rest() == b""
                await peer.close()

    run(main)


def test_what_cannot_be_in_time_is_refused_before_it_runs(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path, slo=Slo(p95_ms=200.0)) as (app, peer):
            watch, statistics = Watch(), Statistics()
            await repeated(peer, request(), 4)
            app.site.observers += [watch, statistics]
            door = service_of(app).engine.door

            def full(*_: Any) -> bool:
                raise Overloaded("it would be late", help="retry later", retry_after_s=2.0)

            door.enter = full  # type: ignore[method-assign,assignment]
            status, headers, body = await asked(peer, request())
            assert (status, headers["retry-after"], headers["retry-after-ms"]) == (429, "2", "2000")
            assert b"E402" in body
            [(exchange, call, error, _)] = watch.seen
            assert (exchange.status, isinstance(error, Overloaded)) == (429, True)
            assert call is not None
            assert call.request is None, "nothing was begun for it"
            assert statistics.shown(service_of(app))["inference_stats"]["fail"]["count"] == 1
            assert app.site.in_flight == 0

    run(main)


def test_a_deadline_stops_the_waiting_and_frees_what_was_held(
    tmp_path: Path, taken: Taken, gate: Gate
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            watch = Watch()
            data = request(headers={"X-Tauten-Deadline-Ms": "100"})
            await repeated(peer, data, 4)
            app.site.observers.append(watch)
            gate.open.clear()
            status, _, body = await asked(peer, data)
            assert (status, b"E401" in body) == (504, True)
            assert taken.count == 5 - LEARNING
            [(exchange, call, error, _)] = watch.seen
            assert (exchange.status, isinstance(error, DeadlineExceeded)) == (504, True)
            assert call is not None
            assert call.request is not None
            await empty(app)
            gate.open.set()
            assert (await asked(peer, request(headers={"X-Tauten-Deadline-Ms": "9999"})))[0] == 200

    run(main)


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_who_leaves_is_not_waited_for(tmp_path: Path, taken: Taken, gate: Gate, how: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            watch = Watch()
            await repeated(peer, request(), 4)
            app.site.observers.append(watch)
            gate.entered.clear()
            gate.open.clear()
            await peer.say(request())
            await asyncio.to_thread(gate.entered.wait, 10)
            peer.go(how)
            await empty(app)
            [(exchange, _, error, _)] = watch.seen
            assert (exchange.left, isinstance(error, Cancelled)) == (True, True)
            gate.open.set()
            assert await peer.rest() == b""

    run(main)


# -- who watches ---------------------------------------------------------------------------------------------


def test_traces_of_both_ways_tell_the_same(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            answers = await repeated(peer, request(), 5)
            traces = [app.site.traces.find("", headers["x-request-id"]).trace for _, headers, _ in answers]
            told = [
                (
                    [(step, cause) for step, cause, _, _ in trace.rows if (step, cause) != LOOP],
                    sorted((step, unit) for step, unit, _ in trace.spent),
                    [(step, size) for step, size, _ in trace.batches],
                    trace.edges,
                    trace.outputs,
                )
                for trace in traces
            ]
            assert taken.count == 5 - LEARNING
            assert told == [told[0]] * 5
            for trace in traces:
                assert trace.first_output is not None
                assert trace.start < trace.first_output <= trace.end
                assert all(trace.start <= begin <= end <= trace.end for _, _, begin, end in trace.rows)

    run(main)


def test_of_equal_ids_the_last_is_kept(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            own = {"X-Request-Id": "again"}
            await repeated(peer, request(headers=own), 4)
            await empty(app)
            assert (await asked(peer, request(headers=own | {"Accept-Encoding": "identity"})))[0] == 200
            await empty(app)
            assert taken.count == 4 - LEARNING
            assert isinstance(app.site.traces.find("", "again").kept, Trace)
            await repeated(peer, request(headers=own), 3)
            await empty(app)
            assert isinstance(app.site.traces.find("", "again").kept, Rider)

    run(main)


def test_counts_are_exact(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            metrics, statistics = Metrics(app.site), Statistics()
            await repeated(peer, request(), LEARNING)
            app.site.observers += [metrics, statistics]
            await repeated(peer, request(), 9)
            await empty(app)
            told = statistics.shown(service_of(app))
            assert (told["inference_count"], told["execution_count"]) == (18, 9)
            parts = told["inference_stats"]
            assert parts["success"]["count"] == 9
            assert 0 < parts["compute_infer"]["ns"] < parts["success"]["ns"]
            assert sum(each["ns"] for each in told["tauten"]["causes"].values()) == pytest.approx(
                parts["success"]["ns"], rel=1e-6
            )
            assert told["batch_stats"][0]["batch_size"] == 2
            metrics.count()
            assert sum(each.count for each in metrics.requests.series.values()) == 9
            assert metrics.responses.series == {("oip-infer", "200"): 9}
            metrics.slice(10.0)
            assert metrics.looked_at.series == {("linear",): 9}

    run(main)


def test_observers_that_know_nothing_of_it_see_an_exchange(tmp_path: Path, taken: Taken) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            watch = Watch()
            app.site.observers.append(watch)
            answers = await repeated(peer, request(), 4)
            await empty(app)
            assert [exchange.status for exchange, _, _, _ in watch.seen] == [200] * (LEARNING + 2)
            ids = [call.id for _, call, _, _ in watch.seen if call is not None]
            assert ids == [headers["x-request-id"] for _, headers, _ in answers]
            assert all(call is not None and call.service is service_of(app) for _, call, _, _ in watch.seen)

    run(main)


def test_nothing_of_a_request_stays_in_a_circle(tmp_path: Path, taken: Taken) -> None:
    import gc
    import weakref

    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            await repeated(peer, request(), 4)
            await empty(app)
            seen: list[weakref.ref[Any]] = []
            enter = Single.enter

            def noted(self: Single, item: Any, **how: bool) -> None:
                seen.append(weakref.ref(self))
                enter(self, item, **how)

            Single.enter = noted  # type: ignore[method-assign]
            gc.disable()
            try:
                await repeated(peer, request(), 3)
                await repeated(peer, request(X[:, :3].copy()), 4)
                await empty(app)
                app.site.traces._new.clear()
                app.site.apis["oip"].statistics.shown(service_of(app))
                assert len(seen) >= 3
                assert [each() for each in seen] == [None] * len(seen)
            finally:
                gc.enable()
                Single.enter = enter  # type: ignore[method-assign]

    run(main)


def test_inputs_that_the_engine_refuses_are_the_callers_mistake(
    tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            watch = Watch()
            await repeated(peer, request(), 3)
            app.site.observers.append(watch)

            def refuses(*_: Any) -> Any:
                raise ValueError("bad shape")

            monkeypatch.setattr(OnnxBackend, "_execute", refuses)
            status, _, body = await asked(peer, request())
            assert (status, b"E296" in body) == (400, True)
            [(_, _, error, _)] = watch.seen
            assert isinstance(error, InputError)

    run(main)


def test_a_deadline_that_was_named_counts_from_the_first_byte(tmp_path: Path, taken: Taken) -> None:
    slowly_s = 0.2

    async def main() -> None:
        async with serving(tmp_path) as (app, peer):
            await repeated(peer, request(headers={"X-Tauten-Deadline-Ms": "60000"}), 4)
            assert taken.count == 4 - LEARNING
            for deadline_ms, status in (("60000", 200), ("100", 504)):
                data = request(headers={"X-Tauten-Deadline-Ms": deadline_ms})
                await peer.say(data[:-8])
                await asyncio.sleep(slowly_s)
                answer = await asked(peer, data[-8:])
                assert answer[0] == status
                if status == 200:
                    trace = app.site.traces.find("", answer[1]["x-request-id"]).trace
                    (client,) = [row for row in trace.rows if row[1] == "client"]
                    assert client[3] - client[2] >= 0.9 * slowly_s
            assert taken.count == 6 - LEARNING

    run(main)
