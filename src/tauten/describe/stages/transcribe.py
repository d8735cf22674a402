"""Speech to text: Whisper around its model (Radford et al. 2022, arXiv 2212.04356)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tauten.describe.payload import Audio, Text, Video
from tauten.describe.stage import Context, Role, stage
from tauten.describe.turn import Turn
from tauten.describe.view import Samples, View
from tauten.errors import InputError


@stage(
    pure=True,
    roles={"model": Role("whisper-base", ("whisper",))},
    views={"audio": View("samples", {"rate": 16000})},
    turns=(
        Turn("reduce", {"window": "clip"}, "lossy", "hears the clip and 3 s of silence, not 30 s of both"),
        Turn("compact", {"max_tokens": 64}, "lossy", "writes down no more than a spoken question holds"),
    ),
)
async def transcribe(
    ctx: Context,
    audio: Audio | Text | Video,
    *,
    window: Literal["full", "clip"] = "full",
    hot_words: Sequence[str] = (),
    language: str = "en",
    max_tokens: int | None = None,
) -> Text:
    """Write down what is said; text that is given instead passes through unchanged.

    Audio is heard as 16 kHz mono. Silence, a click shorter than any word, and sound in which the model finds
    no speech give `Text("")`.

    `window`: "full" pads every 30 s window to its end, as Whisper was trained and as its frameworks do;
    "clip" hears the clip plus 3 s of silence, which computes 6 to 15 times less on a short question, and falls
    back to "full" where the result looks repeated. `hot_words` are names to expect (product terms, exceptions):
    they stand in front of the decoder's prompt, and want a multilingual base model or larger. `language`
    is Whisper's code; an English-only model ignores it. `max_tokens` bounds one window's text; None
    derives it from the duration.

    Raises InputError E240 for an unknown window, MediaError for undecodable sound.
    """
    if window not in ("full", "clip"):
        raise InputError(f"window={window!r}", help='write window="full" or window="clip"', code="E240")
    if isinstance(audio, Text):
        return audio
    sound: Samples = audio  # type: ignore[assignment]  # the `samples` view stands in for the payload
    item = {
        "samples": sound.array,
        "window": window,
        "hot_words": list(hot_words),
        "language": language,
        "max_tokens": max_tokens,
    }
    heard: dict[str, Any] = await ctx.infer("model", item)
    return Text(heard["text"].strip())
