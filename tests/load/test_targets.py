"""Targets over real sockets: what they send byte for byte, and how each way to fail is counted."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from load.server import Server, serving
from tauten.cli.load_target import KEY, UrlOptions, api_of, read_payloads, url_target
from tauten.describe.payload import Audio, Image, Json, Payload, Tensor, Text
from tauten.errors import InputError, MachineError
from tauten.improve.load.arrivals import Arrivals
from tauten.improve.load.generator import Generator
from tauten.improve.load.http import events
from tauten.improve.load.samples import Samples
from tauten.improve.load.schedule import Load
from tauten.improve.load.target import Response
from tauten.statistics import percentile

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(32)
Inputs = Mapping[str, Payload]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(server: Server) -> None:
    server.seen.clear()


def ask(url: str, inputs: Inputs, budget_s: float = math.inf, **options: Any) -> Response:
    """One request to a URL, as `tauten bench` would send it."""

    async def once() -> Response:
        target, _ = url_target(url, UrlOptions(**options))
        try:
            await target.open()
            return await target.send(target.prepare(inputs), budget_s)
        finally:
            await target.close()
            await target.close()

    return asyncio.run(once())


# -- native --------------------------------------------------------------------------------------------------


def test_native_json_streams_and_is_whole(server: Server) -> None:
    inputs = {"question": Text("Why?"), "extra": Json({"n": [1]})}
    streamed = ask(f"{server.url}/v1/workflows/desk", inputs)
    assert streamed.outcome == "ok"
    assert len(streamed.outputs) == 2
    whole = ask(f"{server.url}/v1/workflows/desk", inputs, stream=False)
    assert (whole.outcome, whole.outputs) == ("ok", ())
    for (_, headers, body), accept in zip(
        server.seen, ("text/event-stream", "application/json"), strict=True
    ):
        assert json.loads(body) == {"inputs": {"question": "Why?", "extra": {"n": [1]}}}
        assert headers["accept"].startswith(accept)
        assert "x-tauten-deadline-ms" not in headers


def test_native_media_go_as_multipart(server: Server) -> None:
    ask(f"{server.url}/v1/workflows/desk", {"q": Text("Wie groß?"), "n": Json(3), "photo": Image(PNG)}, 1.5)
    _, headers, body = server.seen[0]
    assert headers["x-tauten-deadline-ms"] == "1500"
    whole = BytesParser(EmailMessage, policy=HTTP).parsebytes(
        f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body
    )
    parts = {part["content-disposition"].params["name"]: part for part in whole.iter_parts()}
    assert parts["q"].get_content().strip() == "Wie groß?"
    assert json.loads(parts["n"].get_payload(decode=True)) == 3
    assert parts["photo"].get_content_type() == "image/png"
    assert parts["photo"].get_payload(decode=True) == PNG


def test_an_error_event_fails_the_request(server: Server) -> None:
    found = ask(f"{server.url}/v1/workflows/broken", {"q": Text("x")})
    assert found.outcome == "failed"
    assert "E404" in found.error


# -- OpenAI --------------------------------------------------------------------------------------------------


def test_chat_streams_and_counts_tokens(server: Server) -> None:
    inputs = {"model": Text("desk"), "max_tokens": Json(5), "prompt": Text("Hi")}
    found = ask(f"{server.url}/v1/chat/completions", inputs)
    assert (found.outcome, len(found.outputs), found.tokens) == ("ok", 2, 2)
    sent = json.loads(server.seen[0][2])
    assert sent == {
        "model": "desk",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    whole = ask(f"{server.url}/v1/chat/completions", inputs, stream=False)
    assert (whole.outputs, whole.tokens) == ((), 3)
    assert "stream" not in json.loads(server.seen[1][2])


def test_a_whole_answer_that_tells_an_error_has_failed(server: Server) -> None:
    """As gateways tell under a 200 that their provider failed."""
    url = f"{server.url}/v1/chat/completions"
    broken = ask(url, {"model": Text("broken"), "prompt": Text("Hi")}, stream=False)
    assert broken.outcome == "failed"
    assert "no provider" in broken.error
    assert ask(url, {"model": Text("polite"), "prompt": Text("Hi")}, stream=False).outcome == "ok"


def test_chat_holds_images_and_sound(server: Server) -> None:
    inputs = {"model": Text("m"), "q": Text("?"), "photo": Image(PNG), "voice": Audio(WAV)}
    ask(f"{server.url}/v1/chat/completions", inputs)
    text, image, sound = json.loads(server.seen[0][2])["messages"][0]["content"]
    assert text == {"type": "text", "text": "?"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert sound["input_audio"]["format"] == "wav"


def test_embeddings(server: Server) -> None:
    found = ask(f"{server.url}/v1/embeddings", {"model": Text("m"), "a": Text("one"), "b": Text("two")})
    assert found.outcome == "ok"
    assert json.loads(server.seen[0][2]) == {"model": "m", "input": ["one", "two"]}


# -- Open Inference Protocol ---------------------------------------------------------------------------------


def test_tensors_go_binary_behind_a_head(server: Server) -> None:
    inputs = {"x": Json([[1, 2], [3, 4]]), "words": Text("hé")}
    ask(f"{server.url}/v2/models/clip", inputs)
    path, headers, body = server.seen[0]
    assert path == "/v2/models/clip/infer"
    size = int(headers["inference-header-content-length"])
    head, raw = json.loads(body[:size]), body[size:]
    assert head["inputs"] == [
        {"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
        {"name": "words", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 7}},
    ]
    assert head["parameters"] == {"binary_data_output": True}
    assert np.frombuffer(raw[:16], "<f4").tolist() == [1, 2, 3, 4]
    assert raw[16:] == b"\x03\x00\x00\x00" + "hé".encode()


def test_tensors_go_as_json(server: Server) -> None:
    array = np.arange(4, dtype=np.int64).reshape(2, 2)
    ask(f"{server.url}/v2/models/clip/infer", {"x": Tensor(array), "words": Text("a")}, binary=False)
    x, words = json.loads(server.seen[0][2])["inputs"]
    assert x == {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [0.0, 1.0, 2.0, 3.0]}
    assert words == {"name": "words", "shape": [1], "datatype": "BYTES", "data": ["a"]}


@pytest.mark.parametrize(
    ("path", "inputs", "words"),
    [
        ("v2/models/m", {"y": Json([1])}, "no input 'y'"),
        ("v2/models/m", {"x": Json([[1, 2], [3]])}, "cannot be FP32"),
        ("v2/models/m", {"x": Image(PNG)}, "no tensor"),
        ("v1/chat/completions", {"prompt": Text("x")}, "no model"),
        ("v1/chat/completions", {"model": Text("x")}, "without content"),
        ("v1/embeddings", {"model": Text("x"), "photo": Image(PNG)}, "no text"),
        ("plain", {"a": Text("x"), "b": Text("y")}, "2 inputs"),
    ],
)
def test_requests_that_cannot_be_made(server: Server, path: str, inputs: Inputs, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        ask(f"{server.url}/{path}", inputs)
    assert caught.value.code == "E205"
    assert server.seen == []


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(MachineError, match="gives no document"):
        ask("http://127.0.0.1:9/v2/models/m", {"x": Json([1])})


@pytest.mark.parametrize("name", ["list", "bare"])
def test_a_document_that_tells_no_inputs_is_named(server: Server, name: str) -> None:
    with pytest.raises(MachineError, match="tells no model's inputs") as caught:
        ask(f"{server.url}/v2/models/{name}", {"x": Json([1])})
    assert caught.value.help


# -- any URL, and how it fails -------------------------------------------------------------------------------


def test_a_plain_post_is_the_input_as_it_is(server: Server) -> None:
    ask(f"{server.url}/plain", {"body": Json({"a": 1})})
    ask(f"{server.url}/plain", {"body": Image(PNG)})
    assert [(headers["content-type"], body) for _, headers, body in server.seen] == [
        ("application/json", b'{"a":1}'),
        ("image/png", PNG),
    ]


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(400, "failed"), (500, "failed"), (429, "refused"), (503, "refused"), (504, "timed_out")],
)
def test_a_status_is_an_outcome(server: Server, code: int, outcome: str) -> None:
    found = ask(f"{server.url}/status/{code}", {"body": Text("x")})
    assert (found.outcome, found.error, found.lost) == (outcome, f"HTTP {code}: no reason", False)
    assert found.wrong == (code == 400)


def test_a_cut_answer_is_lost_and_no_connection_is_not(server: Server) -> None:
    cut = ask(f"{server.url}/cut", {"body": Text("x")})
    assert (cut.outcome, cut.lost) == ("failed", True)
    assert cut.error.startswith("cut: ")
    none = ask("http://127.0.0.1:9/x", {"body": Text("x")})
    assert (none.outcome, none.lost) == ("failed", False)
    assert none.error == "no connection: ECONNREFUSED, Connection refused"
    assert not none.unsent


@pytest.mark.parametrize(("code", "unsent"), [(errno.EMFILE, True), (errno.ETIMEDOUT, False)])
def test_what_this_machine_could_not_send_is_its_own(
    code: int, unsent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*args: Any, **options: Any) -> Any:
        raise OSError(code, "what a loop makes of it")

    monkeypatch.setattr("aiohappyeyeballs.start_connection", fails)
    found = ask("http://127.0.0.1:9/x", {"body": Text("x")})
    assert (found.outcome, found.unsent) == ("failed", unsent)
    assert found.error == f"no connection: {errno.errorcode[code]}, {os.strerror(code)}"


def test_events_arrive_whole_however_they_are_cut() -> None:
    text = b": note\n\nevent: a\ndata: 1\ndata: 2\n\ndata:3\r\n\r\nid: 7\n\ndata: end"

    async def read(size: int) -> list[tuple[str, bytes]]:
        async def chunks() -> Any:
            for start in range(0, len(text), size):
                yield text[start : start + size]

        return [event async for event in events(chunks())]

    expected = [("a", b"1\n2"), ("", b"3"), ("", b"end")]
    for size in (1, 2, 3, 7, 100):
        assert asyncio.run(read(size)) == expected, size


# -- the command line's reading ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://h/v1/workflows/desk", "native"),
        ("http://h/openai/v1/chat/completions", "openai"),
        ("http://h/v1/embeddings", "openai"),
        ("http://h/v2/models/m/versions/1/infer", "oip"),
        ("http://h/predict", "raw"),
        ("http://h", "raw"),
    ],
)
def test_the_path_names_the_api(url: str, api: str) -> None:
    assert api_of(url) == api
    assert url_target(url, UrlOptions())[1] == api


def test_inputs_are_what_they_look_like(tmp_path: Path) -> None:
    (tmp_path / "shot.png").write_bytes(PNG)
    (tmp_path / "words.txt").write_text("plain")
    (tmp_path / "body.json").write_text('{"a": 1}')
    (tmp_path / "blob.bin").write_bytes(b"\x80\x81\x00\xfe" * 4)
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    names = {"a": "shot.png", "b": "words.txt", "c": "body.json", "d": "blob.bin", "e": "x.npy"}
    found = read_payloads(
        [*(f"{key}=@{tmp_path / name}" for key, name in names.items()), "f=[1]", "g=hi", 'h="5"']
    )
    assert isinstance(found["a"], Image)
    assert str(found["b"]) == "plain"
    assert isinstance(found["c"], Json)
    assert found["c"].value == {"a": 1}
    assert found["d"].type == "application/octet-stream"
    assert isinstance(found["e"], Tensor)
    assert isinstance(found["f"], Json)
    assert isinstance(found["g"], Text)
    assert str(found["h"]) == "5"


def test_a_key_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    ask(f"{server.url}/plain", {"body": Text("x")}, headers=("X-One: 1",))
    headers = server.seen[0][1]
    assert headers["authorization"] == "Bearer secret"
    assert headers["x-one"] == "1"


@pytest.mark.parametrize("options", [{"api": "grpc"}, {"headers": ("nonsense",)}])
def test_options_that_are_not_understood(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        url_target("http://h/x", UrlOptions(**options))
    assert caught.value.code == "E260"


# -- the self-test on sockets --------------------------------------------------------------------------------


def test_an_open_loop_sees_the_pauses_of_a_real_server(server: Server) -> None:
    """0.3 s of every second stands still: a third of the requests wait, though each is sent in time.

    Only lower bounds: a busy machine makes waits longer, never shorter.
    """
    server.pause_s = 0.3

    async def load() -> Samples:
        target, _ = url_target(f"{server.url}/pause", UrlOptions())
        await target.open()
        try:
            generator = Generator(target, [target.prepare({"body": Text("x")})])
            asked = Load(arrivals=Arrivals(kind="constant"), rate_per_s=100.0, duration_s=1.0, warm_up_s=0.1)
            return await generator.open_loop(asked.schedule(1))
        finally:
            await target.close()

    found = asyncio.run(load())
    latencies = [sample.latency for sample in found.measured]
    assert len(latencies) == 101
    assert percentile(latencies, 0.95) > 0.2
    assert percentile(latencies, 0.75) > 0.02
    assert found.count("ok") == 101
