"""Messages of a conversation as a caller brings them: plain text, or parts of text, pictures and sound."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from tauten.describe.payload import Audio, Image, Text
from tauten.errors import InputError, MediaError

ROLES: Final = ("system", "user", "assistant", "tool")
_MARK: Final = "\ufdd0"  # a code point that no text may have: Unicode keeps it for a program's own use
_MARKED: Final = re.compile(f"{_MARK}([0-9]{{1,4}}){_MARK}")
_KEPT: Final = ("tool_calls", "tool_call_id")  # of a conversation with tools, beside role and content


def messages_of(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as backends read them: content is a text, or a list of parts where there is more than text.

    A part is ``{"type": "text", "text": str}``, ``{"type": "image", "image": Image}`` or ``{"type": "audio",
    "audio": Audio}``. Callers may write these, payloads by themselves, or the parts of OpenAI's chat completions.
    Raises InputError E232 for anything else.
    """
    return [_message(each) for each in messages]


def has_media(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a part holds more than text; asked before its bytes are decoded."""
    contents = [each.get("content") for each in messages]
    return any(isinstance(part, Image | Audio) or not _is_text(part) for part in _parts(contents))


def _parts(contents: Sequence[Any]) -> list[Any]:
    return [part for content in contents if isinstance(content, list) for part in content]


def _is_text(part: Any) -> bool:
    return isinstance(part, str | Text) or (isinstance(part, Mapping) and part.get("type") == "text")


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    role = {"developer": "system"}.get(message.get("role", ""), message.get("role", ""))
    if role not in ROLES:
        raise unreadable(f"a message has the role {str(role)[:40]!r}", f"roles are {', '.join(ROLES)}")
    if role == "tool" and not message.get("tool_call_id"):
        raise unreadable("a message of a tool without `tool_call_id`", "say which call it answers")
    kept = {key: message[key] for key in _KEPT if message.get(key) is not None}
    return {"role": role, "content": _content(message.get("content"), role, empty=bool(kept)), **kept}


def _content(content: Any, role: str, *, empty: bool) -> str | list[dict[str, Any]]:
    if isinstance(content, str | Text):
        return str(content)
    if content is None and empty:
        return ""  # it says nothing but that tools are called
    if isinstance(content, Image | Audio):
        content = [content]
    parts = [_part(each, role) for each in content] if isinstance(content, list) else []
    if not parts:
        raise unreadable(f"a message of the {role} without content", "give a text, or a list of parts")
    if all(each["type"] == "text" for each in parts):
        return "\n".join(each["text"] for each in parts)
    return parts


def _part(part: Any, role: str) -> dict[str, Any]:
    if isinstance(part, str | Text):
        return {"type": "text", "text": str(part)}
    if isinstance(part, Image):
        return {"type": "image", "image": part}
    if isinstance(part, Audio):
        return {"type": "audio", "audio": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind in ("image", "audio") and isinstance(part.get(kind), Image | Audio):
        return {"type": kind, kind: part[kind]}
    if kind == "image_url" and isinstance(part.get("image_url"), Mapping):
        return {"type": "image", "image": _opened(Image, _of_url(str(part["image_url"].get("url", ""))))}
    if kind == "input_audio" and isinstance(part.get("input_audio"), Mapping):
        return {
            "type": "audio",
            "audio": _opened(Audio, _of_base64(str(part["input_audio"].get("data", "")))),
        }
    raise unreadable(
        f"a message of the {role} holds a part of type {str(kind)[:40]!r}",
        "parts are text, image_url (a data URL) and input_audio (base64)",
    )


def _opened(kind: type[Image] | type[Audio], data: bytes) -> Image | Audio:
    try:
        return kind(data)
    except MediaError as error:
        raise unreadable(error.message, error.help) from error


def _of_url(url: str) -> bytes:
    head, comma, data = url.partition(",")
    if not head.lower().startswith("data:") or not comma or not head.lower().endswith(";base64"):
        raise unreadable(
            "a picture that is named by its address", "send its bytes: data:image/png;base64,..."
        )
    return _of_base64(data)


def _of_base64(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise unreadable(
            "data that is not base64", "encode the file's bytes as base64, in one line"
        ) from error


def marked(fields: Mapping[str, Any], counted: Collection[str]) -> tuple[dict[str, Any], list[Image | Audio]]:
    """Fields of a template with marks where they are pictures or sound, and those in order.

    Those whose number a template shows (`counted`) stay what they are: of them the model reads the number alone.
    """
    media: list[Image | Audio] = []
    shown = dict(fields)
    for name, value in fields.items():
        held = value if isinstance(value, list | tuple) else [value]
        if name in counted or not held or not all(isinstance(each, Image | Audio) for each in held):
            continue
        first = len(media)
        media += held
        shown[name] = "".join(f"{_MARK}{place}{_MARK}" for place in range(first, len(media)))
    return shown, media


def parted(messages: Sequence[Mapping[str, Any]], media: Sequence[Image | Audio]) -> list[dict[str, Any]]:
    """Messages with pictures and sound where they are marked; a raw prompt is what a user says."""
    return messages_of(
        [
            {
                "role": "user" if each["role"] == "prompt" else each["role"],
                "content": _split(str(each["content"]), media),
            }
            for each in messages
        ]
    )


def _split(text: str, media: Sequence[Image | Audio]) -> list[Any]:
    """The texts and the media of a message, in order."""
    parts: list[Any] = []
    for place, piece in enumerate(_MARKED.split(text)):
        if place % 2 and int(piece) < len(media):
            parts.append(media[int(piece)])
        elif not place % 2 and piece.strip():
            parts.append(piece.strip("\n"))
    return parts


def unreadable(what: str, help: str) -> InputError:
    """A message that a model cannot read."""
    return InputError(what, help=help, code="E232")
