"""A streamed answer as pieces: events are read as they come, and text that came together stays together."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from tauten.run.remote.conversation import is_whole
from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Reply
from tauten.run.remote.question import Delta, decoded, whole
from tauten.run.remote.sse import Events


class Reading(Protocol):
    """What of one answer was said so far."""

    done: bool  # its last piece was given

    def event(self, data: bytes) -> Sequence[Delta]:
        """What an event adds; the last piece with what the answer ended with. Raises Failure."""
        ...

    def document(self, answer: dict[str, Any]) -> Sequence[Delta]:
        """All of an answer that is no stream. Raises Failure."""
        ...


async def spoken(reply: Reply, reading: Reading) -> AsyncGenerator[Delta, None]:
    """The pieces of an answer; raises Failure where it ends before it is whole."""
    if is_whole(reply):
        for delta in reading.document(decoded(await whole(reply))):
            yield delta
        return
    events = Events()
    async with aclosing(reply.pieces()) as pieces:
        async for piece in pieces:
            for delta in _together(_deltas(reading, events.feed(piece))):
                yield delta
            if reading.done:
                return
    for delta in _together(_deltas(reading, events.last())):
        yield delta
    if not reading.done:
        raise Failure("fault", "the stream ended without its final event")


def _deltas(reading: Reading, events: Iterable[bytes]) -> Iterator[Delta]:
    for data in events:
        yield from reading.event(data)
        if reading.done:
            return


def _together(deltas: Iterable[Delta]) -> Iterator[Delta]:
    """The same answer with text that stands side by side as one piece: each piece costs its way through all layers.
    What was said before an error comes before it."""
    text: list[Delta] = []
    try:
        for delta in deltas:
            if delta.value is None and not delta.finish:
                text.append(delta)
            else:
                yield from _joined(text)
                text = []
                yield delta
    except Failure:
        yield from _joined(text)
        raise
    yield from _joined(text)


def _joined(deltas: list[Delta]) -> list[Delta]:
    if len(deltas) < 2:
        return deltas
    text, tokens = "".join([each.text for each in deltas]), sum([each.tokens for each in deltas])
    return [
        Delta(text, tokens=tokens, units=next((each.units for each in reversed(deltas) if each.units), {}))
    ]
