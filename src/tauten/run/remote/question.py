"""What is asked of a provider, whatever it is: how it is sent, how its answer is read, what it may take."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Content, Reply
from tauten.run.remote.providers import Provider

MOST_ERROR_BYTES = 65_536  # of an answer that says what is wrong: a page of a proxy at most


class Delta(NamedTuple):
    """A piece of an answer. The last one has `finish`; `units` are the provider's count, as far as it tells."""

    text: str = ""
    value: Any = None
    tokens: int = 0  # it is made of, at least
    finish: str = ""
    units: Mapping[str, float] = {}


class Said(NamedTuple):
    """What of an answer is there already, when another endpoint is to go on with it."""

    text: str = ""
    tokens: int = 0


NOTHING = Said()


class Question(Protocol):
    """One item in the words of the protocol."""

    path: ClassVar[str]

    @property
    def input_units(self) -> Mapping[str, float]:
        """What it brings, estimated: booked where a provider never says."""
        ...

    @property
    def most_units(self) -> Mapping[str, float]:
        """What it takes at most: budgets hold so much while it is on its way."""
        ...

    @property
    def tokens(self) -> float:
        """What it may take in all, for limits that are counted before it is answered."""
        ...

    def may_go_on(self, said: Said) -> bool:
        """Whether another endpoint can go on with what is there of an answer."""
        ...

    def spoken_to(self, provider: Provider) -> Question:
        """The same in the words of the protocol that a provider speaks."""
        ...

    def content(self, provider: Provider, model: str, said: Said) -> Content: ...

    def deltas(self, reply: Reply) -> AsyncGenerator[Delta, None]:
        """The pieces of an answer, the last with `finish`; raises Failure where it is not whole."""
        ...


async def whole(reply: Reply, most: int | None = None) -> bytes:
    """The bytes of an answer, or the first `most` of them."""
    parts: list[bytes] = []
    size = 0
    async with aclosing(reply.pieces()) as pieces:
        async for piece in pieces:
            parts.append(piece)
            size += len(piece)
            if most is not None and size >= most:
                break
    return b"".join(parts)


def decoded(data: bytes) -> dict[str, Any]:
    """A JSON object; raises Failure for anything else."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Failure("fault", f"an answer that is no JSON: {data[:60]!r}") from error
    if not isinstance(value, dict):
        raise Failure("fault", f"an answer that is no JSON object: {data[:60]!r}")
    return value
