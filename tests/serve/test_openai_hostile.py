"""Whatever a field holds, the answer is an answer: never a 5xx, never silence."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tauten as tt
from serve.kit_asgi import Answered, ask, site
from serve.kit_openai import talking
from tauten.serve.app import App
from tauten.serve.service import Service

NASTY: list[Any] = [
    *(None, True, -1, 0, 3, 1e308, 2**64, -(2**70), 0.5),
    *("", "x", "\u0000", "\ud83d\ude00" * 99, "../../etc/passwd", "json", "flac"),
    *([], [None], [[]], [{}], ["x"], ["", ""], ["x"] * 20, [1, 2]),
    *({}, {"type": "json_object"}, {"type": "json_schema"}, {"a": {"b": [1]}}, {"id": "x"}, {"url": "data:"}),
    [{"type": "text"}],
    [{"type": "text", "text": 3}],
    [{"type": "image_url"}],
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
    [{"type": "image_url", "image_url": {"url": "http://[::1"}}],
    [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}],
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "nobody", "content": "x"}],
    [{"role": "system", "content": "alone"}],
]


@tt.workflow
async def everything(
    question: tt.Text,
    photo: tt.Image | None = None,
    sound: tt.Audio | None = None,
    tools: list[dict[str, Any]] | None = None,
    temperature: float | None = None,
    stop: list[str] | None = None,
    json_schema: dict[str, Any] | None = None,
    seed: int | None = None,
) -> str:
    return f"{question} {tools} {temperature} {stop} {json_schema} {seed}"


@tt.workflow
async def vectors(text: str) -> list[float]:
    return [1.0, 2.0]


@tt.workflow
async def voice(text: tt.Text, voice: str | None = None, speed: float | None = None) -> tt.Audio:
    return tt.Audio.from_array(np.zeros(2400, np.float32), 24000)


@tt.workflow
async def heard(audio: tt.Audio, language: str | None = None, timestamps: bool | None = None) -> str:
    return "words"


CHAT = {"messages": [{"role": "user", "content": "hi"}], "model": "everything"}
CHAT_FIELDS = [
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature"),
    *("top_p", "n", "stop", "seed", "logprobs", "top_logprobs", "response_format", "tools", "tool_choice"),
    *("functions", "modalities", "user", "metadata", "prompt_cache_key", "json_schema", "question", "photo"),
]
CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("/v1/chat/completions", CHAT, CHAT_FIELDS),
    ("/v1/chat/completions", {**CHAT, "model": "parrot"}, CHAT_FIELDS),
    (
        "/v1/embeddings",
        {"model": "vectors", "input": "x"},
        ["model", "input", "encoding_format", "dimensions"],
    ),
    (
        "/v1/audio/speech",
        {"model": "voice", "input": "x", "voice": "v"},
        ["model", "input", "voice", "response_format", "speed", "stream_format", "instructions"],
    ),
]


def bodies(base: dict[str, Any], fields: list[str]) -> Iterator[dict[str, Any]]:
    for field, value in itertools.product(fields, NASTY):
        yield {**copy.deepcopy(base), field: value}
    for value in NASTY:
        yield {**base, "messages": [{"role": "user", "content": value}]}


def check(answer: Answered, what: Any) -> None:
    assert answer.status in (200, 400, 404, 422), (answer.status, answer.body[:300], what)
    if answer.status != 200:
        error = answer.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, what
        assert error["type"] == "invalid_request_error"
        assert len(error["message"]) < 1500, what


def served(work: Any) -> None:
    async def main() -> None:
        services = [Service(each) for each in (everything, vectors, voice, heard)]
        async with site(talking(), *services, apis=["openai"]) as app:
            await work(app)

    asyncio.run(main())


@pytest.mark.parametrize("case", range(len(CASES)))
def test_no_value_of_any_field_is_our_failure(case: int) -> None:
    path, base, fields = CASES[case]

    async def all_of_them(app: App) -> None:
        fine = await ask(app, "POST", path, base)
        assert fine.status == 200, fine.body
        for body in bodies(base, fields):
            check(await ask(app, "POST", path, body), body)

    served(all_of_them)


def form(parts: list[tuple[str, str, bytes]]) -> bytes:
    pieces = [
        b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (n.encode(), more.encode(), data)
        for n, more, data in parts
    ]
    return b"".join(pieces) + b"--b--\r\n"


def test_no_form_is_our_failure() -> None:
    wav = tt.Audio.from_array(np.zeros(100, np.float32), 16000).data
    file, model = ("file", '; filename="a.wav"', wav), ("model", "", b"heard")
    headers = {"content-type": "multipart/form-data; boundary=b"}
    names = (
        "response_format",
        "language",
        "temperature",
        "stream",
        "timestamp_granularities[]",
        "include[]",
        "prompt",
    )
    values = (b"", b"x", b"true", b"0.5", b"\xff", b"verbose_json", b"-1", b"word", b"nan", b"1e999")

    async def all_of_them(app: App) -> None:
        path = "/v1/audio/transcriptions"
        fine = await ask(app, "POST", path, form([file, model]), headers)
        assert (fine.status, fine.json["text"]) == (200, "words"), fine.body
        for name, value in itertools.product(names, values):
            check(
                await ask(app, "POST", path, form([file, model, (name, "", value)]), headers), (name, value)
            )
        whole = form([file, model])
        for cut in range(0, len(whole), 7):
            check(await ask(app, "POST", path, whole[:cut], headers), cut)
        for kind in ("", "multipart/form-data", "multipart/form-data; boundary=", "application/json"):
            done = await ask(app, "POST", path, whole, {"content-type": kind})
            assert done.status == 400, kind
        for data in (b"", b"RIFF", wav[:30], b"\xff\xfb" + bytes(50)):
            broken = ("file", '; filename="a"', data)
            check(await ask(app, "POST", path, form([broken, model]), headers), data)

    served(all_of_them)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"3", b'{"model": 1}', b'{"model": "everything"}', b"\xff", b"{" * 500]
)
def test_no_body_is_our_failure(body: bytes) -> None:
    async def every_path(app: App) -> None:
        for path, _, _ in CASES:
            check(await ask(app, "POST", path, body), body)

    served(every_path)
