"""Embeddings, transcriptions, speech and models through the official client."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import io
import wave
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import numpy as np
import openai
import pytest
import soundfile

import tauten as tt
from serve.kit_openai import Served, eventually, serving, talking
from tauten.describe.said import Spoken
from tauten.serve.door import Door
from tauten.serve.exchange import Exchange
from tauten.serve.openai.media import text_of
from tauten.serve.openai.paths import paths
from tauten.serve.openai.sound import RATE, Encoder
from tauten.serve.openai.types import Message
from tauten.serve.safety.limits import Busy
from tauten.serve.service import Service

running = 0
most_running = 0


@tt.stage(pure=True)
async def measured(ctx: tt.Context, text: tt.Text) -> tt.Tensor:
    global running, most_running
    running += 1
    most_running = max(most_running, running)
    await asyncio.sleep(0.002)
    running -= 1
    ctx.spend("input_tokens", float(len(text.text.split())))
    return tt.Tensor(np.array([len(text.text), 0.1, -2.0], np.float32))


@tt.workflow
def lengths(text: tt.Text) -> tt.Tensor:
    return measured(text)


@tt.workflow
def all_lengths(texts: list[tt.Text]) -> list[tt.Tensor]:
    return tt.map(measured, texts)


@tt.workflow
async def cut_lengths(text: str, dimensions: int | None = None) -> list[float]:
    return [float(len(text)), 1.0, 2.0][:dimensions]


finished = 0


@tt.workflow
async def patient(text: str) -> list[float]:
    global finished
    if text == "bad":
        raise ValueError("bad")
    await asyncio.sleep(float(text))
    finished += 1
    return [1.0]


@tt.workflow
async def heard(audio: tt.Audio, language: str | None = None, prompt: str | None = None) -> str:
    return f"{audio.size_bytes} {language} {prompt}"


@tt.workflow
async def beamed(
    audio: tt.Audio, beams: int = 1, share: float = 1.0, quick: bool = False, name: str = ""
) -> str:
    return f"{beams + 0} {share} {quick} {name}"


@tt.workflow
async def timed(audio: tt.Audio, timestamps: bool | None = None) -> AsyncIterator[tt.Text]:
    if not timestamps:
        yield tt.Text("Hello there.")
        return
    yield Spoken("Hello", 0.25, 1.5)
    yield Spoken(" <there>.", 3661.0, 3662.125)


@tt.workflow
async def breaking(audio: tt.Audio) -> AsyncIterator[str]:
    yield "so far"
    raise ValueError("no further")


held = 0


@tt.workflow
async def humming(text: tt.Text, voice: str, speed: float | None = None) -> AsyncIterator[tt.Audio]:
    global held
    held += 1
    try:
        for word in text.text.split():
            if word == "wait":
                await asyncio.sleep(60)
            if word == "fail":
                raise ValueError("no voice")
            pitch = {"low": 220.0}.get(voice, 440.0)
            times = np.arange(round(0.5 * 16000 / (speed or 1.0))) / 16000
            yield tt.Audio.from_array((0.3 * np.sin(2 * np.pi * pitch * times)).astype(np.float32), 16000)
    finally:
        held -= 1


ALL = (lengths, all_lengths, cut_lengths, patient, heard, beamed, timed, breaking, humming)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(*(Service(each) for each in ALL)) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


# -- models -------------------------------------------------------------------------------------------------


def test_workflows_are_listed_and_found_as_models(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [each.id for each in listed] == [each.name for each in ALL]
    one = client.models.retrieve("lengths")
    assert (one.id, one.object, one.owned_by, one.created) == (
        "lengths",
        "model",
        "tauten",
        listed[0].created,
    )
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("length")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nothing", input="x")


# -- embeddings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lengths", "all_lengths"])
def test_vectors_come_in_order_with_their_tokens(client: openai.OpenAI, model: str) -> None:
    texts = ["x" * (n + 1) for n in range(70)]
    found = client.embeddings.create(model=model, input=texts)
    assert [each.index for each in found.data] == list(range(70))
    assert [each.embedding[0] for each in found.data] == [n + 1.0 for n in range(70)]
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (70, 70)
    assert found.model == model
    one = client.embeddings.create(model=model, input="two words")
    assert (len(one.data), one.usage.prompt_tokens) == (1, 2)


def test_texts_of_one_request_run_together(client: openai.OpenAI) -> None:
    global most_running
    most_running = 0
    client.embeddings.create(model="lengths", input=[str(n) for n in range(64)])
    assert most_running == 32


def test_all_texts_of_a_request_have_one_deadline(client: openai.OpenAI) -> None:
    texts = ["0.1"] * 96  # three rounds of 32
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="patient", input=texts, extra_headers={"x-tauten-deadline-ms": "200"})
    assert caught.value.status_code == 504
    fine = client.embeddings.create(
        model="patient", input=texts, extra_headers={"x-tauten-deadline-ms": "9000"}
    )
    assert len(fine.data) == 96


def test_a_text_that_fails_stops_the_others(client: openai.OpenAI) -> None:
    global finished
    finished = 0
    with pytest.raises(openai.InternalServerError):
        client.embeddings.create(model="patient", input=["2.0", "bad", "2.0"])
    assert finished == 0


def test_numbers_and_base64_are_the_same_vector(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model="lengths", input="abc", encoding_format="float").data[0].embedding
    coded: Any = (
        client.embeddings.create(model="lengths", input="abc", encoding_format="base64").data[0].embedding
    )
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == plain
    assert plain == np.array([3, 0.1, -2], np.float32).tolist()


def test_dimensions_are_kept_or_cut_only_by_a_model_made_for_it(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model="lengths", input="x", dimensions=3).data[0].embedding) == 3
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="lengths", input="x", dimensions=2)
    assert caught.value.param == "dimensions"
    assert client.embeddings.create(model="cut_lengths", input="xy", dimensions=2).data[0].embedding == [
        2.0,
        1.0,
    ]


@pytest.mark.parametrize("given", [[1, 2], [[1], [2]], [], "", ["a", ""], ["a", 3], ["a"] * 2049])
def test_what_is_no_text_is_refused(client: openai.OpenAI, given: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="lengths", input=given)
    assert caught.value.param == "input"


def test_a_model_without_vectors_is_refused(client: openai.OpenAI) -> None:
    for model in ("timed", "humming"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=model, input="x")
        assert caught.value.code == "unsupported_model"


# -- transcriptions -----------------------------------------------------------------------------------------

SOUND = tt.Audio.from_array(np.zeros(24000, np.float32), 16000)
FILE = ("a.wav", SOUND.data)


def test_a_recording_is_written_down_with_its_settings(client: openai.OpenAI) -> None:
    done = client.audio.transcriptions.create(model="heard", file=FILE, language="de", prompt="Na\u00efve")
    assert done.text == f"{SOUND.size_bytes} de Na\u00efve"
    assert done.usage is not None
    assert (done.usage.type, done.usage.seconds) == ("duration", 1.5)  # type: ignore[union-attr]


def test_fields_of_a_form_are_read_as_the_workflow_takes_them(client: openai.OpenAI) -> None:
    def ask(**more: str) -> str:
        return client.audio.transcriptions.create(model="beamed", file=FILE, extra_body=more).text

    assert ask(beams="5", share="0.5", quick="true", name="7") == "5 0.5 True 7"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(beams="many")
    assert (caught.value.param, caught.value.body["code"]) == ("beams", "invalid_value")  # type: ignore[index]


def test_every_form_of_a_transcript(client: openai.OpenAI) -> None:
    def ask(form: Any) -> Any:
        return client.audio.transcriptions.create(model="timed", file=FILE, response_format=form)

    assert ask("json").text == "Hello there."
    assert ask("text") == "Hello there.\n"
    assert ask("srt") == (
        "1\n00:00:00,250 --> 00:00:01,500\nHello\n\n2\n01:01:01,000 --> 01:01:02,125\n<there>.\n\n"
    )
    assert ask("vtt") == (
        "WEBVTT\n\n00:00:00.250 --> 00:00:01.500\nHello\n\n01:01:01.000 --> 01:01:02.125\n&lt;there&gt;.\n\n"
    )
    full = ask("verbose_json")
    assert (full.text, full.duration, full.language) == ("Hello <there>.", 1.5, "en")
    assert [(each.id, each.start, each.end) for each in full.segments] == [
        (0, 0.25, 1.5),
        (1, 3661.0, 3662.125),
    ]


def test_a_transcript_streams_as_it_is_heard(client: openai.OpenAI) -> None:
    events = list(client.audio.transcriptions.create(model="timed", file=FILE, stream=True))
    assert [each.type for each in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert [each.delta for each in events[:2]] == ["Hello", " <there>."]  # type: ignore[union-attr]
    assert events[-1].text == "Hello <there>."  # type: ignore[union-attr]
    with pytest.raises(openai.APIError, match="failed inside the server"):
        list(client.audio.transcriptions.create(model="breaking", file=FILE, stream=True))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": "srt", "model": "heard"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"timestamp_granularities": ["word"], "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"file": ("a.wav", b"no sound at all")}, "file"),
        ({"language": "German"}, "language"),
        ({"include": ["logprobs"]}, "include"),
        ({"model": "lengths"}, "model"),
        ({"stream": True, "response_format": "vtt"}, "stream"),
    ],
)
def test_transcripts_that_cannot_be_made_are_refused(client: openai.OpenAI, more: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(**{"model": "timed", "file": FILE, **more})
    assert caught.value.param == param


def test_a_form_without_a_file_or_without_a_form_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/audio/transcriptions", cast_to=dict, body={"model": "timed"})
    assert "form" in caught.value.message
    form = {"content-type": "application/x-www-form-urlencoded"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/audio/transcriptions", cast_to=dict, content=b"model=timed", options={"headers": form})
    assert caught.value.param == "file"


# -- speech -------------------------------------------------------------------------------------------------


def spoken(client: openai.OpenAI, text: str, **more: Any) -> openai.HttpxBinaryResponseContent:
    return client.audio.speech.create(**{"model": "humming", "voice": "high", "input": text, **more})


@pytest.mark.parametrize("form", ["wav", "flac", "opus", "mp3"])
def test_sound_comes_in_the_format_that_was_asked_for(client: openai.OpenAI, form: str) -> None:
    reply = spoken(client, "two words", response_format=form)
    samples, rate = soundfile.read(io.BytesIO(reply.content))
    assert rate == RATE
    assert abs(len(samples) / rate - 1.0) < 0.1  # mp3 pads its frames
    assert np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples) == pytest.approx(440, abs=3)
    assert reply.response.headers["content-type"].startswith("audio/")


def test_pcm_is_16_bit_mono_at_24_khz_and_mp3_is_the_default(client: openai.OpenAI) -> None:
    data = spoken(client, "one", response_format="pcm", voice="low").content
    samples = np.frombuffer(data, "<i2")
    assert abs(len(samples) / RATE - 0.5) < 0.01
    assert np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples) == pytest.approx(220, abs=3)
    assert spoken(client, "one").response.headers["content-type"] == "audio/mpeg"
    fast = spoken(client, "one", response_format="pcm", speed=2.0).content
    assert len(fast) == pytest.approx(len(data) / 2, rel=0.02)


def test_the_first_sound_does_not_wait_for_the_last(client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="humming", voice="high", input="one wait", response_format="wav"
    ) as reply:
        chunks = reply.iter_bytes(44)
        assert next(chunks)[:4] == b"RIFF"
        assert held == 1
    assert eventually(lambda: held == 0)  # who leaves stops the voice


def test_speech_in_events_is_the_same_sound(client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="humming", voice="high", input="two words", response_format="pcm", stream_format="sse"
    ) as reply:
        events = [msgspec.json.decode(line[6:]) for line in reply.iter_lines() if line.startswith("data: ")]
    assert [each["type"] for each in events] == ["speech.audio.delta"] * 2 + ["speech.audio.done"]
    data = b"".join(base64.b64decode(each["audio"]) for each in events[:2])
    assert data == spoken(client, "two words", response_format="pcm").content


def test_speech_that_cannot_be_made_is_refused(client: openai.OpenAI) -> None:
    for more, param in (
        ({"response_format": "aac"}, "response_format"),
        ({"speed": 9}, "speed"),
        ({"input": ""}, "input"),
        ({"input": "x" * 4097}, "input"),
        ({"model": "lengths"}, "model"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            spoken(client, **{"text": "one", **more} if "input" not in more else {"text": more["input"]})
        assert caught.value.param == param, more
    with pytest.raises(openai.InternalServerError):
        spoken(client, "fail")


def test_an_mp3_begins_with_sound_and_not_with_an_empty_table(client: openai.OpenAI) -> None:
    data = spoken(client, "two words", response_format="mp3").content
    assert data[:2] == b"\xff\xf3"  # MPEG-2 layer III
    assert any(data[4:190])
    assert b"Xing" not in data
    assert b"Info" not in data


def test_an_empty_file_of_sound_is_a_file() -> None:
    for form in ("wav", "flac", "opus", "mp3"):
        assert np.allclose(soundfile.read(io.BytesIO(Encoder(form).end()))[0], 0, atol=1e-6)
    with wave.open(io.BytesIO(Encoder("wav").end())) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)


# -- the door -----------------------------------------------------------------------------------------------


def test_limits_and_keys_speak_as_clients_expect() -> None:
    from tauten.serve.safety.guard import Unauthorized

    def busy(exchange: Exchange) -> Any:
        if "none" not in exchange.headers.get("authorization", ""):
            raise Unauthorized("no API key", help="send one")
        raise Busy("too many requests", help="later", retry_after_s=2.5)

    with serving(talking(), door=Door(identify=busy)) as served, served.client() as client:
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
        assert caught.value.response.headers["retry-after"] == "3"
        assert caught.value.response.headers["retry-after-ms"] == "2500"
        assert caught.value.type == "rate_limit_error"
        with pytest.raises(openai.AuthenticationError) as denied:
            client.with_options(api_key="wrong").models.list()
        assert denied.value.code == "invalid_api_key"


def test_a_service_that_is_not_ready_is_not_listed_and_answers_503() -> None:
    service = talking()
    with serving(service) as served, served.client() as client:
        service.ready = False
        assert client.models.list().data == []
        with pytest.raises(openai.InternalServerError) as caught:
            client.models.retrieve("parrot")
        assert caught.value.status_code == 503


def test_the_paths_of_the_document_are_the_routes(served: Served) -> None:
    written = {(method.upper(), path) for path, methods in paths().items() for method in methods}
    assert written == {(route.method, route.path) for route in served.app.apis["openai"].routes()}
    assert "$ref" not in msgspec.json.encode(paths()).decode()


def test_a_message_without_content_has_no_text() -> None:
    assert text_of(Message("assistant")) == ""
