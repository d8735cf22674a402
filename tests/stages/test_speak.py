"""Pronunciation, sentence cutting and the spoken sound."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import io
import shutil
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.effort import within_bounds
from tauten.describe.payload import Audio, Text
from tauten.describe.phonemes import _ONES, TECHNICAL, Pronouncer, number
from tauten.describe.ports import Stream
from tauten.describe.stages import speak as speaking
from tauten.errors import InputError, MachineError, StoreError

LEXICON = {
    "the": "ði",
    "key": "kˈi",
    "error": "ˈɛɹəɹ",
    "use": {"DEFAULT": "jˈuz", "NOUN": "jˈus"},
    "walk": "wˈɔk",
    "two": "tˈu",
    "point": "pˈYnt",
    "five": "fˈIv",
    "dot": "dˈɑt",
    "path": "pˈæθ",
    "os": "ˌO ˈɛs",
    "'s": "z",
    **dict.fromkeys("BCDEFGHIJKLMNOPQRSTUVWXYZ", "ˈɛ"),
}
KOKORO_SYMBOLS = set(
    ';:,.!?—…"()“” ̃ʣʥʦʨᵝꭧAIOQSTWYᵊabcdefhijklmnopqrstuvwxyzɑɐɒæβɔɕçɖðʤəɚɛɜɟɡɥɨɪʝɯɰŋɳɲɴøɸθœɹɾɻʁɽʂʃʈʧʊʋʌɣɤχʎʒʔˈˌːʰʲ↓→↗↘ᵻ'
)


def _weights() -> dict[str, Any]:
    """Random weights of the letter-to-sound net's shape, so that the rules are tested without the model."""
    rng = np.random.default_rng(5)
    size, shapes = 8, {"enc_emb": (29, 8), "dec_emb": (74, 8), "fc_w": (74, 8), "fc_b": (74,)}
    for side in ("enc", "dec"):
        shapes |= {f"{side}_w_ih": (3 * size, size), f"{side}_w_hh": (3 * size, size)}
        shapes |= {f"{side}_b_ih": (3 * size,), f"{side}_b_hh": (3 * size,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


PRONOUNCER = Pronouncer(LEXICON, {}, _weights())


@pytest.mark.parametrize(
    ("text", "sounds"),
    [
        ("The KeyError.", "ði kˈi ˈɛɹəɹ."),
        ("2.5", "tˈu pˈYnt fˈIv"),
        ("os.path", "ˌO ˈɛs dˈɑt pˈæθ"),
        ("walks, walked", "wˈɔks, wˈɔkd"),
        ("the key's use", "ði kˈiz jˈuz"),
        ("walk'point'two", "wˈɔkpˈYnttˈu"),
        ("a JSON tuple", f"ɐ {TECHNICAL['json']} {TECHNICAL['tuple']}"),
        ("__init__", TECHNICAL["init"]),
    ],
)
def test_known_words_are_pronounced(text: str, sounds: str) -> None:
    assert PRONOUNCER.phonemes(text) == sounds


@given(st.text(max_size=200))
def test_any_text_gives_only_symbols_that_kokoro_has(text: str) -> None:
    assert set(PRONOUNCER.phonemes(text)) <= KOKORO_SYMBOLS


def test_unknown_words_are_sounded_out() -> None:
    assert PRONOUNCER.phonemes("zzyzx") != ""
    assert PRONOUNCER.phonemes("zzyzx") == PRONOUNCER.phonemes("zzyzx")


@given(st.integers(0, 999_999))
def test_numbers_in_words_say_the_number(value: int) -> None:
    words = {name: i for i, name in enumerate(_ONES[:10])}
    words |= {"ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15}
    words |= {"sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30}
    words |= {"forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
    total = part = 0
    for word in number(str(value)).split():
        if word == "thousand":
            total, part = part * 1000, 0
        else:
            part = part * 100 if word == "hundred" else part + words[word]
    assert total + part == value


def test_first_piece_is_a_clause_and_the_rest_are_sentences() -> None:
    text = "The key is not there, so Python complains. Look it up first, then use it. End"
    cutter = speaking.Cutter()
    pieces = [*cutter.add(text), *cutter.end()]
    assert pieces == [
        "The key is not there,",
        "so Python complains.",
        "Look it up first, then use it.",
        "End",
    ]


@pytest.mark.parametrize(("words", "first"), [(2, "Well then,"), (4, "Well then, the key is missing,")])
def test_a_plan_says_how_many_words_make_a_first_clause(words: int, first: str) -> None:
    cutter = speaking.Cutter(words)
    assert cutter.add("Well then, the key is missing, so Python complains.")[0] == first


@given(st.text(alphabet="ab ,.!?\n", max_size=400), st.integers(1, 20))
def test_cutting_loses_and_repeats_nothing(text: str, step: int) -> None:
    cutter = speaking.Cutter()
    pieces = [piece for i in range(0, len(text), step) for piece in cutter.add(text[i : i + step])]
    pieces += cutter.end()
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(len(piece) <= 240 for piece in pieces)


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_long_sentence_is_cut_between_words_however_it_comes(step: int) -> None:
    text = "unexpectedly " * 60
    cutter = speaking.Cutter()
    pieces = [piece for i in range(0, len(text), step) for piece in cutter.add(text[i : i + step])]
    pieces += cutter.end()
    assert len(pieces) > 2
    assert {word for piece in pieces for word in piece.split()} == {"unexpectedly"}


def test_whole_texts_are_cut_as_streams_are() -> None:
    text = "The key is missing, so Python complains. Look it up first, then use it. " * 200
    cutter = speaking.Cutter()
    expected = [piece for i in range(0, len(text), 5) for piece in cutter.add(text[i : i + 5])]
    expected += cutter.end()

    async def cut() -> list[str]:
        return [piece async for piece in speaking.clauses(text)]

    assert asyncio.run(cut()) == expected


def test_dots_without_an_end_cost_no_more_than_their_number() -> None:
    within_bounds(
        "from tauten.describe.stages.speak import Cutter\n"
        "cutter = Cutter()\n"
        "pieces = [*cutter.add('.' * 400_000 + 'x'), *cutter.end()]\n"
        "assert sum(map(len, pieces)) == 400_001"
    )


@pytest.mark.parametrize("unit", ["!", '!"', "x", "word ", "A sentence of words. ", ", a", "\n "])
def test_a_long_text_is_cut_in_one_go(unit: str) -> None:
    """Each letter is looked at a few times: cutting is done on the event loop, and took minutes of some of these."""
    text = unit * 200_000
    cutter = speaking.Cutter()
    pieces = [*cutter.add(text), *cutter.end()]
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(len(piece) <= 240 for piece in pieces)


class FakeContext:
    """A context whose model answers with a tone as long as the tokens."""

    params: dict[str, Any] = {}  # noqa: RUF012
    session = None

    def __init__(self, files: dict[str, dict[str, Path]]) -> None:
        self.roles = files
        self.items: list[dict[str, Any]] = []

    async def infer(self, role: str, item: Any) -> Any:
        self.items.append(item)
        return {"audio": np.full(item["tokens"].shape[1] * 100, 0.25, np.float32)}

    def files(self, role: str) -> dict[str, Path]:
        if role not in self.roles:
            raise StoreError(f"{role} is not here")
        return self.roles[role]

    async def work(self, function: Any, *args: Any, cause: str = "decode") -> Any:
        return function(*args)


@pytest.fixture
def context(tmp_path: Path) -> FakeContext:
    import json

    (tmp_path / "vocab.json").write_text(json.dumps({"vocab": {s: i for i, s in enumerate(KOKORO_SYMBOLS)}}))
    table = np.arange(510, dtype=np.float32)[:, None, None] * np.ones((1, 1, 256), np.float32)
    np.savez(tmp_path / "voices.npz", jf_nezumi=table, jm_kumo=-table)
    (tmp_path / "us_gold.json").write_text(json.dumps(LEXICON))
    (tmp_path / "us_silver.json").write_text("{}")
    np.savez(tmp_path / "g2p_en.npz", **_weights())
    every = {path.name: path for path in tmp_path.iterdir()}
    return FakeContext({"voice": every, "lexicon": every})


def _speak(context: Any, text: Any, **params: Any) -> list[Audio]:
    async def collect() -> list[Audio]:
        return [sound async for sound in speaking.speak.function(context, text, **params)]  # type: ignore[attr-defined]

    return asyncio.run(collect())


def test_one_wav_a_sentence_with_the_style_of_its_length(context: FakeContext) -> None:
    sounds = _speak(context, Text("The key. The error."), speed=1.25)
    assert [sound.type for sound in sounds] == ["audio/wav"] * 2
    for item in context.items:
        assert item["tokens"][0, 0] == item["tokens"][0, -1] == 0
        assert item["style"][0, 0] == item["tokens"].shape[1] - 2
        assert item["speed"] == np.float32(1.25)


def test_a_stream_is_spoken_while_it_comes(context: FakeContext) -> None:
    seen: list[int] = []

    async def words() -> AsyncIterator[Text]:
        for piece in ("The key. ", "The ", "error. ", "Use the key."):
            seen.append(len(context.items))
            yield Text(piece)

    assert len(_speak(context, Stream(words()))) == 3
    assert seen == [0, 1, 1, 2]


def test_every_number_of_a_long_row_is_said(context: FakeContext) -> None:
    lexicon = {word: word for word in "one two three four thousand hundred twenty thirty".split()}
    speaker = speaking.Kokoro(context.files("voice"), Pronouncer(lexicon, {}, None))
    row = "123432 " * 30
    sounds = speaker.pronouncer.phonemes(row).replace(" ", "")
    said = "".join(
        sorted(speaker.symbols, key=lambda symbol: speaker.symbols[symbol])[token]
        for item in speaker.items(row)
        for token in item["tokens"][0, 1:-1]
    )
    assert len(sounds) > 509
    assert said.replace(" ", "") == sounds


def test_nothing_to_say_gives_no_sound(context: FakeContext) -> None:
    assert _speak(context, Text("... 。。 ---")) == []


def test_voices_blend(context: FakeContext) -> None:
    _speak(context, Text("The key."), voice="jf_nezumi+jm_kumo")
    assert not context.items[0]["style"].any()


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"speed": 9.0}, "E235"),
        ({"voice": "jf_nezum"}, "E236"),
        ({"voice": "+".join(["jf_nezumi"] * 9)}, "E236"),
        ({"voice": "flite:http://169.254.169.254/voice.flitevox"}, "E236"),
        ({"voice": "flite:../../etc/voice"}, "E236"),
    ],
)
def test_wrong_settings_are_named(context: FakeContext, params: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as caught:
        _speak(context, Text("The key."), **params)
    assert caught.value.code == code


def test_without_model_and_without_flite_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MachineError, match="flite") as caught:
        _speak(FakeContext({}), Text("The key."))
    assert "tauten model pull" in caught.value.help


def test_flite_speaks_when_the_model_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with wave.open(str(tmp_path / "tone.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(b"\0\0" * 1600)
    program = tmp_path / "flite"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncp "{tmp_path}/tone.wav" "$last"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert len(_speak(FakeContext({}), Text("The key. The error."))) == 2


@pytest.mark.models
def test_kokoro_says_a_short_sentence() -> None:
    import onnxruntime

    from tauten.models import Store

    model, lexicon = Store().files("kokoro-82m"), Store().files("english-g2p")
    session = onnxruntime.InferenceSession(str(model["model.onnx"]))

    class Real(FakeContext):
        async def infer(self, role: str, item: Any) -> Any:
            return session.run(None, item)[0]

    (sound,) = _speak(Real({"voice": model, "lexicon": lexicon}), Text("Key error."))
    with wave.open(io.BytesIO(sound.data)) as heard:
        samples = np.frombuffer(heard.readframes(heard.getnframes()), "<i2") / 32768
        assert 0.5 < len(samples) / heard.getframerate() < 3.0
    assert 0.01 < np.sqrt(np.mean(samples**2)) < 0.5
