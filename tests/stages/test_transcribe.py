"""transcribe: what passes through, what the model is given; a spoken sentence on the real models."""
# SPDX-License-Identifier: Apache-2.0

import io
from typing import Any

import numpy as np
import pytest
import soundfile

from kit.direct import DirectContext, direct
from tauten.describe.payload import Audio, Text
from tauten.describe.stages.detect_speech import detect_speech
from tauten.describe.stages.speak import speak
from tauten.describe.stages.transcribe import transcribe
from tauten.errors import InputError


def tone(seconds: float, rate: int = 8000) -> Audio:
    return Audio.from_array(0.3 * np.sin(np.arange(int(seconds * rate))), rate)


def test_text_passes_through_unchanged() -> None:
    given = Text(" as it is ")
    assert direct(transcribe, given, context=DirectContext(transcribe)) is given


def test_the_item_is_16_khz_and_the_documented_defaults() -> None:
    context = DirectContext(transcribe, fakes={"model": lambda item: {"text": " Hello. "}})
    assert direct(transcribe, tone(1.0), hot_words=("KeyError",), context=context).text == "Hello."
    (item,) = context.items["model"]
    assert item.pop("samples").shape == (16000,)
    assert item == {"window": "full", "hot_words": ["KeyError"], "language": "en", "max_tokens": None}


def test_an_unknown_window_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        direct(transcribe, tone(0.2), window="tiny", context=DirectContext(transcribe))
    assert caught.value.code == "E240"


@pytest.fixture(scope="module")
def spoken() -> Audio:
    """One second of silence, two spoken questions, silence."""
    said = direct(speak, "How do I open a file? What does KeyError mean?")
    parts = [soundfile.read(io.BytesIO(each.data), dtype="float32") for each in said]
    rate = parts[0][1]
    quiet: Any = np.zeros(rate, np.float32)
    return Audio.from_array(np.concatenate([quiet, *(samples for samples, _ in parts), quiet]), rate)


@pytest.mark.models
@pytest.mark.parametrize("window", ["full", "clip"])
def test_a_spoken_question_is_understood(spoken: Audio, window: str) -> None:
    assert "how do i open a file?" in direct(transcribe, spoken, window=window).text.lower()


@pytest.mark.models
def test_hot_words_choose_the_spelling(spoken: Audio) -> None:
    said = direct(transcribe, spoken, window="clip", hot_words=["KeyError", "IndexError", "TypeError"]).text
    assert "KeyError" in said


@pytest.mark.models
def test_silence_gives_empty_text() -> None:
    assert direct(transcribe, Audio.from_array(np.zeros(16000, np.float32), 16000)).text == ""


@pytest.mark.models
def test_speech_is_found_where_it_is(spoken: Audio) -> None:
    found = direct(detect_speech, spoken)
    with soundfile.SoundFile(io.BytesIO(spoken.data)) as file:
        length_s = file.frames / file.samplerate
    assert 0.8 < found[0].start_s < 1.6
    assert length_s - 1.6 < found[-1].end_s < length_s - 0.6
