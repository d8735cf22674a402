"""Idempotency keys by real clients: gRPC calls, requests of a WebSocket, and HTTP beside them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException
from websockets.asyncio.client import connect

import tauten as tt
from serve import kit_workflows
from serve.kit_http import run, until
from tauten.errors import BackendError
from tauten.serve.app import App, Site
from tauten.serve.http.listener import serve
from tauten.serve.oip.grpc import serve_grpc
from tauten.serve.service import Service


class Till(kit_workflows.Till):
    """Stages with an effect, behind servers of both protocols."""

    def __init__(self) -> None:
        super().__init__()

        @tt.stage
        async def charged(text: str) -> str:
            await self.charge()
            return f"{text} {self.runs}"

        @tt.stage
        async def spelled(text: str) -> tt.Stream[str]:  # type: ignore[misc]
            self.runs += 1
            for letter in text:
                yield letter
                await self.go.wait()
            self.fail()

        @tt.stage
        async def echoed(words: tt.Stream[str]) -> tt.Stream[str]:  # type: ignore[misc]
            async for each in words:
                yield each

        @tt.workflow
        def charge(text: str) -> str:
            return charged(text)

        @tt.workflow
        def spell(text: str) -> tt.Stream[str]:
            return spelled(text)

        @tt.workflow
        def echo(words: tt.Stream[str]) -> tt.Stream[str]:
            return echoed(words)

        self.app = App(Site([Service(charge), Service(spell), Service(echo)]))
        self.http = self.grpc = ""


@asynccontextmanager
async def till() -> AsyncIterator[Till]:
    made = Till()
    await made.app.site.services.open()
    http = await serve(made.app, host="127.0.0.1", lifespan=False)
    grpc = await serve_grpc(made.app.site, "127.0.0.1")
    made.http, made.grpc = f"127.0.0.1:{http.port}", f"127.0.0.1:{grpc.port}"
    try:
        yield made
    finally:
        await http.close()
        await grpc.stop(0.1)
        await made.app.site.services.close()


def text(value: str) -> Any:
    made = triton.InferInput("text", [1], "BYTES")
    made.set_data_from_numpy(np.array([value], object))
    return made


async def infer(client: Any, value: str, key: str) -> str:
    answer = await client.infer("charge", [text(value)], headers={"idempotency-key": key})
    return str(answer.as_numpy("output")[0].decode())


def test_a_grpc_call_that_is_sent_again_gets_its_first_answer() -> None:
    async def main() -> None:
        async with till() as shop, triton_aio.InferenceServerClient(shop.grpc) as client:
            assert [await infer(client, "tea", "1") for _ in range(3)] == ["tea 1"] * 3
            assert (shop.runs, shop.app.site.idempotency.replayed) == (1, 2)
            with pytest.raises(InferenceServerException) as other:
                await infer(client, "coffee", "1")
            assert "E284" in str(other.value)
            assert await infer(client, "coffee", "2") == "coffee 2"
            with pytest.raises(InferenceServerException, match="E291"):
                await infer(client, "coffee", "a b")
            path = f"http://{shop.http}/v1/workflows/charge"
            async with aiohttp.ClientSession(headers={"idempotency-key": "2"}) as session:
                answer = await session.post(path, json={"inputs": {"text": "coffee"}})
                assert (answer.status, (await answer.json())["error"]["code"]) == (422, "E284")

    run(main)


def test_grpc_calls_that_run_are_joined_and_failures_are_not_kept() -> None:
    async def main() -> None:
        async with till() as shop, triton_aio.InferenceServerClient(shop.grpc) as client:
            shop.go.clear()
            both = [asyncio.create_task(infer(client, "tea", "1")) for _ in range(2)]
            await until(lambda: shop.app.site.in_flight == 2)
            hurried = client.infer(
                "charge", [text("tea")], headers={"idempotency-key": "1"}, client_timeout=0.1
            )
            with pytest.raises(InferenceServerException, match="DEADLINE"):
                await hurried
            shop.go.set()
            assert [await each for each in both] == ["tea 1"] * 2
            shop.errors = [BackendError("died")]
            with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
                await infer(client, "tea", "2")
            assert await infer(client, "tea", "2") == "tea 3"
            assert shop.app.site.in_flight == 0

    run(main)


def test_a_probe_with_a_key_is_asked_anew_and_a_stream_takes_none() -> None:
    async def main() -> None:
        async with till() as shop, triton_aio.InferenceServerClient(shop.grpc) as client:
            key = {"idempotency-key": "1"}
            assert await client.is_server_ready(headers=key)
            shop.app.site.draining = True
            assert not await client.is_server_ready(headers=key)
            shop.app.site.draining = False

            async def requests() -> AsyncIterator[Any]:
                yield {"model_name": "charge", "inputs": [text("tea")]}

            async for _, error in client.stream_infer(requests(), headers=key):
                assert "E291" in str(error)
            assert shop.runs == 0

    run(main)


async def asked(socket: Any, **given: Any) -> list[dict[str, Any]]:
    """One request of a socket, up to its last message."""
    await socket.send(json.dumps(given))
    heard = []
    while not heard or heard[-1]["type"] not in ("done", "error"):
        heard.append(json.loads(await socket.recv()))
    return heard


def test_a_request_of_a_socket_with_a_key_gets_its_first_messages_again() -> None:
    async def main() -> None:
        async with till() as shop, connect(f"ws://{shop.http}/v1/workflows/spell/ws") as socket:
            tea = {"inputs": {"text": "tea"}, "idempotency_key": "1"}
            first = await asked(socket, **tea)
            again = await asked(socket, **tea, id="mine")
            assert again == [{**first[0], "replayed": True}, *first[1:]]
            assert [each.get("output") for each in first] == [None, "t", "e", "a", None]
            assert "replayed" not in first[0]
            async with connect(f"ws://{shop.http}/v1/workflows/spell/ws") as other:  # a connection that broke
                assert await asked(other, **tea) == again
            assert shop.runs == 1
            wrong = await asked(socket, inputs={"text": "coffee"}, idempotency_key="1")
            assert wrong[-1]["error"]["code"] == "E284"
            free = await asked(socket, inputs={"text": "tea"})
            assert (free[-1]["type"], shop.runs) == ("done", 2)
            bad = await asked(socket, inputs={"text": "tea"}, idempotency_key="a b")
            assert bad[-1]["error"]["code"] == "E291"

    run(main)


def test_requests_of_two_sockets_share_what_runs_and_each_may_stop() -> None:
    async def main() -> None:
        async with till() as shop:
            path = f"ws://{shop.http}/v1/workflows/spell/ws"
            async with connect(path) as one, connect(path) as two:
                shop.go.clear()
                tea = {"inputs": {"text": "tea"}, "idempotency_key": "1"}
                first = asyncio.create_task(asked(one, **tea))
                await until(lambda: shop.runs == 1)
                second = asyncio.create_task(asked(two, **tea))
                await until(lambda: shop.app.site.idempotency.replayed == 1)
                await two.send(json.dumps({"type": "cancel"}))
                stopped = await second
                assert [each["type"] for each in stopped] == ["started", "output", "error"]
                assert stopped[-1]["error"]["code"] == "E403"
                shop.go.set()
                assert (await first)[-1]["type"] == "done"
                assert (await asked(two, **tea))[1:] == (await first)[1:]
                assert shop.runs == 1
                shop.errors = [BackendError("died")]
                failed = await asked(one, inputs={"text": "x"}, idempotency_key="2")
                assert failed[-1]["error"]["code"] == "E405"
                assert (await asked(one, inputs={"text": "x"}, idempotency_key="2"))[-1]["type"] == "done"

    run(main)


def test_a_key_and_an_input_that_streams_do_not_go_together() -> None:
    async def main() -> None:
        async with till() as shop, connect(f"ws://{shop.http}/v1/workflows/echo/ws") as socket:
            refused = await asked(socket, inputs={}, idempotency_key="1")
            assert refused[-1]["error"]["code"] == "E287"
            whole = await asked(socket, inputs={"words": ["a"]}, idempotency_key="1")
            assert whole[-1]["type"] == "done"

    run(main)
