"""detect_speech: hysteresis and padding on made-up probabilities; a spoken sentence on the real model."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from kit.direct import DirectContext, direct
from tauten.describe.payload import Audio
from tauten.describe.stages import detect_speech as module
from tauten.describe.stages.detect_speech import FRAME, FRAME_S, RATE, SpeechSpan, detect_speech
from tauten.errors import InputError

USUAL = {"threshold": 0.5, "exit_threshold": 0.35, "min_speech_s": 0.25, "min_silence_s": 0.1}


def spans(*runs: tuple[int, float]) -> list[SpeechSpan]:
    return module.spans([value for count, value in runs for _ in range(count)], **USUAL)


def frames(start: int, end: int) -> SpeechSpan:
    return SpeechSpan(start * FRAME_S, end * FRAME_S)


def test_speech_between_silence() -> None:
    assert spans((10, 0.0), (20, 0.9), (10, 0.0)) == [frames(10, 30)]


def test_speech_until_the_end() -> None:
    assert spans((10, 0.0), (20, 0.9)) == [frames(10, 30)]


def test_a_dip_between_the_thresholds_does_not_end_it() -> None:
    assert spans((20, 0.9), (30, 0.4), (20, 0.9), (9, 0.0)) == [frames(0, 70)]


def test_a_short_pause_is_bridged_and_a_long_one_splits() -> None:
    assert spans((20, 0.9), (3, 0.0), (20, 0.9)) == [frames(0, 43)]
    assert spans((20, 0.9), (5, 0.0), (20, 0.9)) == [frames(0, 20), frames(25, 45)]


def test_a_click_is_dropped_and_a_murmur_never_begins() -> None:
    assert spans((10, 0.0), (5, 0.9), (10, 0.0)) == []
    assert spans((50, 0.45)) == []
    assert spans() == []


def test_padding_meets_in_the_middle_and_stays_inside() -> None:
    grown = module.padded([SpeechSpan(0.01, 1.0), SpeechSpan(1.02, 2.0)], 0.03, 2.01)
    assert grown == [SpeechSpan(0.0, pytest.approx(1.01)), SpeechSpan(pytest.approx(1.01), 2.01)]
    assert module.padded([], 0.03, 1.0) == []


@given(some.lists(some.floats(0, 1), max_size=200), some.floats(0, 0.2))
def test_spans_are_ordered_apart_and_inside(probabilities: list[float], pad_s: float) -> None:
    length_s = len(probabilities) * FRAME_S
    found = module.padded(module.spans(probabilities, **USUAL), pad_s, length_s)
    edges = [edge for span in found for edge in (span.start_s, span.end_s)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= length_s for edge in edges)
    assert all(span.end_s - span.start_s >= USUAL["min_speech_s"] - 1e-9 for span in found)


def test_frames_carry_state_and_context() -> None:
    seen: list[dict[str, Any]] = []

    def fake(item: dict[str, Any]) -> dict[str, Any]:
        seen.append(item)
        return {"output": np.array([[0.9]], np.float32), "stateN": item["state"] + 1}

    ramp = np.linspace(0.1, 0.9, FRAME * 2 + 10, dtype=np.float32)
    direct(
        detect_speech,
        Audio.from_array(ramp, RATE),
        context=DirectContext(detect_speech, fakes={"model": fake}),
    )
    assert [item["state"][0, 0, 0] for item in seen] == [0, 1, 2]  # 2 frames and a rest
    assert {item["input"].shape for item in seen} == {(1, 576)}
    assert not seen[0]["input"][0, :64].any()
    assert np.array_equal(seen[1]["input"][0, :64], seen[0]["input"][0, -64:])
    assert {(item["sr"].shape, int(item["sr"])) for item in seen} == {((), RATE)}


def test_thresholds_out_of_order_are_refused() -> None:
    sound = Audio.from_array(np.zeros(RATE, np.float32), RATE)
    with pytest.raises(InputError) as caught:
        direct(detect_speech, sound, threshold=0.2, context=DirectContext(detect_speech))
    assert caught.value.code == "E240"


@pytest.mark.models
def test_silence_and_a_tone_are_no_speech() -> None:
    quiet = Audio.from_array(np.zeros(RATE, np.float32), RATE)
    seconds = np.arange(2 * RATE) / RATE
    tone = Audio.from_array((0.3 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32), RATE)
    assert direct(detect_speech, quiet) == []
    assert direct(detect_speech, tone) == []
