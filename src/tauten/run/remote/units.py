"""What an answer took, in the units of the books: as the provider counts it, or as we must guess."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tauten.run.remote.media import Picture, Sound

CHARACTERS_A_TOKEN: Final = 4.0  # of English; other languages have fewer, so an estimate is called one
MESSAGE_TOKENS: Final = 4.0  # a message's role and ends
UNKNOWN_ANSWER_TOKENS: Final = 512.0  # of an answer whose bound nobody said: the default of `chat`
MOST_ANSWER_TOKENS: Final = 16_384.0  # what most models say at most when nobody bounds them
MOST_MESSAGE_TOKENS: Final = 16.0  # what a template puts around a message, with room
_IMAGE_TOKENS: Final = 85.0  # of any picture, and of each of its tiles: how gpt-4o counts them
_TILE_TOKENS: Final = 170.0
MOST_IMAGE_TOKENS: Final = 48_169.0  # eight tiles as gpt-4o-mini counts them, the dearest count that we know
SOUND_TOKENS_A_SECOND: Final = 10.0  # as gpt-4o-audio hears; others take up to three times as many
MOST_SOUND_TOKENS_A_SECOND: Final = 50.0

_DETAILS: Final = {
    ("prompt_tokens_details", "cached_tokens"): "cached_tokens",
    ("prompt_tokens_details", "cache_write_tokens"): "cache_write_tokens",
    ("prompt_tokens_details", "audio_tokens"): "input_audio_tokens",
    ("completion_tokens_details", "reasoning_tokens"): "reasoning_tokens",
    ("completion_tokens_details", "audio_tokens"): "output_audio_tokens",
}


def counted(usage: Mapping[str, Any]) -> dict[str, float]:
    """The units in a provider's `usage`, whichever of the two spellings it has; what is zero is left out.

    The prompt includes what was read from a cache, the answer includes what was thought: that is how this
    protocol counts, and how the books do.
    """
    found: dict[str, float] = {}
    for theirs, ours in (
        ("prompt_tokens", "input_tokens"),
        ("completion_tokens", "output_tokens"),
        ("input_tokens", "input_tokens"),
        ("output_tokens", "output_tokens"),
        ("seconds", "audio_seconds"),
    ):
        _add(found, ours, usage.get(theirs))
    for (group, theirs), ours in _DETAILS.items():
        for name in (group, group.replace("prompt", "input").replace("completion", "output")):
            details = usage.get(name)
            _add(found, ours, details.get(theirs) if isinstance(details, Mapping) else None)
    return found


def _add(found: dict[str, float], unit: str, amount: Any) -> None:
    if (
        isinstance(amount, int | float)
        and not isinstance(amount, bool)
        and amount > 0
        and math.isfinite(amount)
    ):
        found[unit] = float(amount)


def text_tokens(text: str) -> float:
    """About how many tokens a text has."""
    return tokens_of(len(text))


def tokens_of(characters: int) -> float:
    """About how many tokens so many characters are."""
    return float(math.ceil(characters / CHARACTERS_A_TOKEN))


def most_prompt_tokens(messages: Sequence[Mapping[str, Any]]) -> float:
    """No conversation has more tokens: each holds a byte at least, and pictures and sound have bounds."""
    return sum(MOST_MESSAGE_TOKENS + _most_of(part) for each in messages for part in _parts(each))


def prompt_tokens(messages: Sequence[Mapping[str, Any]]) -> float:
    """About how many tokens a conversation has."""
    return sum(MESSAGE_TOKENS + sum(map(_about, _parts(each))) for each in messages)


def _parts(message: Mapping[str, Any]) -> list[Any]:
    """What a message says: its text, its parts, and the calls of tools that it repeats."""
    content = message.get("content") or ""
    parts = [each.get(each.get("type")) for each in content] if isinstance(content, list) else [content]
    calls = message.get("tool_calls")
    return [*parts, msgspec.json.encode(calls).decode()] if calls else parts


def _about(part: Any) -> float:
    if isinstance(part, Picture):
        return _IMAGE_TOKENS + _TILE_TOKENS * _tiles(part)
    if isinstance(part, Sound):
        return math.ceil(part.seconds * SOUND_TOKENS_A_SECOND)
    return text_tokens(str(part or ""))


def _most_of(part: Any) -> float:
    if isinstance(part, Picture):
        return MOST_IMAGE_TOKENS
    if isinstance(part, Sound):
        return math.ceil((part.seconds + 1) * MOST_SOUND_TOKENS_A_SECOND)
    return float(len(str(part or "").encode()))


def _tiles(picture: Picture) -> int:
    """Squares of 512 pixels, once a picture's short side is 768 at most."""
    scale = min(1.0, 768 / max(1, min(picture.width, picture.height)))
    return math.ceil(picture.width * scale / 512) * math.ceil(picture.height * scale / 512)
