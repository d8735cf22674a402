"""Pictures and sound on their way to a provider: in a form that it reads, within a bound, as base64."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tauten.describe.payload import Audio, Image
from tauten.errors import InputError
from tauten.run.contracts import find
from tauten.run.decode.media import check_pixels, decoding
from tauten.run.workers import in_thread

MOST_SIDE: Final = 2048  # pixels: providers reduce what is longer before they look at it
MOST_IMAGE_BYTES: Final = (
    5 << 20
)  # encoded: the least of the bounds that large providers name for one picture
MOST_AUDIO_BYTES: Final = 20 << 20  # ten minutes of 16-bit sound at 16 kHz
RATE_HZ: Final = 16_000  # of sound that has to be converted: what speech models are trained on
_READ: Final = frozenset({"image/jpeg", "image/png", "image/webp"})  # by all who read pictures at all
_HEARD: Final[Mapping[str, str]] = {"audio/wav": "wav", "audio/mpeg": "mp3"}  # what `input_audio` may be
_QUALITY: Final = 90  # of a JPEG: text in screenshots stays sharp
_MP3_BYTES_A_SECOND: Final = 16_000  # 128 kbit/s, the usual rate; only an estimate of tokens hangs on it


class Picture(msgspec.Struct, frozen=True):
    """A picture as it is sent."""

    type: str
    data: str
    width: int
    height: int

    @property
    def url(self) -> str:
        return f"data:{self.type};base64,{self.data}"


class Sound(msgspec.Struct, frozen=True):
    """Sound as it is sent; `format` as the protocol calls it."""

    format: str
    data: str
    seconds: float


async def sendable(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The item with its pictures and sound as they are sent, made in a thread; as it is where it has none.

    Raises MediaError for what cannot be decoded, InputError E232 for what is too large even so.
    """
    messages = item.get("messages")
    if not isinstance(messages, list):
        return item
    if not any(isinstance(each, Mapping) and isinstance(each.get("content"), list) for each in messages):
        return item
    return {**item, "messages": await in_thread(_sendable, messages)}


def _sendable(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**each, "content": [_part(part) for part in each["content"]]}
        if isinstance(each.get("content"), list)
        else each
        for each in messages
    ]


def _part(part: Any) -> Any:
    if isinstance(part, Mapping) and isinstance(part.get("image"), Image):
        return {"type": "image", "image": picture_of(part["image"])}
    if isinstance(part, Mapping) and isinstance(part.get("audio"), Audio):
        return {"type": "audio", "audio": sound_of(part["audio"])}
    return part


def picture_of(image: Image) -> Picture:
    """As it is where all providers read it and it is small enough; else reduced, as PNG or JPEG."""
    width, height, moves = _looked_at(image)
    small = max(width, height) <= MOST_SIDE and image.size_bytes <= MOST_IMAGE_BYTES
    if small and image.type in _READ and not moves:
        return Picture(image.type, _coded(image.data), width, height)
    return _reduced(image)


def _looked_at(image: Image) -> tuple[int, int, bool]:
    """Its size and whether it moves, from its header alone."""
    from PIL import Image as Pillow

    with (
        decoding(f"{image.type} picture"),
        Pillow.open(io.BytesIO(image.data), formats=[_pillow(image)]) as seen,
    ):
        check_pixels(*seen.size, f"{image.type} picture")
        return *seen.size, bool(getattr(seen, "is_animated", False))


def _pillow(image: Image) -> str:
    return image.type.partition("/")[2].upper()


def _reduced(image: Image) -> Picture:
    """Decoded and encoded anew: without loss where that fits, as JPEG where not, smaller until it does."""
    side = MOST_SIDE
    while side >= MOST_SIDE // 8:
        seen = find("codecs", "pixels")().decode(image.data, image.type, {"max_side": side}, image.hash)
        height, width = seen.array.shape[:2]
        for kind in ("JPEG",) if image.type == "image/jpeg" else ("PNG", "JPEG"):
            data = _encoded(seen.array, kind)
            if len(data) <= MOST_IMAGE_BYTES:
                return Picture(f"image/{kind.lower()}", _coded(data), width, height)
        side //= 2
    raise _too_large("a picture", image.size_bytes, MOST_IMAGE_BYTES)


def _encoded(pixels: Any, kind: str) -> bytes:
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, kind, **({"quality": _QUALITY} if kind == "JPEG" else {}))
    return buffer.getvalue()


def sound_of(audio: Audio) -> Sound:
    """As it is where the protocol has a word for its form and it is small enough; else as WAV of 16 kHz."""
    format, seconds = _HEARD.get(audio.type, ""), _seconds(audio)
    if format and seconds is not None and audio.size_bytes <= MOST_AUDIO_BYTES:
        return Sound(format, _coded(audio.data), seconds)
    heard = find("codecs", "samples")().decode(audio.data, audio.type, {"rate": RATE_HZ}, audio.hash)
    converted = Audio.from_array(heard.array, RATE_HZ)
    if converted.size_bytes > MOST_AUDIO_BYTES:
        raise _too_large("sound", converted.size_bytes, MOST_AUDIO_BYTES)
    return Sound("wav", _coded(converted.data), heard.seconds)


def _seconds(audio: Audio) -> float | None:
    """How long it lasts: said by a WAV's header, guessed of an MP3; None of a WAV that is no plain PCM."""
    if audio.type != "audio/wav":
        return audio.size_bytes / _MP3_BYTES_A_SECOND
    try:
        with wave.open(io.BytesIO(audio.data)) as read:
            frame = max(1, read.getnchannels() * read.getsampwidth())
            frames = min(read.getnframes(), audio.size_bytes // frame)  # a pipe's writer did not know
            return float(frames / max(1, read.getframerate()))
    except (wave.Error, EOFError):
        return None


def _coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _too_large(what: str, size: int, most: int) -> InputError:
    return InputError(
        f"{what} of {size} bytes is too large for a provider, which takes {most}",
        help="send it smaller, or in parts",
        code="E232",
    )
