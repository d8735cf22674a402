"""The end of a server: not ready first, then not accepting; what runs is finished, or told why not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from serve.kit_http import Peer
from serve.kit_onnx import linear
from serve.kit_process import Running, counted, ran, ready, serving, summary
from tauten.serve.safety.keys import new_key
from tauten.serve.server import SETTLE_S


async def asks_on(server: Running, ended: asyncio.Event) -> tuple[int, list[int]]:
    """Requests on connections of their own until told to end: how many were refused a connection, and statuses."""
    refused, statuses = 0, []
    while not ended.is_set():
        async with aiohttp.ClientSession() as client:
            try:
                status, _ = await ran(client, server)
            except aiohttp.ClientConnectorError:
                refused += 1
            except aiohttp.ServerDisconnectedError:
                refused += 1  # it was in the kernel's queue, never accepted: the log below proves that
            except aiohttp.ClientOSError:
                refused += 1
            else:
                statuses.append(status)
        await asyncio.sleep(0.005)
    return refused, statuses


def test_no_accepted_request_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, "--drain-lead-s", "0.4") as server, aiohttp.ClientSession() as client:
            streams = [asyncio.create_task(counted(client, server, 30)) for _ in range(5)]
            ended = asyncio.Event()
            clients = [asyncio.create_task(asks_on(server, ended)) for _ in range(3)]
            await asyncio.sleep(0.3)
            assert await ready(client, server) == 200
            server.signal(signal.SIGTERM)
            while await ready(client, server) == 200:
                await asyncio.sleep(0.01)
            assert (await ran(client, server))[0] == 200  # during the lead it still answers
            assert await server.ended() == 0
            ended.set()
            assert [summary(await each) for each in streams] == [(30, "done")] * 5
            answered = [await each for each in clients]
            assert all(set(statuses) == {200} for _, statuses in answered)
            assert sum(refused for refused, _ in answered) > 0  # they asked on after it stopped accepting
            lines = [line for line in server.logged() if line["event"] == "request"]
            assert {line["outcome"] for line in lines if line["route"] == "workflow"} == {"ok"}
            taken = sum(line.get("workflow") == "flow" for line in lines)
            assert taken == sum(len(statuses) for _, statuses in answered) + 1
            assert server.logged()[-1] == {**server.logged()[-1], "event": "drained", "cut": 0}

    asyncio.run(main())


def test_what_the_bound_cuts_off_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        flags = ("--drain-lead-s", "0", "--drain-s", "0.3")
        async with serving(tmp_path, *flags) as server, aiohttp.ClientSession() as client:
            stream = asyncio.create_task(counted(client, server, 1000))
            await asyncio.sleep(0.3)
            server.signal(signal.SIGTERM)
            events = await stream
            count, last = summary(events)
            assert 5 < count < 200
            assert (last, events[-1]["error"]["code"]) == ("error", "E415")
            assert await server.ended() == 1

    asyncio.run(main())


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server, aiohttp.ClientSession() as client:
            stream = asyncio.create_task(counted(client, server, 1000))
            await asyncio.sleep(0.3)
            server.signal(signal.SIGTERM)
            while await ready(client, server) == 200:
                await asyncio.sleep(0.01)
            server.signal(signal.SIGTERM)
            assert await server.ended() == 128 + signal.SIGTERM
            with contextlib.suppress(aiohttp.ClientError):
                assert summary(await stream)[1] == "error"

    asyncio.run(main())


def test_a_terminal_needs_no_lead(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, "--drain-lead-s", "600") as server, aiohttp.ClientSession() as client:
            assert (await ran(client, server))[0] == 200
            server.signal(signal.SIGINT)
            assert await server.ended() == 0

    asyncio.run(main())


def test_an_end_while_it_starts(tmp_path: Path) -> None:
    slow = """
import tauten as tt, time
@tt.stage(pure=True)
def wait(text: tt.Text) -> tt.Text:
    time.sleep(1.0)
    return text
@tt.workflow
def flow(text: tt.Text) -> tt.Text:
    return wait(text)
"""

    async def main() -> None:
        (tmp_path / "flow.py").write_text(slow)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tauten", "serve", "flow.py", "--port", "0", "--grpc-port", "off", "--drain-lead-s", "0"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        assert process.stdout is not None
        while b"loading" not in (line := await process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert await process.stdout.read() == b""  # it never said that it serves
        await process.stderr.read()

    asyncio.run(main())


def test_calls_by_grpc_are_not_lost_either_and_need_the_same_keys(tmp_path: Path) -> None:
    linear(tmp_path)
    file = tmp_path / "keys.toml"
    token = new_key(file, "shop", created="2026-01-01")
    given = triton.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.ones((1, 4), np.float32))

    async def calls(client: triton.InferenceServerClient) -> tuple[int, str]:
        """How many were answered until one was not, and what that one was told."""
        count = 0
        while True:
            try:
                await client.infer("linear", [given], headers={"authorization": f"Bearer {token}"})
            except InferenceServerException as error:
                return count, error.status() or ""
            count += 1

    async def main() -> None:
        flags = ("linear.onnx", "--grpc-port", "0", "--drain-lead-s", "0.2", "--keys", str(file))
        async with serving(tmp_path, *flags) as server:
            async with triton.InferenceServerClient(f"127.0.0.1:{server.said['ports']['grpc']}") as client:
                with pytest.raises(InferenceServerException, match="API key"):
                    await client.infer("linear", [given])
                tasks = [asyncio.create_task(calls(client)) for _ in range(3)]
                await asyncio.sleep(0.3)
                server.signal(signal.SIGTERM)
                assert await server.ended() == 0
                done = await asyncio.gather(*tasks)
            # gRPC gives a call that it no longer takes either status; the log below says that none was taken
            assert {status for _, status in done} <= {"StatusCode.UNAVAILABLE", "StatusCode.CANCELLED"}
            outcomes = [line["outcome"] for line in server.logged() if line.get("workflow") == "linear"]
            assert outcomes == ["ok"] * sum(count for count, _ in done)
            assert len(outcomes) > 3

    asyncio.run(main())


def test_an_idle_socket_holds_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        flags = ("--drain-lead-s", "0", "--drain-s", "600")
        async with serving(tmp_path, *flags) as server, aiohttp.ClientSession() as client:
            path = f"{server.url}/v1/workflows/flow/ws".replace("http://", "ws://")
            async with client.ws_connect(path) as socket:
                await socket.send_str('{"inputs": {"text": "x"}}')
                told = [json.loads((await socket.receive()).data)["type"] for _ in range(3)]
                assert told == ["started", "output", "done"]
                server.signal(signal.SIGTERM)
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert await server.ended() == 0

    asyncio.run(main())


# -- connections that are open ------------------------------------------------------------------------------

WS = "/v1/workflows/counting/ws"


async def refuses(server: Running) -> None:
    """Wait until a server that was told to end takes no requests any more on what is open."""
    while not any(line["event"] == "draining" for line in server.logged()):
        await asyncio.sleep(0.01)
    await asyncio.sleep(2 * SETTLE_S)


async def rest_of(socket: aiohttp.ClientWebSocketResponse) -> tuple[list[dict[str, Any]], int]:
    """What a socket says until it is closed, and with which code."""
    said = []
    while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
        said.append(json.loads(message.data))
    assert message.type is aiohttp.WSMsgType.CLOSE
    return said, message.data


def ends_of(server: Running) -> list[tuple[int, str]]:
    """Status and outcome of the requests of sockets, and of the sockets, in the log."""
    lines = [line for line in server.logged() if line.get("route") == "workflow_socket"]
    return [(line["status"], line["outcome"]) for line in lines]


@pytest.mark.parametrize("kind", ["thin", "uvicorn"])
def test_a_request_of_a_socket_is_finished_and_an_idle_socket_closes_at_once(
    tmp_path: Path, kind: str
) -> None:
    async def main() -> None:
        flags = ("--drain-lead-s", "0", "--server", kind)
        async with (
            serving(tmp_path, *flags) as server,
            aiohttp.ClientSession(server.url) as client,
            client.ws_connect(WS) as busy,
            client.ws_connect(WS) as idle,
        ):
            await busy.send_str('{"inputs": {"text": "30"}}')
            assert json.loads((await busy.receive()).data)["type"] == "started"
            server.signal(signal.SIGTERM)
            assert await rest_of(idle) == ([], 1012)
            said, code = await rest_of(busy)
            assert (summary(said), code) == ((30, "done"), 1012)
            assert await server.ended() == 0
            assert server.logged()[-1]["cut"] == 0
            assert sorted(ends_of(server)) == [(101, "ok"), (101, "ok"), (200, "ok")]

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["thin", "uvicorn"])
def test_what_the_bound_cuts_off_a_socket_is_told_and_counted(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        flags = ("--drain-lead-s", "0", "--drain-s", "0.3", "--server", kind)
        async with (
            serving(tmp_path, *flags) as server,
            aiohttp.ClientSession(server.url) as client,
            client.ws_connect(WS) as socket,
        ):
            await socket.send_str('{"inputs": {"text": "1000"}}')
            assert json.loads((await socket.receive()).data)["type"] == "started"
            server.signal(signal.SIGTERM)
            said, code = await rest_of(socket)
            assert (said[-1]["type"], said[-1]["error"]["code"], code) == ("error", "E415", 1012)
            assert await server.ended() == 1
            assert server.logged()[-1]["cut"] == 1
            assert sorted(ends_of(server)) == [(101, "ok"), (503, "rejected")]

    asyncio.run(main())


def test_new_requests_on_open_connections_are_told_to_go_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, "--drain-lead-s", "0") as server, aiohttp.ClientSession() as client:
            kept, watching = [await Peer.of(int(server.url.rpartition(":")[2])) for _ in range(2)]
            body = b'{"inputs": {"text": "x"}}'
            head = b"POST /v1/workflows/flow HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
            ask = head % len(body) + b"Content-Type: application/json\r\n\r\n" + body
            await kept.say(ask)
            assert (await kept.answer())[0] == 200
            stream = asyncio.create_task(counted(client, server, 60))
            await asyncio.sleep(0.1)
            server.signal(signal.SIGTERM)
            await refuses(server)
            await kept.say(ask)
            status, headers, answer = await kept.answer()
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert json.loads(answer)["error"]["code"] == "E409"
            await watching.say(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await watching.answer())[0] == 200  # what begins no work is answered on
            assert summary(await stream) == (60, "done")
            assert await server.ended() == 0
            for peer in (kept, watching):
                await peer.close()

    asyncio.run(main())


def test_a_stream_by_grpc_ends_with_what_runs_on_it(tmp_path: Path) -> None:
    async def main() -> None:
        flags = ("--grpc-port", "0", "--drain-lead-s", "0", "--drain-s", "600")
        async with serving(tmp_path, *flags) as server:
            address = f"127.0.0.1:{server.said['ports']['grpc']}"

            def asked(id: str, text: str) -> dict[str, Any]:
                given = triton.InferInput("text", [1], "BYTES")
                given.set_data_from_numpy(np.array([text.encode()], object))
                return {"model_name": "counting", "inputs": [given], "request_id": id}

            async def requests() -> AsyncIterator[dict[str, Any]]:
                yield asked("first", "60")
                await begun.wait()
                server.signal(signal.SIGTERM)
                await refuses(server)
                yield asked("second", "1")
                await asyncio.Event().wait()  # the client stays

            begun, heard, told = asyncio.Event(), [], []

            async def listened() -> None:
                async for result, error in client.stream_infer(requests()):
                    begun.set()
                    told.extend([str(error)] if error else [])
                    heard.extend([] if error else [result.get_response().id])

            async with triton.InferenceServerClient(address) as client:
                with pytest.raises(grpc.aio.AioRpcError, match="E409 the server is draining") as ended:
                    await listened()
                assert ended.value.code().name == "UNAVAILABLE"
                assert dict(ended.value.trailing_metadata() or ())["retry-after"] == "1"
            assert heard == ["first"] * 60
            assert told == ["E409 the server is draining (send it to another server)"]
            assert await server.ended() == 0
            assert server.logged()[-1]["cut"] == 0

    asyncio.run(main())


def test_an_idle_stream_by_grpc_holds_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        flags = ("--grpc-port", "0", "--drain-lead-s", "0", "--drain-s", "600")
        async with serving(tmp_path, *flags) as server:

            async def requests() -> AsyncIterator[dict[str, Any]]:
                yield {"model_name": "nope", "inputs": []}
                await asyncio.Event().wait()

            async def told() -> None:
                async for _ in client.stream_infer(requests()):
                    server.signal(signal.SIGTERM)

            async with triton.InferenceServerClient(f"127.0.0.1:{server.said['ports']['grpc']}") as client:
                with pytest.raises(grpc.aio.AioRpcError, match="E409 the server is draining"):
                    await told()
            assert await server.ended() == 0

    asyncio.run(main())
