"""Chat completions: a workflow, or a language model alone, as a model that one talks to."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.describe.payload import Json, Media, Tensor, Text
from tauten.describe.ports import Session
from tauten.describe.said import Said, ToolCall
from tauten.run.stops import Stops
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.kept.flights import shared_with
from tauten.serve.kept.sessions import HEADER as SESSION
from tauten.serve.openai import run as shared
from tauten.serve.openai.errors import Refused, checked
from tauten.serve.openai.media import media_of, parts_of, text_of, turns_of
from tauten.serve.openai.ports import Inputs, Turn, inputs_of
from tauten.serve.openai.types import ChatRequest, Message
from tauten.serve.service import Service
from tauten.serve.sse import begun

if TYPE_CHECKING:
    from tauten.serve.app import Site


class Piece(msgspec.Struct):
    """A part of an answer: text, perhaps with its tokens, or a call of a tool."""

    text: str = ""
    said: Said | None = None
    tool: ToolCall | None = None


async def chat(site: Site, call: Call) -> Reply:
    """Answer one request, whole or as a stream."""
    fields = await call.read(dict[str, Any])
    asked = checked(fields, ChatRequest)
    service = shared.model(site, asked.model)
    inputs = inputs_of(service.workflow)
    check(asked, service, inputs)
    if not asked.stream:
        shared.bound_by_client(call, service)
    turn, last = await read_turn(call, service, asked, fields)
    session = conversation(call, service, asked.messages[: max(last, 0)])
    answer = Answering(call, service, inputs.fill(turn), session, asked)
    headers = shared.ignored(inputs, {**fields, "stop": None, "json_schema": None})
    if asked.stream:
        pieces = await begun(answer.pieces())
        return shared.events(call, answer.chunks(pieces), headers)
    body = await answer.whole()
    return Reply.json(body, headers=[*headers, *shared_with(call.request)])


async def read_turn(
    call: Call, service: Service, asked: ChatRequest, fields: dict[str, Any]
) -> tuple[Turn, int]:
    """What is said, as a workflow's inputs may take it, and where the last user message stands (-1: nowhere)."""
    last = max((i for i, each in enumerate(asked.messages) if each.role == "user"), default=-1)
    turn = Turn(messages=fields["messages"], fields=offered(asked, fields))
    if last >= 0:
        message = asked.messages[last]
        turn.text = text_of(message)
        if parts_of(message):
            turn.media = await call.reading(service, lambda fetch: media_of(message, fetch))
    return turn, last


def conversation(call: Call, service: Service, before: list[Message]) -> Session | None:
    """The session of a workflow that takes one: the caller's own where a header names it, else a passing one.

    Its history is what the request says was said: these clients bring all of it each time. A named session
    keeps its own where the request brings the new message only.
    """
    if not service.workflow.session:
        return None
    named = call.exchange.headers.get(SESSION)
    session = call.session(service) if named else Session(tenant=call.caller.tenant)
    assert session is not None  # the workflow takes one
    turns = turns_of(before)
    if turns or not named:
        session.history = turns
    return session


def offered(asked: ChatRequest, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that inputs may ask for by name, in one spelling each."""
    wanted = asked.response_format
    schema: dict[str, Any] | None = None
    if wanted is not None and wanted.type != "text":
        schema = {"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema
    return {
        **{name: value for name, value in fields.items() if name not in ("messages", "model")},
        "max_tokens": asked.limit,
        "stop": asked.stops or None,
        "json_schema": schema,
        "logprobs": asked.logprobs or None,
    }


def check(asked: ChatRequest, service: Service, inputs: Inputs) -> None:
    """Refuse what this model cannot do and must not be silently left out."""
    if asked.n not in (None, 1):
        raise Refused(f"n={asked.n}", help="one answer a request: send the request n times", param="n")
    if asked.stream_options is not None and not asked.stream:
        raise Refused("stream_options without stream", help="set stream to true", param="stream_options")
    if asked.modalities and asked.modalities != ["text"]:
        raise Refused(
            "an answer other than text", help="speak the text with /v1/audio/speech", param="modalities"
        )
    if not inputs.whole and not inputs.takes_a_message():
        raise shared.unfit(service, inputs.listed, "conversation", does="takes")
    shared.check_gives(service, (str, Text, Json, ToolCall, int, float, msgspec.Struct), "text")
    wanted = asked.response_format
    needs = {
        "tools": bool(asked.tools) and asked.tool_choice != "none",
        "functions": bool(asked.functions),
        "logprobs": bool(asked.logprobs),
        "top_logprobs": bool(asked.top_logprobs),
        "response_format": wanted is not None and wanted.type != "text" and not inputs.takes("json_schema"),
    }
    for name, needed in needs.items():
        if needed and not inputs.takes(name):
            raise Refused(
                f"the model '{service.name}' cannot do what `{name}` asks",
                help=f"leave it out; a workflow that can has an input called `{name}`",
                param=name,
                says="unsupported_parameter",
            )
    if (
        wanted is not None
        and wanted.type == "json_schema"
        and not (wanted.json_schema and wanted.json_schema.schema)
    ):
        raise Refused(
            "response_format json_schema without a schema",
            help="give json_schema.schema",
            param="response_format",
        )


class Answering:
    """One answer on its way: the workflow's increments as pieces, then why it ended and what it took."""

    def __init__(
        self,
        call: Call,
        service: Service,
        inputs: dict[str, Any],
        session: Session | None,
        asked: ChatRequest,
    ) -> None:
        self.call = call
        self.service = service
        self.inputs = inputs
        self.session = session
        self.asked = asked
        self.created = int(time.time())
        self.tools = 0
        self.stopped = False

    # -- what is said -------------------------------------------------------------------------------------

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The answer up to a stop string; leaving it stops the work."""
        stops = Stops(self.asked.stops)
        stream = self.call.stream(self.service, self.inputs, self.session, share=self._shareable)
        async with aclosing(stream) as values:
            async for value in values:
                piece = piece_of(value)
                piece.text = stops.feed(piece.text)
                self.tools += piece.tool is not None
                if piece.text or piece.tool or piece.said:
                    yield piece
                if stops.hit:
                    self.stopped = True
                    return
        if rest := stops.finish():
            yield Piece(rest)

    @property
    def _shareable(self) -> bool:
        """Whether others may get the same answer: none who is owed a draw of his own, and none who leaves
        in the middle, because what was spent until then is only known of work that is one's own."""
        drawn = bool(self.asked.temperature) and self.asked.seed is None
        return not drawn and (not self.asked.stops or "stop" in self.inputs)

    @property
    def finish(self) -> str:
        """Why the answer ended; known once it has."""
        if self.tools:
            return "tool_calls"
        request = self.call.request
        cut = not self.stopped and request is not None and request.trace.cut
        return "length" if cut else "stop"

    # -- whole --------------------------------------------------------------------------------------------

    async def whole(self) -> dict[str, Any]:
        """The answer as one `chat.completion`."""
        async with aclosing(self.pieces()) as pieces:
            said = [piece async for piece in pieces]
        text = "".join(piece.text for piece in said)
        tools = [piece.tool for piece in said if piece.tool is not None]
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if tools:
            message["content"] = text or None
            message["tool_calls"] = [self._tool(index, tool) for index, tool in enumerate(tools)]
        logprobs = logprobs_of(said) if self.asked.logprobs else None
        choice = {"index": 0, "message": message, "finish_reason": self.finish, "logprobs": logprobs}
        return {**self._head("chat.completion"), "choices": [choice], "usage": shared.usage(self.call)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.call.id}",
            "object": kind,
            "created": self.created,
            "model": self.service.name,
            "system_fingerprint": self.service.plan_id or None,
        }

    def _tool(self, index: int, tool: ToolCall) -> dict[str, Any]:
        id = tool.id or f"call_{self.call.id}_{index}"
        return {"id": id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}

    # -- in chunks ----------------------------------------------------------------------------------------

    async def chunks(self, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        """The answer as `chat.completion.chunk` events, the end of the stream included."""
        yield self._chunk({"role": "assistant", "content": ""})
        index = 0
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.tool is not None:
                    yield self._chunk({"tool_calls": [{"index": index, **self._tool(index, piece.tool)}]})
                    index += 1
                else:
                    logprobs = logprobs_of([piece]) if self.asked.logprobs else None
                    yield self._chunk({"content": piece.text}, logprobs)
        yield self._chunk({}, finish=self.finish)
        if self._wants_usage:
            last = {**self._head("chat.completion.chunk"), "choices": [], "usage": shared.usage(self.call)}
            yield shared.event(last)
        yield b"data: [DONE]\n\n"

    @property
    def _wants_usage(self) -> bool:
        return self.asked.stream_options is not None and self.asked.stream_options.include_usage

    def _chunk(
        self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        body = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self._wants_usage:
            body["usage"] = None
        return shared.event(body)


def piece_of(value: Any) -> Piece:
    """A workflow's increment as part of an answer."""
    if isinstance(value, ToolCall):
        return Piece(tool=value)
    if isinstance(value, Text):
        return Piece(value.text, said=value if isinstance(value, Said) else None)
    return Piece(written(value))


def written(value: Any) -> str:
    """A value as text: its own words where it has any, else JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Media | Tensor):
        raise Refused(
            f"the answer is {value.__class__.__name__}, which no chat can hold",
            help="ask /v1/workflows/{name}, or /v1/audio/speech for sound",
            param="model",
            says="unsupported_model",
            code="E274",
        )
    if isinstance(value, Json):
        value = value.value
    return str(value) if _says(value) else msgspec.json.encode(value, enc_hook=str).decode()


def _says(value: Any) -> bool:
    """Whether a value's class has words of its own for it."""
    return any("__str__" in kind.__dict__ for kind in type(value).__mro__ if kind is not object)


def logprobs_of(pieces: list[Piece]) -> dict[str, Any]:
    """The tokens of pieces with their log probabilities; the engines here tell the chosen token's only."""
    tokens = [token for piece in pieces if piece.said is not None for token in piece.said.tokens]
    content = [
        {
            "token": token.piece.decode("utf-8", "replace"),
            "logprob": token.logprob,
            "bytes": list(token.piece),
            "top_logprobs": [],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}
