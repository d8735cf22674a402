"""Stages called outside any workflow just work: loaded once, run, and gone with the process."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tauten as tt
from tauten.examples.help_desk.recording import recording

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def screen() -> tt.Image:
    item = next(each for each in recording(quick=True) if each.id == "held_out/circle/0/screen-typed")
    picture = item.inputs["photo"]
    assert isinstance(picture, tt.Image)
    return picture


@pytest.fixture(scope="module")
def speech() -> tt.Audio:
    item = next(each for each in recording(quick=True) if each.id == "dev/question/0/spoken")
    sound = item.inputs["question"]
    assert isinstance(sound, tt.Audio)
    return sound


def test_transcribe(speech: tt.Audio, tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    clip.write_bytes(speech.data)
    heard = tt.transcribe(str(clip))
    assert isinstance(heard, tt.Text)
    assert len(heard.text.split()) >= 3
    assert tt.transcribe(speech).text == heard.text


def test_detect_speech(speech: tt.Audio) -> None:
    spans = tt.detect_speech(speech)
    assert spans
    assert all(span.end_s > span.start_s >= 0 for span in spans)


def test_ocr(screen: tt.Image) -> None:
    page = tt.ocr(screen)
    assert any("NameError" in line.text for line in page.lines)


def test_classify(screen: tt.Image) -> None:
    labels = tt.classify(screen)
    assert 0 <= labels.screen <= 1


def test_embed() -> None:
    one, same, other = (
        np.asarray(tt.embed(text).array).ravel()
        for text in ("a missing key", "a key that is missing", "boiled eggs")
    )
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-3)
    assert one @ same > one @ other


def test_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "say.md").write_text("Say hello to {{ who }}.\n")
    monkeypatch.chdir(tmp_path)
    said = tt.generate("say.md", who="Ada", max_tokens=8)
    assert str(said).strip()
