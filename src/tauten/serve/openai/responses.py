"""The Responses API: a workflow, or a language model alone, answers in items, whole or as a stream of typed events."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from tauten.describe.said import ToolCall
from tauten.errors import TautenError
from tauten.serve import sse
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.kept.flights import shared_with
from tauten.serve.openai import run as shared
from tauten.serve.openai.chat import Answering, Piece, check, conversation, logprobs_of, read_turn
from tauten.serve.openai.errors import Refused, checked
from tauten.serve.openai.ports import inputs_of
from tauten.serve.openai.response_request import ResponseRequest, as_chat, ignorable
from tauten.serve.openai.types import ChatRequest

if TYPE_CHECKING:
    from tauten.serve.app import Site

_NAMES: Final = {
    "messages": "input",
    "response_format": "text.format",
    "logprobs": "include",
    "max_completion_tokens": "max_output_tokens",
}
"""What a chat completion calls otherwise than this API."""


async def responses(site: Site, call: Call) -> Reply:
    """Answer one request, whole or as a stream."""
    fields = await call.read(dict[str, Any])
    asked = checked(fields, ResponseRequest)
    service = shared.model(site, asked.model)
    inputs = inputs_of(service.workflow)
    try:
        body = as_chat(asked, fields)
        chat = checked(body, ChatRequest)
        check(chat, service, inputs)
        if not asked.stream:
            shared.bound_by_client(call, service)
        turn, last = await read_turn(call, service, chat, body)
        session = conversation(call, service, chat.messages[: max(last, 0)])
        answering = Answering(call, service, inputs.fill(turn), session, chat)
    except Refused as error:
        field = re.split(r"[.\[]", error.param)[0]
        error.param = _NAMES.get(field, error.param)
        raise
    headers = shared.ignored(inputs, ignorable(asked, fields, bounds=inputs.takes("max_tokens")))
    writing = Writing(answering, asked, fields)
    if not asked.stream:
        return Reply.json(await writing.whole(), headers=[*headers, *shared_with(call.request)])
    pieces = await sse.begun(answering.pieces())
    reply = sse.told_reply(call, writing.written(pieces), writing.broken)
    reply.headers += [*headers, *shared_with(call.request)]
    return reply


class Event(NamedTuple):
    """A typed event; its number is counted as it is written."""

    type: str
    fields: dict[str, Any]


class Writing:
    """One answer as it is written: its items so far, and the events that tell of them in order."""

    def __init__(self, answering: Answering, asked: ResponseRequest, fields: dict[str, Any]) -> None:
        self._answering = answering
        self._call = answering.call
        self._asked = asked
        self._fields = fields
        self._created = int(time.time())
        self._output: list[dict[str, Any]] = []
        self._text: dict[str, Any] | None = None  # the part that is being said
        self._number = 0

    # -- whole, and in events ------------------------------------------------------------------------------------

    async def whole(self) -> dict[str, Any]:
        """The answer as one `response`: that of its last event."""
        last: dict[str, Any] = {}
        async with aclosing(self._events(self._answering.pieces())) as events:
            async for event in events:
                last = event.fields
        found: dict[str, Any] = last["response"]
        return found

    async def written(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events; the last one says how it ended, and nothing follows."""
        async with aclosing(self._events(pieces)) as events:
            async for event in events:
                yield self._encoded(event)

    def broken(self, error: TautenError) -> bytes:
        """The last event of an answer whose work failed."""
        code = "rate_limit_exceeded" if error.http_status == 429 else "server_error"
        told = {"code": code, "message": f"{error.message} ({error.help})" if error.help else error.message}
        return self._encoded(Event("response.failed", {"response": self._response("failed", error=told)}))

    def _encoded(self, event: Event) -> bytes:
        body = {"type": event.type, "sequence_number": self._number, **event.fields}
        self._number += 1
        return sse.event(event.type, msgspec.json.encode(body))

    async def _events(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Event, None]:
        for state in ("created", "in_progress"):
            yield Event(f"response.{state}", {"response": self._response("in_progress")})
        async with aclosing(pieces):
            async for piece in pieces:
                for event in self._called(piece.tool) if piece.tool is not None else self._said(piece):
                    yield event
        if not self._output:
            for event in self._said(Piece()):
                yield event
        cut = self._answering.finish == "length"
        for event in self._ended("incomplete" if cut else "completed"):
            yield event
        yield self._last(cut)

    def _last(self, cut: bool) -> Event:
        if cut:
            details = {"reason": "max_output_tokens"}
            return Event("response.incomplete", {"response": self._response("incomplete", details=details)})
        return Event("response.completed", {"response": self._response("completed")})

    # -- items ---------------------------------------------------------------------------------------------------

    def _said(self, piece: Piece) -> Iterator[Event]:
        """A piece of text: of the message that is being said, or of a new one."""
        if self._text is None:
            yield from self._begun()
        part = self._text
        assert part is not None  # it was begun
        part["text"] += piece.text
        logprobs = logprobs_of([piece])["content"] if self._asked.logprobs else []
        if self._asked.logprobs:
            part["logprobs"] += logprobs
        if piece.text or logprobs:
            fields = {**self._place(), "content_index": 0, "delta": piece.text, "logprobs": logprobs}
            yield Event("response.output_text.delta", fields)

    def _begun(self) -> Iterator[Event]:
        id = f"msg_{self._call.id}_{len(self._output)}"
        item: dict[str, Any] = {
            "id": id,
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._output.append(item)
        self._text = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield Event("response.output_item.added", {**self._at(), "item": {**item, "content": []}})
        yield Event(
            "response.content_part.added", {**self._place(), "content_index": 0, "part": dict(self._text)}
        )
        item["content"] = [self._text]

    def _ended(self, status: str) -> Iterator[Event]:
        """The end of the message that is being said, if one is."""
        part, self._text = self._text, None
        if part is None:
            return
        place = {**self._place(), "content_index": 0}
        said = {"text": part["text"], "logprobs": part["logprobs"]}
        yield Event("response.output_text.done", {**place, **said})
        yield Event("response.content_part.done", {**place, "part": part})
        self._output[-1]["status"] = status
        yield Event("response.output_item.done", {**self._at(), "item": self._output[-1]})

    def _called(self, tool: ToolCall) -> Iterator[Event]:
        yield from self._ended("completed")
        number = len(self._output)
        item = {
            "id": f"fc_{self._call.id}_{number}",
            "type": "function_call",
            "call_id": tool.id or f"call_{self._call.id}_{number}",
            "name": tool.name,
            "arguments": tool.arguments,
            "status": "completed",
        }
        self._output.append(item)
        added = {**item, "arguments": "", "status": "in_progress"}
        yield Event("response.output_item.added", {**self._at(), "item": added})
        said = {**self._place(), "delta": tool.arguments}
        yield Event("response.function_call_arguments.delta", said)
        done = {**self._place(), "name": tool.name, "arguments": tool.arguments}
        yield Event("response.function_call_arguments.done", done)
        yield Event("response.output_item.done", {**self._at(), "item": item})

    def _at(self) -> dict[str, Any]:
        return {"output_index": len(self._output) - 1}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._output[-1]["id"], **self._at()}

    # -- the response ----------------------------------------------------------------------------------------------

    def _response(
        self, status: str, *, error: dict[str, str] | None = None, details: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """All of it, as it stands; its usage is known once its end is."""
        asked, fields = self._asked, self._fields
        return {
            "id": f"resp_{self._call.id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": error,
            "incomplete_details": details,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": self._answering.service.name,
            "output": list(self._output) if status != "in_progress" else [],
            "parallel_tool_calls": bool(fields.get("parallel_tool_calls", True)),
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None, **(_mapping(fields.get("reasoning")))},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}, **_mapping(fields.get("text"))},
            "tool_choice": fields.get("tool_choice") or "auto",
            "tools": asked.tools or [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None if status == "in_progress" else usage(self._call),
            "user": fields.get("user"),
            "metadata": asked.metadata or {},
        }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def usage(call: Call) -> dict[str, Any]:
    """The tokens of this request's answer, as this API counts them."""
    told = shared.usage(call)
    cached = told["prompt_tokens_details"]["cached_tokens"]
    written, thought = (shared.spent_by(call, unit) for unit in ("cache_write_tokens", "reasoning_tokens"))
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": told["total_tokens"],
    }
