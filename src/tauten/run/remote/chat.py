"""Chat completions: an item as a request, and its events as pieces of an answer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar, Final

import msgspec

from tauten.run.remote.conversation import Calls, Conversation, logprobs_of, sent
from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Content, Reply
from tauten.run.remote.media import Picture, Sound
from tauten.run.remote.providers import Provider
from tauten.run.remote.question import Delta, Question, Said, decoded
from tauten.run.remote.responses import Responses
from tauten.run.remote.spoken import spoken
from tauten.run.remote.units import counted

_AS_THEY_ARE = ("temperature", "top_p", "seed", "tools", "tool_choice", "reasoning_effort")


class Chat(Conversation):
    """A conversation as chat completions say it, or as responses where a provider speaks those."""

    path: ClassVar[str] = "/chat/completions"

    def spoken_to(self, provider: Provider) -> Question:
        return Responses(self.item) if provider.speaks == "responses" else self

    def content(self, provider: Provider, model: str, said: Said) -> Content:
        item = self.item
        messages = [_message(each) for each in self.messages]
        body: dict[str, Any] = {"model": model, "messages": messages}
        if provider.streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        body |= {name: item[name] for name in _AS_THEY_ARE if item.get(name) is not None}
        if item.get("stop"):
            body["stop"] = item["stop"]
        if item.get("logprobs"):
            body["logprobs"] = True
        if (form := self.form()) is not None:
            body["response_format"] = form
        if (left := self.left(said)) is not None:
            body[provider.output_limit] = left
        if said.text:
            body["messages"] = [*messages, {"role": "assistant", "content": said.text}]
            body |= provider.prefill
        return Content(sent(body, provider))

    def deltas(self, reply: Reply) -> AsyncGenerator[Delta, None]:
        """A stream without its final event, or in which no choice was finished, is cut."""
        return spoken(reply, _Reading())


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its pictures and sound in the words of chat completions."""
    content = message.get("content")
    return (
        {**message, "content": [_part(each) for each in content]}
        if isinstance(content, list)
        else dict(message)
    )


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(picture := part.get("image"), Picture):
        return {"type": "image_url", "image_url": {"url": picture.url}}
    if isinstance(sound := part.get("audio"), Sound):
        return {"type": "input_audio", "input_audio": {"data": sound.data, "format": sound.format}}
    return dict(part)


class _Words(msgspec.Struct):
    """What a choice of most events adds: words and nothing else."""

    content: str | None = None
    refusal: None = None
    reasoning: None = None
    reasoning_content: None = None
    tool_calls: None = None


class _Choice(msgspec.Struct):
    delta: _Words
    finish_reason: None = None
    logprobs: None = None


class _Plain(msgspec.Struct):
    """An event that adds words; whatever says more does not fit, and is read field by field."""

    choices: tuple[_Choice]
    error: None = None
    usage: None = None


_plain: Final = msgspec.json.Decoder(_Plain)


class _Reading:
    """What the events of one answer have said so far."""

    def __init__(self) -> None:
        self.done = False  # the final event came
        self._finish = ""
        self._units: dict[str, float] = {}
        self._calls = Calls()

    def event(self, data: bytes) -> list[Delta]:
        if data == b"[DONE]":
            self.done = True
            return self._last()
        try:
            words = _plain.decode(data).choices[0].delta.content
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._event(decoded(data))
        return [Delta(words, None, 1, units=self._units)] if words else []

    def _event(self, event: dict[str, Any]) -> list[Delta]:
        _check_error(event)
        if isinstance(usage := event.get("usage"), dict):
            self._units = counted(usage)
        choices = event.get("choices")
        if not choices:
            return [Delta(units=self._units)] if self._units else []
        return self._choice(choices[0]) if isinstance(choices, list) and isinstance(choices[0], dict) else []

    def document(self, answer: dict[str, Any]) -> list[Delta]:
        """All of an answer that came in one piece."""
        _check_error(answer)
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise Failure("fault", "an answer without a choice")
        if isinstance(usage := answer.get("usage"), dict):
            self._units = counted(usage)
        self.done = True
        return [*self._choice({**choices[0], "delta": choices[0].get("message")}), *self._last()]

    def _choice(self, choice: dict[str, Any]) -> list[Delta]:
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        text = delta.get("content") or delta.get("refusal") or ""
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        called = self._called(delta.get("tool_calls"))
        if not isinstance(text, str):
            raise Failure("fault", f"a stream whose text is {type(text).__name__}")
        if not text and not thought and not called:
            return []
        said = choice.get("logprobs")
        logprobs = logprobs_of(said.get("content") if isinstance(said, dict) else None)
        return [Delta(text, logprobs, 1, units=self._units)]

    def _called(self, calls: Any) -> bool:
        """Keep pieces of calls of tools; whether there were any."""
        if not isinstance(calls, list) or not calls:
            return False
        for place, each in enumerate(calls):
            if not isinstance(each, dict):
                raise Failure("fault", "a call of a tool that is none")
            function, index = each.get("function"), each.get("index", place)
            function = function if isinstance(function, dict) else {}  # a piece that only names its call
            self._calls.piece(
                index if isinstance(index, int) else place,
                name=str(function.get("name") or ""),
                arguments=str(function.get("arguments") or ""),
                id=str(each.get("id") or ""),
            )
        return True

    def _last(self) -> list[Delta]:
        """The end of a whole answer, calls of tools before it; raises Failure for one that is not whole."""
        if not self._finish:
            raise Failure("fault", "the stream ended without a finish reason")
        called = [] if self._finish == "length" else [Delta(value=each) for each in self._calls.all()]
        return [*called, Delta(finish=str(self._finish), units=self._units)]


def _check_error(event: Mapping[str, Any]) -> None:
    if error := event.get("error"):
        said = error.get("message", "") if isinstance(error, dict) else error
        raise Failure("fault", f"an error in the stream: {str(said)[:200]}")
