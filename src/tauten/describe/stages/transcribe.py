"""Speech to text: Whisper around its model (Radford et al. 2022, arXiv 2212.04356)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tauten.describe.payload import Audio, Text, Video
from tauten.describe.stage import Context, Role, stage
from tauten.describe.view import Samples, View
from tauten.errors import InputError

SILENCE_PEAK = 1e-3  # -60 dBFS: the noise of a muted microphone, not a far voice; Whisper invents words on it
SHORTEST_S = 0.1  # shorter than any word; Whisper invents words on it


@stage(
    pure=True,
    roles={"model": Role("whisper-base", ("whisper",))},
    views={"audio": View("samples", {"rate": 16000})},
)
async def transcribe(
    ctx: Context,
    audio: Audio | Text | Video,
    *,
    window: Literal["full", "short"] = "full",
    hot_words: Sequence[str] = (),
    language: str = "en",
    max_tokens: int | None = None,
) -> Text:
    """Write down what is said; text that is given instead passes through unchanged.

    Audio is heard as 16 kHz mono. Sound below -60 dBFS, shorter than 0.1 s, or in which the model
    finds no speech gives `Text("")`.

    `window`: "full" pads every 30 s window to its end, as Whisper was trained and as its frameworks do;
    "short" hears the clip plus 3 s, which computes 6 to 15 times less on a short question, and falls back
    to "full" where the result looks repeated. `hot_words` are names to expect (product terms, exceptions):
    they stand in front of the decoder's prompt, and want a multilingual base model or larger. `language`
    is Whisper's code; an English-only model ignores it. `max_tokens` bounds one window's text; None
    derives it from the duration.

    Raises InputError E240 for an unknown window, MediaError for undecodable sound.
    """
    if window not in ("full", "short"):
        raise InputError(f"window={window!r}", help='write window="full" or window="short"', code="E240")
    if isinstance(audio, Text):
        return audio
    sound: Samples = audio  # type: ignore[assignment]  # the `samples` view stands in for the payload
    if sound.seconds < SHORTEST_S or await ctx.work(_is_silent, sound):
        return Text("")
    item = {
        "samples": sound.array,
        "window": window,
        "hot_words": list(hot_words),
        "language": language,
        "max_tokens": max_tokens,
    }
    heard: dict[str, Any] = await ctx.infer("model", item)
    return Text("" if heard["no_speech"] is True else heard["text"].strip())


def _is_silent(sound: Samples) -> bool:
    return float(abs(sound.array).max(initial=0.0)) < SILENCE_PEAK
