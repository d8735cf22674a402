"""The shipped recording: counts, halves, reproducible rendering, scoring."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tauten.describe.payload import Audio, Image, Text
from tauten.examples.help_desk import scenes, screens, voices
from tauten.examples.help_desk.recording import QUICK, recording
from tauten.examples.help_desk.rendered import kept
from tauten.examples.help_desk.scoring import Outcome, plain, score
from tauten.examples.help_desk.sites import HALVES, label, sites, tracebacks
from tauten.improve.recording import Document, Item, Label, Recording


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "models" not in request.keywords:
        monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))


def test_there_are_enough_requests_of_every_kind() -> None:
    whole = recording()
    assert len(whole) >= 400
    assert sum("spoken" in item.tags[0] for item in whole) >= 100
    for half in HALVES:
        kinds = Counter(item.tags[0] for item in whole.select(split=half))
        assert set(kinds) >= set(QUICK)
        assert kinds["photo typed"] + kinds["photo spoken"] >= 40
        assert kinds["picture only"] >= 15
    assert len({site.exception for half in HALVES for site in sites(half)}) >= 35


def test_the_quick_set_has_sixty_from_both_halves() -> None:
    quick = recording(quick=True)
    assert len(quick) == 60
    for half in HALVES:
        assert Counter(item.tags[0] for item in quick.select(split=half)) == Counter(QUICK)
    assert 15 <= sum("spoken" in item.tags[0] for item in quick) <= 20
    assert quick[0].at_s == 0.0
    assert 40 < quick[59].at_s < 90


def test_a_half_is_that_half() -> None:
    dev, held_out = recording(split="dev"), recording(split="held_out")
    assert {item.split for item in dev} == {"dev"}
    assert not {item.id for item in dev} & {item.id for item in held_out}
    assert len(dev) + len(held_out) == len(recording())


def test_photographs_of_one_half_are_not_in_the_other() -> None:
    assert not set(voices.VOICES["dev"][2:]) & set(voices.VOICES["held_out"][2:])
    named = {half: {name for name in scenes.PHOTOGRAPHS if _uses(half, name)} for half in HALVES}
    assert named["dev"]
    assert named["held_out"]
    assert not named["dev"] & named["held_out"]


def _uses(half: str, name: str) -> bool:
    return any((scene := item.render.args[2]) and scene[0] == name for item in recording(split=half))  # type: ignore[attr-defined]


def test_items_and_times_are_the_same_every_time() -> None:
    first = [(item.id, item.at_s, item.label, item.quick) for item in recording()]
    assert first == [(item.id, item.at_s, item.label, item.quick) for item in recording()]


def test_listing_renders_nothing(tmp_path: Path) -> None:
    assert len(recording()) > 0
    assert not (tmp_path / "store").exists()


HASH_TWO = """
import hashlib
from tauten.examples.help_desk.recording import recording
items = [item for item in recording(quick=True) if "with photo" in item.tags and "spoken" not in item.tags[0]]
for item in items[:4]:
    print(item.id, item.inputs["photo"].hash)
"""


def test_two_processes_render_the_same_pictures(tmp_path: Path) -> None:
    runs = []
    for number in range(2):
        environment = {"TAUTEN_STORE": str(tmp_path / str(number)), "PATH": "", "PYTHONHASHSEED": str(number)}
        done = subprocess.run(
            [sys.executable, "-c", HASH_TWO], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        runs.append(done.stdout)
    assert runs[0] == runs[1]
    assert runs[0].count("\n") == 4


@pytest.mark.parametrize("seed", range(12))
def test_the_exception_line_is_on_the_screen(seed: int) -> None:
    """Whatever the look, the last lines are not cut away: the same screen without them is smaller or different."""
    text = tracebacks()["shop"]
    whole = screens.screenshot(text, "python shop.py", f"s{seed}", program="x = 1\n", file="shop.py")
    without = screens.screenshot(
        text.replace("KeyError: 'melon'", "        '     '"), "python shop.py", f"s{seed}", program="x = 1\n"
    )
    assert whole.size[0] >= 300
    assert whole.size[1] >= 100
    assert _digest(whole) != _digest(without)
    assert _digest(whole) == _digest(
        screens.screenshot(text, "python shop.py", f"s{seed}", program="x = 1\n", file="shop.py")
    )


def _digest(picture: Any) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def test_screens_differ_in_look() -> None:
    looks = [screens.Look.draw(random.Random(f"seed {number}")) for number in range(120)]
    assert {look.frame for look in looks} == set(screens.FRAMES)
    assert {look.font for look in looks} == set(screens.FONTS)
    assert len({look.theme for look in looks}) == len(screens.THEMES)


def test_photographs_are_jpeg_and_blurred() -> None:
    from PIL import Image as Pillow

    screen = screens.screenshot(tracebacks()["shop"], "python shop.py", "a", file="shop.py")
    data = scenes.photograph(screen, "a")
    assert data == scenes.photograph(screen, "a")
    assert Image(data).type == "image/jpeg"
    photo = np.asarray(Pillow.open(io.BytesIO(data)).convert("L"), np.float32)
    assert min(photo.shape) > 250
    assert photo.std() > 10


@pytest.mark.parametrize("name", [*scenes.SCENES, *scenes.PHOTOGRAPHS])
def test_ordinary_pictures_are_reproducible(name: str) -> None:
    data = scenes.ordinary(name, "seed")
    assert data == scenes.ordinary(name, "seed")
    assert data != scenes.ordinary(name, "other seed")
    assert Image(data).type == "image/jpeg"


def test_rendered_media_are_made_once() -> None:
    calls: list[int] = []

    def make() -> bytes:
        calls.append(1)
        return b"made"

    assert [kept("recipe", make), kept("recipe", make), kept("other", make)] == [b"made"] * 3
    assert len(calls) == 2


def _tone() -> Any:
    return (0.5 * np.sin(np.arange(24_000) * 2 * np.pi * 440 / 24_000)).astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
def test_rooms_keep_the_speech_and_add_noise(seed: int) -> None:
    heard, rate = voices.heard(_tone(), random.Random(seed))
    assert rate in (8_000, 16_000, 24_000)
    assert 1.3 < len(heard) / rate < 2.3
    assert 0.09 < np.abs(heard).max() <= 0.71
    spectrum = np.abs(np.fft.rfft(heard))
    loudest = np.fft.rfftfreq(len(heard), 1 / rate)[spectrum.argmax()]
    assert abs(loudest - 440) < 3
    again, _ = voices.heard(_tone(), random.Random(seed))
    assert np.array_equal(heard, again)


class Given(msgspec.Struct):
    found: bool = True
    text: str = ""
    passage: str = ""
    code: str = ""
    source: str = ""
    titles: tuple[str, ...] = ()


KEY = Item(id="k", render=dict, label=label("key-error"))
NONE = Item(id="n", render=dict, label=Label(answerable=False))
RIGHT = Given(
    text="Raised when a mapping (dictionary) key is\nnot found in the set of existing keys.",
    passage="Raised when a mapping (dictionary) key is not found in the set of existing keys.",
    source="library/exceptions.rst",
    titles=("Built-in Exceptions", "KeyError"),
)


@pytest.mark.parametrize(
    ("item", "answer", "outcome"),
    [
        (KEY, RIGHT, Outcome(True, 1, True)),
        (KEY, msgspec.structs.replace(RIGHT, text="Something else."), Outcome(False, 1, True)),
        (KEY, msgspec.structs.replace(RIGHT, source="library/csv.rst"), Outcome(True, None, True)),
        (KEY, msgspec.structs.replace(RIGHT, found=False), Outcome(False, 1, False)),
        (NONE, RIGHT, Outcome(False, None, False)),
        (NONE, Given(found=False), Outcome(True, None, True)),
    ],
)
def test_scores(item: Item, answer: Given, outcome: Outcome) -> None:
    assert score(item, answer) == outcome


def test_the_rank_is_the_place_of_the_first_passage_that_answers() -> None:
    class Passage(msgspec.Struct):
        text: str
        source: str
        titles: tuple[str, ...]

    good = Passage(RIGHT.text, "docs/library/exceptions.rst", RIGHT.titles)
    poor = Passage("Nothing of use.", "docs/library/exceptions.rst", RIGHT.titles)
    assert score(KEY, RIGHT, [poor, poor, good]).hit_rank == 3
    assert score(KEY, RIGHT, [poor]).hit_rank is None


def test_every_pattern_of_a_group_is_needed() -> None:
    item = Item(id="g", render=dict, label=Label(accept=(("alpha", "beta"), ("gamma",))))
    assert not score(item, Given(text="alpha only")).correct
    assert score(item, Given(text="beta and Alpha")).correct
    assert score(item, Given(text="", code="GAMMA()")).correct


def test_markup_is_taken_off_before_judging() -> None:
    assert plain("if *key* is in\n  the ``dict`` :class:`~collections.abc.Mapping`") == (
        "if key is in the dict collections.abc.Mapping"
    )


def test_documents_match_by_file_and_title() -> None:
    item = Item(
        id="d", render=dict, label=Label(documents=(Document("faq/design.rst", "self"),), accept=(("x",),))
    )
    answer = Given(
        text="x", passage="x", source="docs/faq/design.html#why-self", titles=("Why must self be used",)
    )
    assert score(item, answer).hit_rank == 1
    assert score(item, msgspec.structs.replace(answer, source="faq/redesign.rst")).hit_rank is None


def test_the_recording_can_be_saved_and_loaded(tmp_path: Path) -> None:
    few = [item for item in recording(quick=True) if "spoken" not in item.tags[0]][:8]
    loaded = Recording.load(Recording("few", few).save(tmp_path / "few.rec"))
    assert [(item.id, item.label) for item in loaded] == [(item.id, item.label) for item in few]
    for one, other in zip(few, loaded, strict=True):
        assert {name: value.hash for name, value in one.inputs.items()} == {
            name: value.hash for name, value in other.inputs.items()
        }


@pytest.mark.models
def test_a_spoken_question_sounds_like_speech() -> None:
    import wave

    try:
        item = next(item for item in recording(quick=True) if item.tags[0] == "spoken")
        sound = item.inputs["question"]
    finally:
        voices.close()
    assert isinstance(sound, Audio)
    with wave.open(io.BytesIO(sound.data)) as file:
        seconds = file.getnframes() / file.getframerate()
    assert 0.05 < len(item.label.transcript) / 10 / seconds < 3  # people say some 12 to 18 letters a second
    assert item.label.transcript.endswith(("?", "."))


def test_typed_requests_carry_their_text() -> None:
    item = next(item for item in recording() if item.tags[0] == "typed")
    assert isinstance(item.inputs["question"], Text)
    assert "photo" not in item.inputs
