"""Pictures, clips and sound inside a message: data URLs and base64; web addresses only where the server fetches."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

from tauten.describe.payload import Audio, Image, Media, Video
from tauten.errors import MediaError
from tauten.run.siblings import gather_members
from tauten.run.workers import in_thread
from tauten.serve.openai.errors import Refused
from tauten.serve.openai.types import Message, Part
from tauten.serve.safety.safe_fetch import Fetch

MOST = 16  # media of a message that are decoded or asked for at a time, each in a thread or a connection
AT_ONCE_BYTES = 256 * 1024  # decoded on the event loop in about a millisecond; a thread of its own costs 0.1

_PARTS: dict[str, type[Media]] = {"image_url": Image, "video_url": Video, "input_audio": Audio}


def text_of(message: Message) -> str:
    """The text of a message, its parts one below the other."""
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content if part.type == "text" and part.text)
    return message.content or ""


async def media_of(message: Message, fetch: Fetch | None) -> list[Media]:
    """The media of a message in order, brought side by side; `fetch` brings web addresses, None refuses them."""
    found: list[Media] = await gather_members(
        lambda part: _medium(part, fetch), parts_of(message), MOST, "raise"
    )
    return found


def parts_of(message: Message) -> list[Part]:
    """The parts of a message that are no text."""
    parts = message.content if isinstance(message.content, list) else []
    return [part for part in parts if part.type != "text"]


async def _medium(part: Part, fetch: Fetch | None) -> Media:
    kind = _PARTS.get(part.type)
    if kind is None:
        raise _wrong(
            f"a part of type {part.type[:40]!r}", "parts are text, image_url, video_url, input_audio"
        )
    if kind is Audio:
        return _open(kind, await _decoded(_from_base64, part.input_audio.data if part.input_audio else ""))
    where = part.image_url if kind is Image else part.video_url
    if where is None:
        raise _wrong(
            f"a part of type {part.type} without `{part.type}`", f'give {{"{part.type}": {{"url": ...}}}}'
        )
    return _open(kind, await _bytes_at(where.url, fetch))


def _open(kind: type[Media], data: bytes) -> Media:
    try:
        return kind(data)
    except MediaError as error:
        raise _wrong(error.message, error.help) from error


async def _bytes_at(url: str, fetch: Fetch | None) -> bytes:
    if url[:5].lower() == "data:":
        return await _decoded(_from_data_url, url)
    if fetch is None:
        raise Refused(
            "this server does not fetch media from other places",
            help="send the bytes as a data URL: data:image/png;base64,...",
            param="messages",
            says="media_fetch_disabled",
            code="E273",
        )
    return await fetch(url)


async def _decoded(function: Callable[[str], bytes], text: str) -> bytes:
    """Large ones in a thread: the event loop serves others meanwhile."""
    return function(text) if len(text) < AT_ONCE_BYTES else await in_thread(function, text)


def _from_data_url(url: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma:
        raise _wrong("a data URL without a comma", "write data:image/png;base64,...")
    return _from_base64(data) if head.lower().endswith(";base64") else unquote_to_bytes(data)


def _from_base64(data: str) -> bytes:
    try:
        found = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong("data that is not base64", "encode the file's bytes as base64, in one line") from None
    if not found:
        raise _wrong("a part that holds no bytes", "give the file's bytes")
    return found


def _wrong(what: str, help: str) -> Refused:
    return Refused(what, help=help, param="messages", says="invalid_value", code="E271")


def turns_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as a session's history holds them: who spoke, and the text."""
    return [
        {"role": {"developer": "system"}.get(each.role, each.role), "content": text}
        for each in messages
        if (text := text_of(each))
    ]
