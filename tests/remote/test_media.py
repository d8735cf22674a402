"""Pictures and sound on their way to a provider: forms that it reads, bounds, counts, and where they stand."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import io
import wave
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image as Pillow

import tauten as tt
from remote.kit_provider import PICTURE_TOKENS, StandIn, says
from tauten.describe.spoken import has_media, messages_of
from tauten.describe.stages.generate import chat
from tauten.errors import InputError, MediaError
from tauten.plan.plan import Plan, StagePlan
from tauten.run.backends._llm_item import read_item
from tauten.run.engine import Engine
from tauten.run.remote import media
from tauten.run.remote.chat import Chat
from tauten.run.remote.media import MOST_SIDE, picture_of, sendable, sound_of
from tauten.run.remote.providers import Provider
from tauten.run.remote.question import NOTHING
from tauten.run.remote.units import most_prompt_tokens, prompt_tokens

CHAT = Provider(url="http://told", name="told")
TYPED = Provider(url="http://told", name="told", speaks="responses")


def drawn(kind: str, width: int = 40, height: int = 30, *, frames: int = 1) -> tt.Image:
    noise = np.random.default_rng(width).integers(0, 255, (frames, height, width, 3), np.uint8)
    first, *rest = [Pillow.fromarray(each) for each in noise]
    buffer = io.BytesIO()
    first.save(buffer, kind, **({"save_all": True, "append_images": rest} if rest else {}))
    return tt.Image(buffer.getvalue())


def opened(url_or_data: str) -> Any:
    return Pillow.open(io.BytesIO(base64.b64decode(url_or_data.rpartition(",")[2])))


# -- forms and bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_all_providers_read_goes_as_it_is(kind: str) -> None:
    image = drawn(kind)
    sent = picture_of(image)
    assert (sent.type, sent.width, sent.height) == (image.type, 40, 30)
    assert base64.b64decode(sent.data) == image.data
    assert sent.url.startswith(f"data:image/{kind.lower()};base64,")


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF"])
def test_other_forms_become_png_without_loss(kind: str) -> None:
    image = drawn(kind)
    sent = picture_of(image)
    assert sent.type == "image/png"
    with Pillow.open(io.BytesIO(image.data)) as before:
        assert np.array_equal(np.asarray(opened(sent.data)), np.asarray(before.convert("RGB")))


def test_of_a_picture_that_moves_the_first_frame_is_sent() -> None:
    moving = drawn("GIF", frames=3)
    sent = picture_of(moving)
    assert (sent.type, opened(sent.data).size) == ("image/png", (40, 30))


def test_a_long_picture_is_reduced_and_keeps_its_shape() -> None:
    sent = picture_of(drawn("JPEG", 3 * MOST_SIDE, 300))
    assert (sent.type, sent.width, sent.height) == ("image/jpeg", MOST_SIDE, 100)
    assert opened(sent.data).size == (MOST_SIDE, 100)


def test_a_heavy_picture_gets_lighter_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MOST_IMAGE_BYTES", 60_000)
    sent = picture_of(drawn("PNG", 900, 900))  # noise: 2.4 MB
    assert len(base64.b64decode(sent.data)) <= 60_000
    assert sent.type == "image/jpeg"
    assert sent.width == sent.height < 900
    monkeypatch.setattr(media, "MOST_IMAGE_BYTES", 100)
    with pytest.raises(InputError, match="E232"):
        picture_of(drawn("PNG", 900, 900))


@pytest.mark.parametrize(("kind", "kept"), [("PNG", 20), ("BMP", 60)])
def test_a_picture_whose_header_or_whose_pixels_are_needed_and_damaged_is_refused(
    kind: str, kept: int
) -> None:
    with pytest.raises(MediaError):
        picture_of(tt.Image(drawn(kind).data[:kept]))


def tone(seconds: float, rate: int = 8000) -> tt.Audio:
    return tt.Audio.from_array(np.zeros(int(seconds * rate), np.float32), rate)


def test_wav_and_mp3_go_as_they_are_and_other_sound_as_wav(tmp_path: Path) -> None:
    import soundfile

    sent = sound_of(tone(2.0))
    assert (sent.format, sent.seconds, base64.b64decode(sent.data)) == ("wav", 2.0, tone(2.0).data)
    soundfile.write(tmp_path / "a.flac", np.zeros(8000, np.float32), 8000)
    flac = sound_of(tt.Audio(tmp_path / "a.flac"))
    assert (flac.format, flac.seconds) == ("wav", 1.0)
    with wave.open(io.BytesIO(base64.b64decode(flac.data))) as read:
        assert (read.getframerate(), read.getnchannels(), read.getnframes()) == (16_000, 1, 16_000)
    soundfile.write(tmp_path / "a.wav", np.zeros(8000, np.float32), 8000, subtype="FLOAT")
    assert sound_of(tt.Audio(tmp_path / "a.wav")).seconds == 1.0, "a WAV that is no PCM is converted"


def test_sound_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MOST_AUDIO_BYTES", 20_000)
    assert sound_of(tone(0.5, rate=48_000)).format == "wav", "it fits once it is 16 kHz"
    with pytest.raises(InputError, match="too large for a provider"):
        sound_of(tone(5.0))


# -- in a call -------------------------------------------------------------------------------------------------


def prepared(*content: Any, role: str = "user") -> dict[str, Any]:
    item = {"messages": messages_of([{"role": role, "content": list(content)}])}
    return dict(asyncio.run(sendable(item)))


def test_parts_in_the_words_of_each_protocol() -> None:
    image, sound = drawn("PNG"), tone(1.0)
    item = prepared("what is this?", image, sound)
    body = msgspec.json.decode(Chat(item).content(CHAT, "m", NOTHING).body)
    text, picture, heard = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "what is this?"}
    assert picture["image_url"]["url"] == picture_of(image).url
    assert heard["input_audio"] == {"data": base64.b64encode(sound.data).decode(), "format": "wav"}
    body = msgspec.json.decode(Chat(item).spoken_to(TYPED).content(TYPED, "m", NOTHING).body)
    text, picture, heard = body["input"][0]["content"]
    assert (text["type"], picture["type"], heard["type"]) == ("input_text", "input_image", "input_audio")
    assert picture["image_url"] == picture_of(image).url


def test_budgets_hold_more_for_media_than_is_estimated() -> None:
    messages = prepared("x", drawn("PNG", 1000, 1000), tone(3.0))["messages"]
    assert prompt_tokens(messages) == 4 + 1 + (85 + 170 * 4) + 30
    assert most_prompt_tokens(messages) > prompt_tokens(messages)


def test_an_item_without_media_is_not_touched() -> None:
    item = {"messages": [{"role": "user", "content": "x"}]}
    assert asyncio.run(sendable(item)) is item


def test_a_model_of_texts_refuses_media() -> None:
    item = {"messages": messages_of([{"role": "user", "content": ["x", drawn("PNG")]}])}
    with pytest.raises(InputError, match="reads text only") as caught:
        read_item(item)
    assert caught.value.code == "E232"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}},
        {"type": "input_audio", "input_audio": {"data": ""}},
        {"type": "file", "file": {"id": "f"}},
        3,
    ],
)
def test_parts_that_cannot_be_read_are_refused(part: Any) -> None:
    with pytest.raises(InputError) as caught:
        messages_of([{"role": "user", "content": ["x", part]}])
    assert caught.value.code == "E232"
    assert has_media([{"role": "user", "content": [part]}])


def test_clients_parts_and_payloads_are_the_same() -> None:
    image = drawn("PNG")
    url = f"data:image/png;base64,{base64.b64encode(image.data).decode()}"
    theirs = [
        {"type": "text", "text": "x"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    assert messages_of([{"role": "user", "content": theirs}]) == messages_of(
        [{"role": "user", "content": ["x", image]}]
    )
    plain = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages_of([{"role": "developer", "content": plain}]) == [{"role": "system", "content": "a\nb"}]


# -- in workflows ----------------------------------------------------------------------------------------------


@tt.workflow
def look(question: tt.Text, photo: tt.Image) -> tt.Stream[tt.Text]:
    return tt.generate("Look at this:\n{{ photo }}\n{{ question }}", question=question, photo=photo)


@tt.workflow
def talk(messages: list[dict[str, Any]]) -> tt.Stream[tt.Text]:
    return chat(messages)


def served(
    workflow: Any, inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[StandIn, Any]:
    async def scene() -> tuple[StandIn, Any]:
        async with StandIn(says("a ", "boat")) as stand, Engine() as engine:
            (tmp_path / "providers.toml").write_text(f'[p]\nurl = "{stand.url}"\n')
            monkeypatch.setenv("TAUTEN_PROVIDERS", str(tmp_path / "providers.toml"))
            [step] = workflow.graph.stages
            stage = StagePlan(model="m", backend="remote", settings={"provider": "p"})
            await engine.open(workflow, Plan(graph=workflow.graph.hash, stages={step: stage}))
            return stand, await engine.run(inputs)

    return asyncio.run(scene())


def test_a_picture_stands_where_the_template_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = drawn("PNG")
    stand, answer = served(look, look.bind("what is it?", image), tmp_path, monkeypatch)
    assert answer.value.text == "a boat"
    [message] = stand.calls[0].json["messages"]
    before, picture, after = message["content"]
    assert (before["text"], after["text"]) == ("Look at this:", "what is it?")
    assert picture["image_url"]["url"] == picture_of(image).url
    [call] = answer.trace.provider_calls
    assert call.units["input_tokens"] == stand.billed()[0] == 4 + 4 + PICTURE_TOKENS + 3


def test_a_conversation_with_a_picture_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = picture_of(drawn("PNG")).url
    turns = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    stand, answer = served(talk, talk.bind(turns), tmp_path, monkeypatch)
    assert answer.value.text == "a boat"
    assert stand.calls[0].json["messages"][0]["content"] == turns[0]["content"]
