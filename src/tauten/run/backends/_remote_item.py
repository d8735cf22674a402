"""What a provider is asked in a conversation: a language model's item, with media, tools and forms passed on."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tauten.errors import InputError
from tauten.run.backends._llm_item import LlmItem, read_as, refused


class RemoteItem(LlmItem, frozen=True, forbid_unknown_fields=True):
    """`messages` may hold parts (text, image, audio). `tools`, `tool_choice` and `response_format` are as chat
    completions say them, and go on as they are."""

    messages: list[dict[str, Any]] = msgspec.field(default_factory=list)  # of parts, too
    tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None


def check_conversation(item: Mapping[str, Any]) -> None:
    """Raises InputError E232 for a conversation that is malformed, E234 for a form that no provider can be asked for."""
    read = read_as(item, RemoteItem)
    if read.regex is not None or read.grammar is not None:
        raise refused(
            "a provider takes no regular expression and no grammar", "give json_schema, or a local model"
        )
    if read.response_format is not None and read.json_schema is not None:
        raise refused("json_schema and response_format both say what it must be", "give one of them")
    for tool in read.tools:
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict) or not function.get("name"):
            raise InputError(
                "a tool that is no function with a name",
                help='write {"type": "function", "function": {"name": ..., "parameters": {...}}}',
                code="E232",
            )
