"""Lines to endpoints that exist in memory alone, for tests on virtual time: each says when it gives which bytes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from tauten.errors import TautenError
from tauten.run.contracts import Chunk
from tauten.run.remote.chat import Chat
from tauten.run.remote.endpoint import Endpoint
from tauten.run.remote.errand import Errand
from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Content, Reply
from tauten.run.remote.phases import Phases
from tauten.run.remote.providers import Limits, Provider
from tauten.run.remote.route import Route
from tauten.run.remote.trail import Trail
from tauten.run.request import Request

Piece = tuple[float, bytes | Failure]
"""(seconds to wait, what then comes)."""


class ToldReply:
    """Gives its pieces at their times; knows how it was left."""

    def __init__(self, pieces: Sequence[Piece], status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = dict(headers)
        self.ended = ""
        self._pieces = pieces

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for wait_s, piece in self._pieces:
            await asyncio.sleep(wait_s)
            if isinstance(piece, Failure):
                raise piece
            yield piece

    def release(self) -> None:
        self.ended = "released"

    def close(self) -> None:
        self.ended = "closed"


Act = Callable[[], Awaitable[ToldReply]]


class ToldLine:
    """Meets each call with the next of its acts; the last one stays."""

    def __init__(self, *acts: Act) -> None:
        self.acts = deque(acts)
        self.sent: list[dict[str, Any]] = []
        self.replies: list[ToldReply] = []
        self.closed = False

    async def send(self, path: str, content: Content, phases: Phases) -> Reply:
        self.sent.append(msgspec.json.decode(content.body))
        phases.sent = phases.clock()
        act = self.acts.popleft() if len(self.acts) > 1 else self.acts[0]
        reply = await act()
        phases.first_byte = phases.clock()
        self.replies.append(reply)
        return reply

    async def close(self) -> None:
        self.closed = True


def event(**fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def word(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}])


def end(count: int, prompt: int = 7, finish: str = "stop") -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
    finished = event(choices=[{"index": 0, "delta": {}, "finish_reason": finish}])
    return finished + event(choices=[], usage=usage) + b"data: [DONE]\n\n"


def says(
    *words: str, first_s: float = 0.1, gap_s: float = 0.01, headers: Mapping[str, str] | None = None
) -> Act:
    """A whole answer."""

    async def act() -> ToldReply:
        waits = [first_s, *[gap_s] * (len(words) - 1)]
        pieces: list[Piece] = [(wait, word(each)) for wait, each in zip(waits, words, strict=True)]
        return ToldReply([*pieces, (0.0, end(len(words)))], 200, headers or {})

    return act


def cuts(*words: str, first_s: float = 0.1) -> Act:
    """An answer that breaks off after some words."""

    async def act() -> ToldReply:
        pieces: list[Piece] = [
            (first_s if not index else 0.01, word(each)) for index, each in enumerate(words)
        ]
        return ToldReply([*pieces, (0.01, Failure("fault", "connection lost"))], 200, {})

    return act


def status(code: int, *, after_s: float = 0.05, headers: Mapping[str, str] | None = None) -> Act:
    """An error."""

    async def act() -> ToldReply:
        await asyncio.sleep(after_s)
        body = msgspec.json.encode({"error": {"message": f"told to say {code}"}})
        return ToldReply([(0.0, body)], code, headers or {})

    return act


def breaks() -> Act:
    """No connection."""

    async def act() -> ToldReply:
        raise Failure("fault", "connection refused")

    return act


def hangs() -> Act:
    async def act() -> ToldReply:
        await asyncio.sleep(1e6)
        raise AssertionError("nobody waits that long")

    return act


def endpoint(name: str, *acts: Act, limits: Limits | None = None, region: str = "") -> Endpoint:
    """An endpoint of a loop on virtual time."""
    provider = Provider(
        url="http://told", name=name, region=region, key=f"{name.upper()}_KEY", limits=limits or Limits()
    )
    return Endpoint(provider, "m", ToldLine(*acts), asyncio.get_running_loop().time)


def line(of: Endpoint) -> ToldLine:
    assert isinstance(of.line, ToldLine)
    return of.line


class Told:
    """What a caller saw, and what was booked."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.chunks: list[Chunk] = []
        self.error: TautenError | None = None

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def whole(self) -> bool:
        return bool(self.chunks) and self.chunks[-1].done

    @property
    def calls(self) -> list[tuple[str, str, str, float, float, str]]:
        """(provider, why, outcome, input tokens, output tokens, who counted) of each attempt, as booked."""
        return [
            (
                call.provider,
                call.why,
                call.outcome,
                call.units.get("input_tokens", 0.0),
                call.units.get("output_tokens", 0.0),
                call.counted,
            )
            for call in self.request.trace.provider_calls
        ]

    def spent_s(self, cause: str) -> float:
        return sum(end - start for _, each, start, end in self.request.trace.rows if each == cause)


ITEM: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
"""Estimated at 4 + 1 tokens of prompt."""


async def ask(
    route: Route,
    *,
    left_s: float = float("inf"),
    item: Mapping[str, Any] | None = None,
    purse: Any = None,
) -> Told:
    """One call on a route, to its end."""
    now = asyncio.get_running_loop().time
    request = Request(now, deadline=now() + left_s)
    request.purse = purse
    told = Told(request)
    errand = Errand(Chat(item or ITEM), route, Trail(request, "ask"))
    try:
        async for chunk in errand.chunks():
            told.chunks.append(chunk)
    except TautenError as error:
        told.error = error
    return told
