"""A conversation to go on with, whichever protocol a provider speaks: what it brings, and what it may take."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tauten.describe.said import ToolCall
from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Reply
from tauten.run.remote.providers import Provider
from tauten.run.remote.question import Said
from tauten.run.remote.units import (
    MOST_ANSWER_TOKENS,
    UNKNOWN_ANSWER_TOKENS,
    most_prompt_tokens,
    prompt_tokens,
    text_tokens,
)


class Conversation:
    """`item` holds messages or a prompt and its settings, already checked; media in it are ready to be sent."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        self.item = item
        self.messages: list[dict[str, Any]] = list(item.get("messages") or ())
        if not self.messages:
            self.messages = [{"role": "user", "content": str(item.get("prompt", ""))}]
        asked = [item[name] for name in ("tools", "json_schema", "response_format") if item.get(name)]
        self._form = msgspec.json.encode(asked).decode() if asked else ""  # which models read, too
        self._input = prompt_tokens(self.messages) + text_tokens(self._form)

    @property
    def input_units(self) -> Mapping[str, float]:
        return {"input_tokens": self._input}

    @property
    def most_units(self) -> Mapping[str, float]:
        most = float(self.item.get("max_tokens") or MOST_ANSWER_TOKENS)
        held = most_prompt_tokens(self.messages) + len(self._form.encode())
        return {"input_tokens": held, "output_tokens": most, "requests": 1.0}

    @property
    def tokens(self) -> float:
        return self._input + float(self.item.get("max_tokens") or UNKNOWN_ANSWER_TOKENS)

    def may_go_on(self, said: Said) -> bool:
        left = self.left(said)
        return not self.item.get("tools") and (left is None or left > 0)

    def left(self, said: Said) -> int | None:
        """Tokens that the rest of an answer may have; None where nobody bounded it."""
        most = self.item.get("max_tokens")
        return None if most is None else int(most) - said.tokens

    def form(self) -> dict[str, Any] | None:
        """The form that an answer must have, as chat completions say it; None: any."""
        if self.item.get("response_format") is not None:
            return dict(self.item["response_format"])
        if self.item.get("json_schema") is None:
            return None
        schema = {"name": "answer", "schema": self.item["json_schema"], "strict": True}
        return {"type": "json_schema", "json_schema": schema}


def sent(body: dict[str, Any], provider: Provider) -> bytes:
    """A call's body, less the fields that a provider refuses."""
    return msgspec.json.encode({key: value for key, value in body.items() if key not in provider.without})


def is_whole(reply: Reply) -> bool:
    """Whether an answer comes as one document, and not as events."""
    kind = reply.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == "application/json"


def logprobs_of(content: Any) -> dict[str, Any] | None:
    """Log probabilities as the backends of language models give them."""
    if not content:
        return None
    try:
        pieces = [each.get("bytes") or list(str(each["token"]).encode()) for each in content]
        return {"pieces": pieces, "logprobs": [float(each["logprob"]) for each in content]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Failure("fault", f"log probabilities that cannot be read: {error!r}") from error


class Calls:
    """Calls of tools, gathered from their pieces; by the place that each has in the answer."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}

    def piece(self, place: int, *, name: str = "", arguments: str = "", id: str = "") -> None:
        found = self._parts.setdefault(place, ["", "", ""])
        found[0] = found[0] or name
        found[1] += arguments
        found[2] = found[2] or id

    def whole(self, place: int, *, name: str, arguments: str, id: str) -> None:
        """The call as it is in the end, whatever pieces came of it."""
        self._parts[place] = [name, arguments, id]

    def all(self) -> Sequence[ToolCall]:
        """Raises Failure for one that is not whole."""
        for name, arguments, _ in self._parts.values():
            if not name or not _is_json(arguments or "{}"):
                raise Failure("fault", f"a call of {name or 'no tool'} whose arguments are no JSON")
        return [
            ToolCall(name, arguments or "{}", id) for _, (name, arguments, id) in sorted(self._parts.items())
        ]

    def __bool__(self) -> bool:
        return bool(self._parts)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
