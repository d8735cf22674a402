"""The backend in a plan: a workflow whose model is a provider's, its trace, its books; and our own server as one."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tauten as tt
from remote.kit_provider import StandIn, cuts, gives, providers_toml, says, speaks, status, stops
from serve.kit_openai import serving, talking
from tauten.clock import real
from tauten.errors import BackendError, DeadlineExceeded, PlanError
from tauten.plan.plan import Plan, StagePlan
from tauten.run.attribution import attribute
from tauten.run.backends.remote import RemoteBackend
from tauten.run.contracts import ModelSpec
from tauten.run.engine import Engine
from tauten.run.opened import Answer
from tauten.run.remote.line import Content, HttpLine
from tauten.run.remote.phases import Phases, TimedContext
from tauten.run.request import Request


@tt.workflow
def tell(question: tt.Text) -> tt.Stream[tt.Text]:
    return tt.generate("{{ question }}", question=question)


def plan(**options: Any) -> Plan:
    assert tell.graph is not None
    return Plan(
        graph=tell.graph.hash,
        stages={"generate": StagePlan(model="words", backend="remote", settings=options)},
    )


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "providers.toml"
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


async def answered(plan: Plan, question: str = "hi") -> Answer:
    async with Engine() as engine:
        await engine.open(tell, plan)
        return await engine.run(tell.bind(question))


def test_a_stage_runs_on_a_provider_that_its_plan_names(file: Path) -> None:
    async def scene() -> Answer:
        async with StandIn(says("so ", "it ", "is", gap_s=0.01)) as stand:
            file.write_text(providers_toml({"told": stand.url}))
            return await answered(plan(provider="told"))

    done = asyncio.run(scene())
    assert done.value.text == "so it is"
    [call] = done.trace.provider_calls
    assert (call.step, call.provider, call.model, call.outcome) == ("generate", "told", "words", "ok")
    assert dict(call.units) == {"input_tokens": 5.0, "output_tokens": 3.0, "requests": 1.0}
    assert ("generate", "output_tokens", 3.0) in done.trace.spent
    causes = {cause for step, cause in attribute(done.trace).exclusive() if step == "generate"}
    assert "remote" in causes
    assert not {"prefill", "tokens"} & causes
    assert "told/words: connect" in done.trace.notes["generate remote"]


def test_waiting_for_a_limit_is_its_own_cause(file: Path) -> None:
    async def scene() -> Answer:
        async with StandIn(status(429, {"retry-after": "0.1"}), says("yes")) as stand:
            file.write_text(providers_toml({"told": stand.url}))
            return await answered(plan(provider="told"))

    done = asyncio.run(scene())
    exclusive = attribute(done.trace).exclusive()
    assert exclusive["generate", "limit"] >= 0.1
    assert [call.outcome for call in done.trace.provider_calls] == ["refused", "ok"]


def test_a_cut_answer_fails_its_request(file: Path) -> None:
    async def scene() -> None:
        async with StandIn(cuts("so ", "it ")) as stand:
            file.write_text(providers_toml({"told": stand.url}))
            with pytest.raises(BackendError, match="E461"):
                await answered(plan(provider="told"))

    asyncio.run(scene())


def test_the_requests_deadline_ends_a_hang_and_the_provider_sees_it(file: Path) -> None:
    async def scene() -> None:
        async with StandIn(stops("so ")) as stand, Engine() as engine:
            file.write_text(providers_toml({"told": stand.url}))
            await engine.open(tell, plan(provider="told"))
            with pytest.raises(DeadlineExceeded):
                await engine.run(tell.bind("hi"), deadline_ms=300)
            async with asyncio.timeout(20):  # no figure is asserted: it must come to this at all
                await stand.calls[0].closed.wait()

    asyncio.run(scene())


def test_a_plan_of_an_unknown_provider_does_not_open(file: Path) -> None:
    with pytest.raises(PlanError, match="E145"):
        asyncio.run(answered(plan(provider="nobody")))


def test_two_backends_that_ask_the_same_share_its_limits_and_health(file: Path) -> None:
    async def scene() -> None:
        async with StandIn(says("yes")) as stand:
            file.write_text(providers_toml({"told": stand.url, "other": stand.url}))
            backends = [
                RemoteBackend(ModelSpec("words", options={"provider": name}))
                for name in ("told", "told", "other")
            ]
            for each in backends:
                await each.open()
            first, second, third = (each._route.endpoints[0] for each in backends if each._route)
            assert first is second
            assert first is not third
            await backends[0].close()
            assert [chunk.text async for chunk in backends[1].start({"prompt": "x"})][1] == "yes"
            for each in backends:
                await each.close()

    asyncio.run(scene())


# -- what else may be asked ----------------------------------------------------------------------------------


def asked(file: Path, stand: StandIn, item: dict[str, Any]) -> tuple[list[Any], Request, StandIn]:
    async def scene() -> tuple[list[Any], Request, StandIn]:
        async with stand:
            file.write_text(providers_toml({"told": stand.url}))
            backend = RemoteBackend(ModelSpec("m", options={"provider": "told"}))
            await backend.open()
            request = Request(real)
            try:
                return [chunk async for chunk in backend.start_for(request, "s", item)], request, stand
            finally:
                await backend.close()

    return asyncio.run(scene())


def test_vectors_of_texts(file: Path) -> None:
    body = {"data": [{"index": 0, "embedding": [0.5, 1.0]}], "usage": {"prompt_tokens": 2}}
    chunks, request, stand = asked(file, StandIn(gives(msgspec.json.encode(body))), {"embed": ["hello"]})
    assert [chunk.value.tolist() for chunk in chunks if chunk.value is not None] == [[[0.5, 1.0]]]
    assert chunks[-1].done
    assert stand.calls[0].path == "/v1/embeddings"
    assert dict(request.trace.provider_calls[0].units) == {"input_tokens": 2.0, "requests": 1.0}


def test_the_words_of_a_recording(file: Path) -> None:
    answer = gives(msgspec.json.encode({"text": "so it is", "usage": {"type": "duration", "seconds": 3}}))
    item = {"transcribe": b"RIFF....", "media_type": "audio/wav", "seconds": 3.0}
    chunks, request, stand = asked(file, StandIn(answer), item)
    assert "".join(chunk.text for chunk in chunks) == "so it is"
    assert stand.calls[0].path == "/v1/audio/transcriptions"
    assert b'filename="sound.wav"' in stand.calls[0].body
    assert b"RIFF...." in stand.calls[0].body
    assert dict(request.trace.provider_calls[0].units) == {"audio_seconds": 3.0, "requests": 1.0}


def test_the_sound_of_words(file: Path) -> None:
    chunks, request, _ = asked(file, StandIn(speaks(b"RIFF", b"1234")), {"speak": "so it is", "voice": "v"})
    assert b"".join(chunk.value for chunk in chunks if chunk.value) == b"RIFF1234"
    [call] = request.trace.provider_calls
    assert (dict(call.units), call.counted) == ({"characters": 8.0, "requests": 1.0}, "estimate")


def test_sound_that_is_cut_is_an_error(file: Path) -> None:
    with pytest.raises(BackendError, match="E461"):
        asked(file, StandIn(speaks(b"RIFF", b"1234", cut=True)), {"speak": "so it is"})


# -- our own server as a provider ----------------------------------------------------------------------------


def test_our_own_server_is_a_provider_like_any(file: Path) -> None:
    with serving(talking("talk", answer="constant", value="the sea is deep")) as served:
        file.write_text(providers_toml({"ours": served.url}, ['models = { words = "talk" }']))

        async def scene() -> Answer:
            return await answered(plan(provider="ours"))

        done = asyncio.run(scene())
    assert done.value.text == "the sea is deep"
    [call] = done.trace.provider_calls
    assert (call.model, call.outcome, call.counted) == ("talk", "ok", "provider")
    assert call.units["output_tokens"] == 4.0


# -- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that lives for a day."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    line = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    line += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run([*line, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed: no certificate can be made")
    return key, cert


@pytest.mark.parametrize("known", [True, False])
def test_the_handshake_has_its_time_and_certificates_are_checked(
    certificate: tuple[Path, Path], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tauten.run.remote import line as lines
    from tauten.run.remote.failure import Failure

    key, cert = certificate
    trusting = TimedContext(ssl.PROTOCOL_TLS_CLIENT)
    if known:
        trusting.load_verify_locations(cert)
    monkeypatch.setattr(lines, "timed_tls", lambda: trusting)
    serving_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving_tls.load_cert_chain(cert, key)

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    async def scene() -> Phases:
        server = await asyncio.start_server(hello, "127.0.0.1", 0, ssl=serving_tls)
        port = server.sockets[0].getsockname()[1]
        phases = Phases(real)
        line = HttpLine(f"https://localhost:{port}")
        try:
            reply = await line.send("/", Content(b"{}"), phases)
            assert [piece async for piece in reply.pieces()] == [b"hi"]
            reply.release()
        finally:
            await line.close()
            server.close()
        return phases

    if not known:
        with pytest.raises(Failure, match=r"[Cc]ertificate"):
            asyncio.run(scene())
        return
    phases = asyncio.run(scene())
    order = [
        phases.connect,
        phases.resolve,
        phases.resolved,
        phases.tls,
        phases.connected,
        phases.sent,
        phases.first_byte,
    ]
    known = [each for each in order if each is not None]
    assert len(known) == len(order)
    assert known == sorted(known)
    for what in ("dns", "connect", "tls", "first byte"):
        assert f"{what} " in phases.said()
