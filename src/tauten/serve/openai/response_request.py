"""What clients of the Responses API send, and the same as a chat completion, which workflows are spoken to by."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tauten.serve.openai.errors import Refused
from tauten.serve.openai.types import Count, Name, Temperature, TopP

LOGPROBS: Final = "message.output_text.logprobs"
_OURS: Final = frozenset(
    {"input", "instructions", "text", "include", "max_output_tokens", "background", "previous_response_id"}
    | {"conversation", "prompt", "stream_options"}
)
"""Fields that are read here, and that no input of a workflow is filled with."""

_KEPT: Final = (
    "previous_response_id",
    "conversation",
    "prompt",
)  # by an id under which somebody kept something


class TextFormat(msgspec.Struct):
    """Free text, any JSON object, or JSON of a schema that stands beside its type."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    schema: dict[str, Any] = {}
    strict: bool | None = None


class TextConfig(msgspec.Struct):
    """How the text of an answer shall be."""

    format: TextFormat | None = None


class ResponseRequest(msgspec.Struct):
    """The body of /v1/responses, as far as the server itself reads it."""

    model: Name
    input: Annotated[str, Meta(min_length=1)] | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: TextConfig | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None

    @property
    def logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())


def as_chat(asked: ResponseRequest, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat completion that asks the same; raises Refused for what a server without a memory cannot do."""
    for name in _KEPT:
        if getattr(asked, name) is not None:
            raise Refused(
                f"`{name}` names what was kept, and answers are not kept here",
                help="send the whole conversation as `input`",
                param=name,
                says="unsupported_parameter",
            )
    if asked.background:
        raise Refused("an answer in the background", help="leave `background` out", param="background")
    messages = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    told = {
        "messages": [*messages, *_messages(asked.input)],
        "max_completion_tokens": asked.max_output_tokens,
        "logprobs": asked.logprobs or None,
        "response_format": _format(asked.text),
        "tools": None if asked.tools is None else [_tool(each) for each in asked.tools],
        "tool_choice": _choice(asked.tool_choice),
    }
    rest = {name: value for name, value in fields.items() if name not in _OURS}
    return {**rest, **{name: value for name, value in told.items() if value is not None}}


def ignorable(asked: ResponseRequest, fields: Mapping[str, Any], *, bounds: bool) -> dict[str, Any]:
    """The fields that some workflow may take, and that have no effect where this one does not; `bounds` says that it
    takes a bound on its answer."""
    told = {name: value for name, value in fields.items() if name not in _OURS}
    return told if bounds else {**told, "max_output_tokens": asked.max_output_tokens}


def _format(text: TextConfig | None) -> dict[str, Any] | None:
    wanted = None if text is None else text.format
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    schema = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function as chat completions name it; tools that a vendor runs himself are not there."""
    if tool.get("type") != "function" or not tool.get("name"):
        raise Refused(
            f"a tool of type {str(tool.get('type'))[:40]!r}",
            help="tools are functions with a name, which the client runs",
            param="tools",
        )
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function" and choice.get("name"):
        return {"type": "function", "function": {"name": choice["name"]}}
    raise Refused(
        f"a choice of type {str(choice.get('type'))[:40]!r}", help="name a function", param="tool_choice"
    )


# -- items of the input ----------------------------------------------------------------------------------------


def _messages(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found: list[dict[str, Any]] = []
    for item in given:
        kind = item.get("type", "message")
        if kind == "message":
            found.append({"role": _role(item.get("role")), "content": _content(item.get("content"))})
        elif kind == "function_call":
            _call(found, item)
        elif kind == "function_call_output":
            said = {"role": "tool", "tool_call_id": str(item.get("call_id") or "")}
            found.append({**said, "content": _content(item.get("output"))})
        elif kind != "reasoning":  # which only its own model can read
            raise _wrong(
                f"an item of type {str(kind)[:40]!r}", "items are messages, function calls and results"
            )
    if not found:
        raise _wrong("an input that says nothing", "give a message of a user")
    return found


def _call(found: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    """A call of a function belongs to what the assistant said before it."""
    function = {"name": str(item.get("name") or ""), "arguments": str(item.get("arguments") or "{}")}
    call = {"id": str(item.get("call_id") or ""), "type": "function", "function": function}
    if found and found[-1]["role"] == "assistant":
        found[-1].setdefault("tool_calls", []).append(call)
    else:
        found.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _role(role: Any) -> str:
    if role not in ("system", "developer", "user", "assistant"):
        raise _wrong(
            f"a message has the role {str(role)[:40]!r}", "roles are system, developer, user, assistant"
        )
    return str(role)


def _content(content: Any) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise _wrong("a message without content", "give a text, or a list of parts")
    return [_part(each) for each in content]


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise _wrong(
        f"a part of type {str(kind)[:40]!r} that cannot be read",
        "parts are input_text, input_image with image_url, input_audio; files are not kept here",
    )


def _wrong(what: str, help: str) -> Refused:
    return Refused(what, help=help, param="input", says="invalid_value", code="E271")
