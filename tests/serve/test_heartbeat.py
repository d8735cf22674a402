"""Signs of life: comments in streams of events that clients skip, pings under gRPC, and peers that are gone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection
from typing import Any

import grpc.aio
import pytest

import tauten as tt
from serve.kit_asgi import site
from serve.kit_openai import Served, serving, talking
from tauten.run.oip.messages import SERVICE, message
from tauten.serve.app import App
from tauten.serve.oip import grpc as oip_grpc
from tauten.serve.service import Service
from tauten.serve.sse import BEAT

PAUSE_S = 0.4  # of a slow model: several beats, which come every 0.1 s at most


@tt.stage(pure=True)
async def slowly(text: str) -> AsyncIterator[tt.Text]:
    for word in text.split():
        await asyncio.sleep(PAUSE_S)
        yield tt.Text(f"{word} ")


@tt.workflow
def slow(text: str) -> tt.Stream[tt.Text]:
    return slowly(text)


@tt.stage(pure=True)
async def listened(audio: tt.Audio) -> AsyncIterator[tt.Text]:
    for word in ("one ", "two"):
        await asyncio.sleep(PAUSE_S)
        yield tt.Text(word)


@tt.workflow
def heard(audio: tt.Audio) -> tt.Stream[tt.Text]:
    return listened(audio)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that beats every 20 ms, also before the first increment."""
    monkeypatch.setattr("tauten.serve.exchange.BEAT_S", 0.02)
    monkeypatch.setattr("tauten.serve.sse.begun.__defaults__", (0.02,))
    parrot = talking(ms_per_token=PAUSE_S * 1e3)
    with serving(parrot, Service(slow), Service(heard), apis=("openai", "oip", "native")) as running:
        yield running


def raw(served: Served, path: str, body: Any) -> bytes:
    host = served.url.removeprefix("http://").removesuffix("/v1")
    with contextlib.closing(HTTPConnection(host)) as connection:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        return connection.getresponse().read()


CHAT = {"messages": [{"role": "user", "content": "one two"}], "stream": True}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "parrot", **CHAT}),
        ("/v1/workflows/slow?stream=true", {"inputs": {"text": "one two"}}),
        ("/v2/models/slow/generate_stream", {"text_input": "one two"}),
    ],
)
def test_a_silent_stream_of_events_beats_between_its_events(served: Served, path: str, body: Any) -> None:
    got = raw(served, path, body)
    assert got.count(BEAT) >= 2
    assert got.startswith(BEAT) or got.index(BEAT) < got.index(b"two")  # also before the first word
    blocks = [block for block in got.split(b"\n\n") if block and not block.startswith(b":")]
    assert all(block.startswith((b"data: ", b"event: ")) for block in blocks)
    assert b"one" in got
    assert b"error" not in got


def test_the_official_client_skips_the_beats(served: Served) -> None:
    with served.client() as client:
        chunks = list(
            client.chat.completions.create(
                model="parrot",
                messages=[{"role": "user", "content": "one two three"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
        assert text == "one two three"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3
        events = list(client.audio.transcriptions.create(model="heard", file=("a.wav", wave()), stream=True))
        assert [each.type for each in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]


def wave() -> bytes:
    import numpy as np

    return tt.Audio.from_array(np.zeros(1600, np.float32), 16000).data


# -- gRPC -----------------------------------------------------------------------------------------------------


class Held:
    """A streaming stage that tells when it began and when it was stopped."""

    def __init__(self) -> None:
        self.began, self.stopped, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @tt.stage
        async def held(text: str) -> tt.Stream[tt.Text]:  # type: ignore[misc]
            self.began.set()
            try:
                await self.go.wait()
                yield tt.Text(text)
            except (asyncio.CancelledError, GeneratorExit):
                self.stopped.set()
                raise

        @tt.workflow
        def holding(text: str) -> tt.Stream[tt.Text]:
            return held(text)

        self.service = Service(holding)


class Wire:
    """Passes bytes on between clients and a port, until it is cut: then nothing comes through, and nobody hears why."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self._open.clear()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._open.wait()
                sink.write(data)
        finally:
            sink.close()


def asked(text: str) -> bytes:
    request = message("ModelInferRequest")(model_name="holding", id="1")
    given = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    given.contents.bytes_contents.append(text.encode())
    return bytes(request.SerializeToString())


@contextlib.asynccontextmanager
async def listening(app: App) -> AsyncIterator[int]:
    """The gRPC server's port, while it runs."""
    server = await oip_grpc.serve_grpc(app.site, "127.0.0.1")
    try:
        yield server.port
    finally:
        await server.stop(0.0)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("PING_S", 0.2), ("PONG_S", 0.3), ("PINGED_S", 0.01)):
        monkeypatch.setattr(oip_grpc, name, seconds)


@pytest.mark.usefixtures("often")
def test_work_for_a_peer_that_is_gone_without_a_word_stops() -> None:
    async def main() -> None:
        held = Held()
        async with (
            site(held.service) as app,
            listening(app) as port,
            Wire(port) as wire,
            grpc.aio.insecure_channel(f"127.0.0.1:{wire.port}") as channel,
        ):
            call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()
            await call.write(asked("x"))
            await held.began.wait()
            wire.cut()
            await held.stopped.wait()

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.usefixtures("often")
def test_a_stream_that_is_silent_for_many_pings_goes_on() -> None:
    async def main() -> None:
        held = Held()
        async with (
            site(held.service) as app,
            listening(app) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()
            await call.write(asked("x"))
            await held.began.wait()
            await asyncio.sleep(1.0)  # some pings
            held.go.set()
            answer = message("ModelStreamInferResponse").FromString(await call.read())
            assert not answer.error_message
            assert answer.infer_response.id == "1"
            await call.done_writing()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_the_pings_are_fewer_than_a_client_library_tolerates_and_more_than_balancers_ask() -> None:
    assert 10 <= oip_grpc.PING_S < 60
    assert oip_grpc.PINGED_S <= 10
