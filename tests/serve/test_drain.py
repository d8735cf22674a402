"""The end of a server: not ready first, then not accepting; what runs is finished, or told why not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

from serve.kit_onnx import linear
from serve.kit_process import Running, counted, ran, ready, serving, summary
from tauten.serve.safety.keys import new_key


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
    given = grpc.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.ones((1, 4), np.float32))

    async def calls(client: grpc.InferenceServerClient) -> tuple[int, str]:
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
            async with grpc.InferenceServerClient(f"127.0.0.1:{server.said['ports']['grpc']}") as client:
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
