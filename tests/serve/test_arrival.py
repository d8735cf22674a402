"""What a request waited for the event loop counts, and who is refused for it is refused before work is begun."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gc
import json
import time
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_http import Peer, run, up
from serve.kit_onnx import linear
from tauten.errors import Overloaded
from tauten.run.engine import Engine
from tauten.run.request import ANY_TIME, HIGHEST, LOWEST, Aim, Request
from tauten.serve.app import App
from tauten.serve.door import Door
from tauten.serve.exchange import Exchange, Reply
from tauten.serve.http.arrival import Inbox
from tauten.serve.oip.calls import statistics_of
from tauten.serve.safety.guard import Guard
from tauten.serve.service import Service
from tauten.serve.tensor_model import tensor_model

STILL_S = (
    0.08  # the loop stands still; the kernel counts in ticks of 4 ms, and a busy virtual machine loses some
)
BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}
INFER = "/v2/models/linear/infer"


@pytest.mark.parametrize("uv", [True, False])
def test_the_kernel_tells_what_waited_in_a_socket(uv: bool) -> None:
    lags: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        lags.append(exchange.lag_s)
        await exchange.reply(Reply(b"ok"))

    async def main() -> None:
        async with await up(app) as server:
            peer = await Peer.of(server.port)
            for still_s in (0.0, STILL_S, 0.0):
                await asyncio.sleep(0.05)
                peer.writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                if still_s:
                    time.sleep(still_s)  # it is the loop that has to stand still
                assert (await peer.answer())[0] == 200
            await peer.close()
        assert lags[1] >= STILL_S / 2
        assert lags[1] > lags[0]
        assert lags[1] > lags[2]

    run(main, uv=uv)


def test_sockets_that_know_nothing_say_nothing() -> None:
    class Bare(asyncio.BaseTransport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return default

    assert Inbox(Bare()).waited_s() == 0.0


@tt.stage(pure=True)
async def echo(text: str) -> str:
    return text


@tt.workflow
def flow(text: str) -> str:
    return echo(text)


def test_who_was_in_time_when_he_came_is_refused_and_not_late() -> None:
    async def main() -> None:
        async with site(Service(flow), apis=["native"]) as app, await up(app) as server:
            peer = await Peer.of(server.port)
            body = json.dumps({"inputs": {"text": "x"}}).encode()

            async def asked(deadline_ms: str) -> tuple[int, dict[str, str]]:
                head = f"POST /v1/workflows/flow HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n"
                peer.writer.write(f"{head}x-tauten-deadline-ms: {deadline_ms}\r\n\r\n".encode() + body)
                time.sleep(STILL_S)
                status, headers, _ = await peer.answer()
                return status, headers

            status, headers = await asked("30")
            assert status == 429
            assert "retry-after" in headers
            assert (await asked("-30"))[0] == 504, "it was late before it came"
            assert (await asked("30000"))[0] == 200
            await peer.close()

    run(main)


def test_what_the_loop_took_is_in_the_trace() -> None:
    async def main() -> None:
        async with Engine() as engine:
            await engine.open(flow)
            answer = await engine.run({"text": "x"}, request=engine.request(lag_s=2.0))
            trace = answer.trace
            assert [row[:2] for row in trace.rows[:2]] == [("", "loop"), ("", "admission")]
            assert trace.rows[0][3] - trace.rows[0][2] == pytest.approx(2.0)
            assert trace.end - trace.start >= 2.0

    asyncio.run(main())


def busy(app: App) -> Any:
    """The model's deployment as one that a thousand requests are on their way to."""
    service: Any = app.site.services["linear"]
    opened = service.engine.plans[service.plan_id]
    deployment = opened.bound["model"].deployments["model"]
    deployment.coming += 1_000_000
    return service


def test_a_refused_request_is_not_decoded_and_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tensor_model(linear(tmp_path), threads=1), apis=["oip"]) as app:
            for _ in range(20):
                assert (await ask(app, "POST", INFER, BODY)).status == 200
            service = busy(app)
            hurried = {"x-tauten-deadline-ms": "50"}
            refused = await ask(app, "POST", INFER, b"no inference request", hurried)
            assert refused.status == 429
            assert float(refused.headers["retry-after-ms"]) > 50
            assert (await ask(app, "POST", INFER, b"no inference request")).status == 400
            shown = statistics_of(app.site).shown(service)["inference_stats"]
            assert (shown["success"]["count"], shown["fail"]["count"]) == (20, 1)
            assert service.engine.door.refused == 1
            assert service.engine.door.limit.running == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "aim", "deadline_s"),
    [
        ({}, Aim(0.2, 0.1), 0.6),
        ({"x-tauten-deadline-ms": "5000"}, ANY_TIME, 5.0),
        ({"x-stainless-read-timeout": "600"}, Aim(0.2, 0.1), 0.6),
        ({"x-stainless-read-timeout": "0.3"}, Aim(0.2, 0.1), 0.3),
    ],
)
def test_a_header_replaces_the_slo_and_a_timeout_only_brings_the_deadline_forward(
    headers: dict[str, str], aim: Aim, deadline_s: float
) -> None:
    """The official client of OpenAI always says that it waits ten minutes, which is no wish."""

    async def main() -> None:
        service = Service(flow, slo=tt.Slo(p99_ms=200, first_output_ms=100))
        seen: list[Request] = []
        async with site(service, apis=["native", "openai"]) as app:
            make = service.engine.request
            service.engine.request = lambda **given: seen.append(make(**given)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
            chat = {"model": "flow", "messages": [{"role": "user", "content": "x"}]}
            assert (await ask(app, "POST", "/v1/chat/completions", chat, headers)).status == 200
        (request,) = seen
        assert request.aim == aim
        assert request.deadline - request.trace.start == pytest.approx(deadline_s)

    asyncio.run(main())


# -- priorities ----------------------------------------------------------------------------------------------


def test_priorities_are_clipped_once_where_a_request_begins() -> None:
    assert [Request(priority=each).priority for each in (-100, -8, 0, 8, 9, 100)] == [-8, -8, 0, 8, 8, 8]


@pytest.mark.parametrize(
    ("asked", "has"),
    [(0, 0), (1, HIGHEST), (2, HIGHEST - 1), (8, 1), (9, 0), (10, -1), (17, LOWEST), (900, LOWEST)],
)
def test_each_priority_of_the_inference_protocol_is_one_of_ours(tmp_path: Path, asked: int, has: int) -> None:
    async def main() -> None:
        door = Door(identify=Guard().identify, share=False)
        async with site(tensor_model(linear(tmp_path), threads=1), door=door, apis=["oip"]) as app:
            seen: list[int] = []
            service: Any = app.site.services["linear"]
            make = service.engine.request
            service.engine.request = lambda **given: note(seen, make(**given))
            body = {**BODY, "parameters": {"priority": asked}}
            assert (await ask(app, "POST", INFER, body, {"host": "localhost"})).status == 200
            assert seen == [has]

    asyncio.run(main())


def note(seen: list[int], request: Request) -> Request:
    seen.append(request.priority)
    return request


def refusals() -> int:
    return sum(isinstance(each, Overloaded) for each in gc.get_objects())


def test_a_refusal_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tensor_model(linear(tmp_path), threads=1), apis=["oip"]) as app:
            for _ in range(20):
                await ask(app, "POST", INFER, BODY)
            busy(app)
            hurried = {"x-tauten-deadline-ms": "50"}
            assert (await ask(app, "POST", INFER, BODY, hurried)).status == 429
            gc.collect()
            gc.disable()
            try:
                before = refusals()  # of other tests, which a server that froze its objects keeps
                for _ in range(50):
                    await ask(app, "POST", INFER, BODY, hurried)
                left = refusals() - before
            finally:
                gc.enable()
            assert left <= 2

    asyncio.run(main())
