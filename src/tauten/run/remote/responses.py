"""The Responses API: an item as a request, and its typed events as pieces of an answer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar

from tauten.run.remote.conversation import Calls, Conversation, logprobs_of, sent
from tauten.run.remote.failure import Failure, of_code
from tauten.run.remote.line import Content, Reply
from tauten.run.remote.media import Picture, Sound
from tauten.run.remote.providers import Provider
from tauten.run.remote.question import Delta, Question, Said, decoded
from tauten.run.remote.spoken import spoken
from tauten.run.remote.units import counted
from tauten.run.stops import Stops

_AS_THEY_ARE = ("temperature", "top_p")
_THOUGHTS = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_WHY = {"max_output_tokens": "length"}  # as our backends say it


class Responses(Conversation):
    """A conversation as `/responses` says it. Nothing is kept with the provider, and nothing asked for by its id.

    It has no word for a seed: a call with one is not sent there. It has none for stop strings either: answers are
    cut here, where the first of them comes.
    """

    path: ClassVar[str] = "/responses"

    def spoken_to(self, provider: Provider) -> Question:
        return self

    def content(self, provider: Provider, model: str, said: Said) -> Content:
        item = self.item
        if item.get("seed") is not None and "seed" not in provider.without:
            raise Failure("denied", "the Responses API takes no seed")
        asked = [part for each in self.messages for part in _items(each)]
        if said.text:
            asked.append(_said("assistant", said.text))
        body: dict[str, Any] = {"model": model, "input": asked, "store": False}
        if provider.streams:
            body["stream"] = True
        body |= {name: item[name] for name in _AS_THEY_ARE if item.get(name) is not None}
        if (left := self.left(said)) is not None:
            body["max_output_tokens"] = left
        body |= self._formed() | self._tooled()
        if item.get("logprobs"):
            body["include"] = ["message.output_text.logprobs"]
        if item.get("reasoning_effort"):
            body["reasoning"] = {"effort": item["reasoning_effort"]}
        return Content(sent(body | (provider.prefill if said.text else {}), provider))

    def _formed(self) -> dict[str, Any]:
        """The form that an answer must have; a schema stands beside its type here."""
        form = self.form()
        if form is None:
            return {}
        return {"text": {"format": {"type": form.get("type"), **(form.get("json_schema") or {})}}}

    def _tooled(self) -> dict[str, Any]:
        """Tools, whose functions stand beside their type here."""
        if not self.item.get("tools"):
            return {}
        tools = [{"type": "function", **each.get("function", {})} for each in self.item["tools"]]
        choice = self.item.get("tool_choice")
        if isinstance(choice, Mapping) and isinstance(choice.get("function"), Mapping):
            choice = {"type": "function", **choice["function"]}
        return {"tools": tools, **({} if choice is None else {"tool_choice": choice})}

    def deltas(self, reply: Reply) -> AsyncGenerator[Delta, None]:
        """A stream without one of its last events is cut; one that says that it failed has failed."""
        return spoken(reply, _Reading(self.item.get("stop") or ()))


def _items(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message as items of an input: what was said, and calls of tools and their results by themselves."""
    role, content = str(message.get("role")), message.get("content")
    if role == "tool":
        return [
            {"type": "function_call_output", "call_id": message.get("tool_call_id", ""), "output": content}
        ]
    parts = [_part(each, role) for each in content] if isinstance(content, list) else content
    found = [{"role": role, "content": parts}] if parts else []
    if role == "assistant" and isinstance(content, str) and content:
        found = [_said(role, content)]
    for call in message.get("tool_calls") or ():
        named = {name: call["function"].get(name, "") for name in ("name", "arguments")}
        found.append({"type": "function_call", "call_id": call.get("id", ""), **named})
    return found


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "output_text", "text": text}]}


def _part(part: Mapping[str, Any], role: str) -> dict[str, Any]:
    if isinstance(picture := part.get("image"), Picture):
        return {"type": "input_image", "image_url": picture.url, "detail": "auto"}
    if isinstance(sound := part.get("audio"), Sound):
        return {"type": "input_audio", "input_audio": {"data": sound.data, "format": sound.format}}
    return {"type": "output_text" if role == "assistant" else "input_text", "text": part.get("text", "")}


class _Reading:
    """What the events of one answer have said so far; `done` once its end came, or a stop string."""

    def __init__(self, stops: Any) -> None:
        self.done = False
        self._stops = Stops(list(stops))
        self._said = ""
        self._calls = Calls()
        self._last = -1

    def event(self, data: bytes) -> list[Delta]:
        if data == b"[DONE]":
            return []  # some say it here, too
        event = decoded(data)
        kind = str(event.get("type") or "")
        self._check_order(event.get("sequence_number"))
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            return self._text(event.get("delta"), event.get("logprobs"))
        if kind in _THOUGHTS:
            return [Delta(tokens=1)]
        if kind == "response.function_call_arguments.delta":
            return [Delta(tokens=1)]
        if kind == "response.output_item.done":
            self._item(event.get("output_index"), event.get("item"))
            return []
        if kind == "error" or (not kind and event.get("error")):
            raise _failed(event.get("error") or event, {})
        if kind in _ENDS:
            return self.end(event.get("response"))
        return []

    def _check_order(self, number: Any) -> None:
        """Events that come a second time, or in another order, are no answer that can be given on."""
        if isinstance(number, int) and not isinstance(number, bool):
            if number <= self._last:
                raise Failure("fault", f"event {number} after event {self._last}")
            self._last = number

    def _text(self, text: Any, logprobs: Any = None) -> list[Delta]:
        if not isinstance(text, str):
            raise Failure("fault", f"a stream whose text is {type(text).__name__}")
        self._said += text
        shown = self._stops.feed(text)
        found = [Delta(shown, logprobs_of(logprobs), 1)] if text else []
        if self._stops.hit:
            self.done = True
            found.append(Delta(finish="stop"))  # what it took until here nobody counted
        return found

    def _item(self, place: Any, item: Any) -> None:
        """Keep a call of a tool that is whole."""
        if isinstance(item, dict) and item.get("type") == "function_call":
            self._calls.whole(
                place if isinstance(place, int) else len(self._calls.all()),
                name=str(item.get("name") or ""),
                arguments=str(item.get("arguments") or ""),
                id=str(item.get("call_id") or item.get("id") or ""),
            )

    def document(self, answer: dict[str, Any]) -> list[Delta]:
        return self.end(answer)

    def end(self, response: Any) -> list[Delta]:
        """The end of an answer, or all of one that came in one piece: what no event said of it is said now."""
        if not isinstance(response, dict):
            raise Failure("fault", "an answer whose end says nothing of it")
        usage = response.get("usage")
        units = counted(usage) if isinstance(usage, dict) else {}
        status = response.get("status")
        if status not in ("completed", "incomplete"):
            raise _failed(response.get("error") or {"message": f"its status is {status!r}"}, units)
        output = response.get("output")
        for place, item in enumerate(output if isinstance(output, list) else ()):
            self._item(place, item)
        found = self._rest(output)
        if self.done:  # by a stop string
            return [*found[:-1], Delta(finish="stop", units=units)]
        self.done = True
        if held := self._stops.finish():
            found.append(Delta(held))
        return [*found, *self._ended(response, status, units)]

    def _rest(self, output: Any) -> list[Delta]:
        """Text of the answer that no event brought; raises Failure where they brought another one."""
        text, logprobs = _text_of(output)
        if not text or text == self._said:
            return []
        if not text.startswith(self._said):
            raise Failure("fault", "an answer that is not what its pieces said")
        return self._text(text[len(self._said) :], logprobs if not self._said else None)

    def _ended(self, response: Mapping[str, Any], status: Any, units: Mapping[str, float]) -> list[Delta]:
        if status == "incomplete":
            details = response.get("incomplete_details")
            why = str(details.get("reason") or "") if isinstance(details, dict) else ""
            return [Delta(finish=_WHY.get(why, why or "incomplete"), units=units)]
        calls = self._calls.all()
        finish = "tool_calls" if calls else "stop"
        return [*(Delta(value=each) for each in calls), Delta(finish=finish, units=units)]


def _text_of(output: Any) -> tuple[str, list[Any]]:
    """The words of an answer's messages, and their log probabilities."""
    text = ""
    logprobs: list[Any] = []
    for item in output if isinstance(output, list) else ():
        content = item.get("content") if isinstance(item, dict) and item.get("type") == "message" else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                text += str(part.get("text") or part.get("refusal") or "")
                found = part.get("logprobs")
                logprobs += found if isinstance(found, list) else []
    return text, logprobs


def _failed(error: Any, units: Mapping[str, float]) -> Failure:
    """What an answer that failed says of itself."""
    if not isinstance(error, Mapping):
        error = {"message": str(error)}
    what = f"an error in the answer: {str(error.get('message') or '')[:200]}"
    return of_code(str(error.get("code") or ""), what, units)
