"""Server-Sent Events: what streaming answers of every API share."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from tauten.errors import TautenError
from tauten.serve.exchange import BEAT_S, Reply
from tauten.serve.safety.discreet import told

if TYPE_CHECKING:
    from tauten.serve.door import Call

Broken = Callable[[TautenError], bytes]
"""The last event of a stream whose work failed."""

BEAT: Final = b": still working\n\n"
"""A comment, which clients ignore and proxies count as life."""

HEADERS: Final = [("cache-control", "no-store"), ("x-accel-buffering", "no")]


def event(name: str, data: bytes) -> bytes:
    """One event; `data` is JSON, which has no line breaks."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def reply(events: AsyncIterator[bytes]) -> Reply:
    """A stream of events as a reply."""
    return Reply(events, media_type="text/event-stream", headers=list(HEADERS), beat=BEAT)


def told_reply(call: Call, events: AsyncGenerator[bytes, None], broken: Broken) -> Reply:
    """A stream of events that ends with an error, as `broken` says it, where the work fails half-way."""
    answer = reply(telling(call, events, broken))
    answer.broken = broken
    return answer


async def telling(
    call: Call, events: AsyncGenerator[bytes, None], broken: Broken
) -> AsyncGenerator[bytes, None]:
    """The same events; what fails is told to who is still there, and nothing follows."""
    async with aclosing(events):
        try:
            async for each in events:
                yield each
        except Exception as error:
            if call.exchange.left:
                raise
            call.error = error
            yield broken(told(error, call))


async def begun(values: AsyncGenerator[Any, None], wait_s: float = BEAT_S) -> AsyncGenerator[Any, None]:
    """The same values, once the first has come: what fails before it fails with its own HTTP status.

    After `wait_s` of silence the stream begins without its first value, because proxies need a sign of life.
    """
    first = asyncio.ensure_future(anext(values, _END))
    try:
        await asyncio.wait([first], timeout=wait_s)
    except asyncio.CancelledError:
        await _stop(first, values)
        raise
    if first.done() and first.exception() is not None:
        await values.aclose()
        raise first.exception()  # type: ignore[misc]  # there is one
    return _all(first, values)


async def _all(first: asyncio.Future[Any], values: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    try:
        value = await first
        while value is not _END:
            yield value
            value = await anext(values, _END)
    finally:
        await _stop(first, values)


async def _stop(first: asyncio.Future[Any], values: AsyncGenerator[Any, None]) -> None:
    """Stop the work, whoever waits for it."""
    if not first.done():
        first.cancel()
        await asyncio.wait([first])
    await values.aclose()


_END: Any = object()
