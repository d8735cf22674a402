"""What a language model is asked: one request's item, checked before it crosses to the worker."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from tauten.errors import InputError

DEFAULT_TOKENS = 256  # a long paragraph; a stage that wants more says so
_TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")


class LlmItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`messages` or `prompt`, how much to say and how, and at most one constraint on the form."""

    messages: list[dict[str, str]] = []
    prompt: str = ""
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    stop: list[str] = []
    seed: int | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None
    logprobs: bool = False
    ngram: int | None = None

    @property
    def constraint(self) -> tuple[str, str] | None:
        """Kind and text of what the output must be; None when it is free."""
        if self.json_schema is not None:
            return "json_schema", msgspec.json.encode(self.json_schema, order="deterministic").decode()
        if self.regex is not None:
            return "regex", self.regex
        return ("grammar", self.grammar) if self.grammar is not None else None


Kind = TypeVar("Kind", bound=LlmItem)


def read_item(item: Mapping[str, Any]) -> LlmItem:
    """Check an item for a model of texts; raises InputError E232 (malformed) or E234 (a constraint that nothing can
    satisfy)."""
    messages = item.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping) and (
            not isinstance(message.get("content", ""), str) or "tool_calls" in message
        ):
            raise InputError(
                f"a message of the {str(message.get('role'))[:40]} holds something else than text",
                help="this model reads text only",
                code="E232",
            )
    return read_as(item, LlmItem)


def read_as(item: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """Check an item of some kind; raises as `read_item` does."""
    try:
        read = msgspec.convert(dict(item), kind)
    except msgspec.ValidationError as error:
        raise _malformed(str(error)) from error
    if bool(read.messages) == bool(read.prompt):
        raise _malformed("an item holds either `messages` or a `prompt`, and neither may be empty")
    if any(not {"role", "content"} <= message.keys() for message in read.messages):
        raise _malformed("each message has a `role` and a `content`")
    if read.max_tokens is not None and read.max_tokens < 1:
        raise _malformed(f"max_tokens is {read.max_tokens}; at least 1 is expected")
    if read.temperature < 0 or not 0 < read.top_p <= 1:
        raise _malformed("temperature is at least 0; top_p lies above 0 and is at most 1")
    if sum(each is not None for each in (read.json_schema, read.regex, read.grammar)) > 1:
        raise _malformed("give one of json_schema, regex and grammar, not several")
    _check_constraint(read)
    return read


def _malformed(what: str) -> InputError:
    return InputError(
        f"a request to a language model is malformed: {what}",
        code="E232",
        help="give prompt= or messages=[{role, content}], with the fields of LlmItem",
    )


def _check_constraint(item: LlmItem) -> None:
    """Refuse what is plainly wrong here, because a bad constraint costs the engine a restart."""
    if item.regex is not None:
        _check_pattern(item.regex)
    if item.json_schema is not None:
        _check_schema(item.json_schema)
    if item.grammar is not None and "::=" not in item.grammar:
        raise refused("the grammar has no rule", 'write EBNF rules such as root ::= "yes" | "no"')


def refused(what: str, help: str = "simplify the schema, regex or grammar") -> InputError:
    """A constraint on the output that cannot be used."""
    return InputError(f"the output cannot be constrained: {what}", help=help, code="E234")


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise refused(f"the regular expression {pattern!r} is wrong: {error}") from error


def _check_schema(schema: Any, place: str = "#") -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise refused(f"{place} of the JSON schema is {type(schema).__name__}, expected an object")
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _TYPES:
            raise refused(f"{place} of the JSON schema has type {kind!r}", f"types are {', '.join(_TYPES)}")
    if isinstance(schema.get("pattern"), str):
        _check_pattern(schema["pattern"])
    for key in ("properties", "$defs", "definitions"):
        for name, inner in dict(schema.get(key) or {}).items():
            _check_schema(inner, f"{place}/{key}/{name}")
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for index, inner in enumerate(schema.get(key) or []):
            _check_schema(inner, f"{place}/{key}/{index}")
    if "items" in schema:
        _check_schema(schema["items"], f"{place}/items")
