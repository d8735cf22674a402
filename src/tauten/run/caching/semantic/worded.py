"""The one input that may be worded otherwise: a text, or what was said last in a conversation. All else must be the same."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tauten.describe.payload import Text


class Worded(NamedTuple):
    """A question, and all that its answer hangs on besides."""

    name: str  # of the input
    text: str
    others: dict[str, Any]  # the other inputs; of a conversation, what was said before


def worded(inputs: Mapping[str, Any], field: str = "") -> Worded | None:
    """The question among the inputs; None where there is none, or several and nobody said which."""
    name = field or _only_text(inputs)
    value = inputs.get(name)
    others = {key: each for key, each in inputs.items() if key != name}
    if value.__class__ in (str, Text):
        return Worded(name, str(value), others)
    if value.__class__ is list and value:
        return _last_said(name, value, others)
    return None


def _only_text(inputs: Mapping[str, Any]) -> str:
    names = [name for name, value in inputs.items() if value.__class__ in (str, Text)]
    return names[0] if len(names) == 1 else ""


def _last_said(name: str, messages: list[Any], others: dict[str, Any]) -> Worded | None:
    """The last message, if it is the user's and text alone."""
    last = messages[-1]
    if not isinstance(last, Mapping) or last.get("role") != "user":
        return None
    text, form = _text_of(last.get("content"))
    if text is None:
        return None
    rest = {key: each for key, each in last.items() if key != "content"}
    return Worded(name, text, {**others, name: [*messages[:-1], rest, form]})


def _text_of(content: Any) -> tuple[str | None, str]:
    """(the words of a message, the form that they are in); None where it holds anything else."""
    if isinstance(content, str):
        return content, "text"
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        [part] = content
        if set(part) == {"type", "text"} and isinstance(part["text"], str):
            return part["text"], f"part {part['type']}"
    return None, ""
