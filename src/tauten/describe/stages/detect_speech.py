"""Where in a sound someone speaks: Silero's voice activity detector, and hysteresis around it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.describe.payload import Audio
from tauten.describe.stage import Context, Role, stage
from tauten.describe.view import Samples, View
from tauten.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 16000
FRAME = 512  # samples the detector judges at once: 32 ms
CONTEXT = 64  # samples of the frame before, in front of each
FRAME_S = FRAME / RATE


class SpeechSpan(msgspec.Struct, frozen=True):
    """One stretch of speech, in seconds from the start."""

    start_s: float
    end_s: float


@stage(
    pure=True,
    roles={"model": Role("silero-vad", ("onnx",), options={"unbatched": True})},
    views={"audio": View("samples", {"rate": RATE})},
)
async def detect_speech(
    ctx: Context,
    audio: Audio,
    *,
    threshold: float = 0.5,
    exit_threshold: float = 0.35,
    min_speech_ms: float = 250.0,
    min_silence_ms: float = 100.0,
    pad_ms: float = 30.0,
) -> list[SpeechSpan]:
    """Find the spans of speech, in order and without overlap; silence gives an empty list.

    A span begins at the first 32 ms frame whose speech probability reaches `threshold` and ends where it falls
    below `exit_threshold` for at least `min_silence_ms`. Spans shorter than `min_speech_ms` are dropped; the
    others grow by `pad_ms` on either side, and meet in the middle of a gap too small for that. The defaults are
    Silero's own.

    The detector remembers: frames go through it one after another, 31 a second of sound. Raises InputError E240
    for thresholds out of order, MediaError for undecodable sound.
    """
    if not 0 <= exit_threshold <= threshold <= 1:
        raise InputError(
            f"threshold={threshold}, exit_threshold={exit_threshold}",
            help="0 <= exit_threshold <= threshold <= 1",
            code="E240",
        )
    sound: Samples = audio  # type: ignore[assignment]  # the `samples` view stands in for the payload
    probabilities = await _listen(ctx, await ctx.work(_padded, sound.array))
    found = spans(
        probabilities,
        threshold=threshold,
        exit_threshold=exit_threshold,
        min_speech_s=min_speech_ms / 1000,
        min_silence_s=min_silence_ms / 1000,
    )
    return padded(found, pad_ms / 1000, sound.seconds)


def _padded(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Silence in front for the first frame's context, and behind to fill the last frame."""
    import numpy as np

    return np.pad(samples.astype(np.float32, copy=False), (CONTEXT, -len(samples) % FRAME))


async def _listen(ctx: Context, samples: NDArray[np.float32]) -> list[float]:
    """The speech probability of each frame; the detector's state is carried from frame to frame."""
    import numpy as np

    state: Any = np.zeros((2, 1, 128), np.float32)
    rate = np.array(RATE, np.int64)
    probabilities = []
    for start in range(0, len(samples) - CONTEXT, FRAME):
        frame = samples[None, start : start + CONTEXT + FRAME]
        heard = await ctx.infer("model", {"input": frame, "state": state, "sr": rate})
        state = heard["stateN"]
        probabilities.append(float(heard["output"].item()))
    return probabilities


def spans(
    probabilities: Sequence[float],
    *,
    threshold: float,
    exit_threshold: float,
    min_speech_s: float,
    min_silence_s: float,
) -> list[SpeechSpan]:
    """Spans of speech in a row of frame probabilities, before padding."""
    found: list[SpeechSpan] = []
    start = quiet_since = -1
    for index, probability in enumerate([*probabilities, *_ending(min_silence_s)]):
        if probability >= threshold:
            start, quiet_since = (index if start < 0 else start), -1
        elif start >= 0 and probability < exit_threshold:
            quiet_since = index if quiet_since < 0 else quiet_since
            if (index - quiet_since) * FRAME_S >= min_silence_s:
                found.append(SpeechSpan(start * FRAME_S, quiet_since * FRAME_S))
                start = quiet_since = -1
    return [span for span in found if span.end_s - span.start_s >= min_speech_s]


def _ending(min_silence_s: float) -> list[float]:
    """Enough silence to close a span that is open at the end; below every threshold."""
    return [-1.0] * (int(min_silence_s / FRAME_S) + 2)


def padded(found: Sequence[SpeechSpan], pad_s: float, length_s: float) -> list[SpeechSpan]:
    """Grow spans by `pad_s` on either side; neighbours share a gap that is too small."""
    grown: list[SpeechSpan] = []
    for index, span in enumerate(found):
        before = found[index - 1].end_s if index else None
        after = found[index + 1].start_s if index + 1 < len(found) else None
        low = span.start_s - (pad_s if before is None else min(pad_s, (span.start_s - before) / 2))
        high = span.end_s + (pad_s if after is None else min(pad_s, (after - span.end_s) / 2))
        grown.append(SpeechSpan(max(0.0, low), min(length_s, high)))
    return grown
