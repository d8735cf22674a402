"""What a model says beyond plain text: tokens with probabilities, calls of tools, speech with its times."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec

from tauten.describe.payload import Text


class TokenLogprob(msgspec.Struct, frozen=True):
    """One token that the model chose: its bytes (part of a character at times) and its log probability."""

    piece: bytes
    logprob: float


class Said(Text):
    """An increment of text with the log probabilities of its tokens."""

    __slots__ = ("tokens",)
    tokens: tuple[TokenLogprob, ...]

    def __init__(self, text: str, tokens: tuple[TokenLogprob, ...] = ()) -> None:
        super().__init__(text)
        object.__setattr__(self, "tokens", tokens)


class ToolCall(msgspec.Struct, frozen=True):
    """A model asks the caller to run a tool: yield it from a workflow among the text. `arguments` is JSON."""

    name: str
    arguments: str = "{}"
    id: str = ""


class Spoken(Text):
    """An increment of a transcript, and when it was said, in seconds from the start."""

    __slots__ = ("end_s", "start_s")
    start_s: float
    end_s: float

    def __init__(self, text: str, start_s: float, end_s: float) -> None:
        super().__init__(text)
        object.__setattr__(self, "start_s", start_s)
        object.__setattr__(self, "end_s", end_s)
