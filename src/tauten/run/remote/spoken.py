"""A streamed answer as pieces: events are read as they come, and text that came together stays together."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Protocol

from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Reply
from tauten.run.remote.question import Delta
from tauten.run.remote.sse import Events


class Reading(Protocol):
    """What the events of one answer have said so far."""

    done: bool  # its last piece was given

    def event(self, data: bytes) -> Sequence[Delta]:
        """What an event adds; the last piece with what the answer ended with. Raises Failure."""
        ...


async def spoken(reply: Reply, reading: Reading) -> AsyncGenerator[Delta, None]:
    """The pieces of a stream; raises Failure where it ends before the answer does."""
    events = Events()
    async with aclosing(reply.pieces()) as pieces:
        async for piece in pieces:
            for delta in together(_deltas(reading, events.feed(piece))):
                yield delta
            if reading.done:
                return
    for delta in together(_deltas(reading, events.last())):
        yield delta
    if not reading.done:
        raise Failure("fault", "the stream ended without its final event")


def _deltas(reading: Reading, events: Iterable[bytes]) -> Iterator[Delta]:
    for data in events:
        yield from reading.event(data)
        if reading.done:
            return


def together(deltas: Iterable[Delta]) -> Iterator[Delta]:
    """The same answer with text that stands side by side as one piece: each piece costs its way through all layers.
    What was said before an error comes before it."""
    text: list[Delta] = []
    try:
        for delta in deltas:
            if _is_text(delta):
                text.append(delta)
                continue
            if text:
                yield _joined(text)
                text = []
            yield delta
    except Failure:
        if text:
            yield _joined(text)
        raise
    if text:
        yield _joined(text)


def _is_text(delta: Delta) -> bool:
    return delta.value is None and not delta.finish


def _joined(deltas: Sequence[Delta]) -> Delta:
    if len(deltas) == 1:
        return deltas[0]
    return Delta(
        "".join([each.text for each in deltas]),
        tokens=sum([each.tokens for each in deltas]),
        units=next((each.units for each in reversed(deltas) if each.units), {}),
    )
