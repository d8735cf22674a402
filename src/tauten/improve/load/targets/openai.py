"""OpenAI-compatible chat completions and embeddings, of any server."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tauten.describe.payload import Audio, Image, Json, Payload, Text
from tauten.errors import InputError
from tauten.improve.load.http import Heard, HttpClient, Prepared
from tauten.improve.load.http_target import HttpTarget

PARAMETERS: Final = frozenset(
    "model max_tokens max_completion_tokens temperature top_p seed stop n response_format tools tool_choice "
    "logprobs top_logprobs frequency_penalty presence_penalty user dimensions encoding_format messages "
    "reasoning_effort".split()
)
"""Inputs of these names are fields of the request; any other is content of its one message."""

_CONTENT = re.compile(
    rb'"(?:reasoning_)?content"\s*:\s*"[^"]'
)  # a whole parse would double the generator's work
_ERROR = re.compile(rb'\s*\{\s*"error"\s*:(?!\s*null)')
_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')


class OpenAITarget(HttpTarget):
    """`…/chat/completions` or `…/embeddings`; streams the former unless told otherwise."""

    def __init__(self, client: HttpClient, *, stream: bool = True) -> None:
        path = client.url.rstrip("/")
        if not path.endswith(("/chat/completions", "/embeddings")):
            path += "/chat/completions"
        client.url = path
        self.embeds = path.endswith("/embeddings")
        self.stream = stream and not self.embeds
        super().__init__(client, "embeddings" if self.embeds else "chat")

    def prepare(self, inputs: Mapping[str, Payload]) -> Prepared:
        fields = {name: _field(value) for name, value in inputs.items() if name in PARAMETERS}
        content = {name: value for name, value in inputs.items() if name not in PARAMETERS}
        if "model" not in fields:
            raise InputError("no model is named", help="add model=NAME", code="E205")
        if self.embeds:
            fields["input"] = [_text(name, value) for name, value in content.items()]
        elif "messages" not in fields:
            fields["messages"] = [{"role": "user", "content": _content(content)}]
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return Prepared(msgspec.json.encode(fields), {"content-type": "application/json"})

    @staticmethod
    def hear(event: str, data: bytes) -> Heard:
        """A chunk with text is an increment; the last one carries the usage."""
        if _ERROR.match(data) or event == "error":
            return Heard(error=f"event: {data.decode('utf-8', 'replace')[:120]}")
        counted = _TOKENS.search(data)
        return Heard(_CONTENT.search(data) is not None, "", int(counted[1]) if counted else 0)


def _field(value: Payload) -> Any:
    return value.text if isinstance(value, Text) else value.value if isinstance(value, Json) else None


def _text(name: str, value: Payload) -> str:
    if not isinstance(value, Text | Json):
        raise InputError(f"{name} is no text to embed", help="give text", code="E205")
    return str(_field(value))


def _content(inputs: Mapping[str, Payload]) -> Any:
    """A lone text as a string; else the parts of a message."""
    parts = [_part(name, value) for name, value in inputs.items()]
    if not parts:
        raise InputError("a message without content", help="add prompt=TEXT", code="E205")
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def _part(name: str, value: Payload) -> dict[str, Any]:
    if isinstance(value, Text | Json):
        return {"type": "text", "text": str(_field(value))}
    encoded = base64.b64encode(value.data).decode()
    if isinstance(value, Image):
        return {"type": "image_url", "image_url": {"url": f"data:{value.type};base64,{encoded}"}}
    if isinstance(value, Audio):
        kind = {"audio/mpeg": "mp3"}.get(value.type, value.type.split("/")[-1].removeprefix("x-"))
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": kind}}
    raise InputError(
        f"{name} is {value.type}, which a chat message cannot hold",
        help="give text, images, audio",
        code="E205",
    )
