"""Chat completions: an item as a request, and its events as pieces of an answer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

import msgspec

from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Content, Reply
from tauten.run.remote.providers import Provider
from tauten.run.remote.question import Delta, Said, decoded
from tauten.run.remote.sse import Events
from tauten.run.remote.units import (
    MOST_ANSWER_TOKENS,
    UNKNOWN_ANSWER_TOKENS,
    counted,
    most_prompt_tokens,
    prompt_tokens,
)


class Chat:
    """`item` holds messages or a prompt and its settings, already checked."""

    path: ClassVar[str] = "/chat/completions"

    def __init__(self, item: Mapping[str, Any]) -> None:
        self._item = item
        self._messages: list[dict[str, str]] = list(item.get("messages") or ())
        if not self._messages:
            self._messages = [{"role": "user", "content": str(item.get("prompt", ""))}]
        self._input = prompt_tokens(self._messages)

    @property
    def input_units(self) -> Mapping[str, float]:
        return {"input_tokens": self._input}

    @property
    def most_units(self) -> Mapping[str, float]:
        most = float(self._item.get("max_tokens") or MOST_ANSWER_TOKENS)
        return {"input_tokens": most_prompt_tokens(self._messages), "output_tokens": most, "requests": 1.0}

    @property
    def tokens(self) -> float:
        return self._input + float(self._item.get("max_tokens") or UNKNOWN_ANSWER_TOKENS)

    def may_go_on(self, said: Said) -> bool:
        left = self._left(said)
        return left is None or left > 0

    def _left(self, said: Said) -> int | None:
        """Tokens that the rest of an answer may have; None where nobody bounded it."""
        most = self._item.get("max_tokens")
        return None if most is None else int(most) - said.tokens

    def content(self, provider: Provider, model: str, said: Said) -> Content:
        item = self._item
        body: dict[str, Any] = {"model": model, "messages": self._messages}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        for name in ("temperature", "top_p", "seed"):
            if item.get(name) is not None:
                body[name] = item[name]
        if item.get("stop"):
            body["stop"] = item["stop"]
        if item.get("logprobs"):
            body["logprobs"] = True
        if item.get("json_schema") is not None:
            schema = {"name": "answer", "schema": item["json_schema"], "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if (left := self._left(said)) is not None:
            body[provider.output_limit] = left
        if said.text:
            body["messages"] = [*self._messages, {"role": "assistant", "content": said.text}]
            body |= provider.prefill
        return Content(msgspec.json.encode(body))

    async def deltas(self, reply: Reply) -> AsyncGenerator[Delta, None]:
        """A stream without its final event, or in which no choice was finished, is cut."""
        reading, events = _Reading(), Events()
        async with aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                for data in events.feed(piece):
                    if (delta := reading.event(data)) is not None:
                        yield delta
                    if reading.done:
                        yield reading.last()
                        return
        for data in events.last():
            if (delta := reading.event(data)) is not None:
                yield delta
        yield reading.last()


class _Reading:
    """What the events of one answer have said so far."""

    def __init__(self) -> None:
        self.done = False  # the final event came
        self._finish = ""
        self._units: dict[str, float] = {}

    def event(self, data: bytes) -> Delta | None:
        if data == b"[DONE]":
            self.done = True
            return None
        event = decoded(data)
        if error := event.get("error"):
            said = error.get("message", "") if isinstance(error, dict) else error
            raise Failure("fault", f"an error in the stream: {str(said)[:200]}")
        if isinstance(usage := event.get("usage"), dict):
            self._units = counted(usage)
        choices = event.get("choices")
        if not choices:
            return Delta(units=self._units) if self._units else None
        return (
            self._choice(choices[0]) if isinstance(choices, list) and isinstance(choices[0], dict) else None
        )

    def _choice(self, choice: dict[str, Any]) -> Delta | None:
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        text = delta.get("content") or ""
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        if not isinstance(text, str):
            raise Failure("fault", f"a stream whose text is {type(text).__name__}")
        if not text and not thought:
            return None
        return Delta(text, _logprobs(choice.get("logprobs")), 1, units=self._units)

    def last(self) -> Delta:
        """The end of a whole answer; raises Failure for one that is not."""
        if not self.done:
            raise Failure("fault", "the stream ended without its final event")
        if not self._finish:
            raise Failure("fault", "the stream ended without a finish reason")
        return Delta(finish=str(self._finish), units=self._units)


def _logprobs(said: Any) -> dict[str, Any] | None:
    """Log probabilities as the backends of language models give them."""
    content = said.get("content") if isinstance(said, dict) else None
    if not content:
        return None
    try:
        pieces = [each.get("bytes") or list(str(each["token"]).encode()) for each in content]
        return {"pieces": pieces, "logprobs": [float(each["logprob"]) for each in content]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Failure("fault", f"log probabilities that cannot be read: {error!r}") from error
