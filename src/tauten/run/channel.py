"""A streamed edge: one producer, any number of readers, each behind a bound.

The producer waits while the slowest reader's part is full, so memory is bounded by the plan. What a reader
waits is recorded as `assemble` of its own step; the trace hands those instants to whatever worked upstream.

A channel that nobody reads yet holds its producer back as well, unless the request stands still by it: where a reader
waits for a producer that waits for another reader, that other one may itself wait for room in such a channel, and who
would read that comes after the first. Then unread channels of the request take what comes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from tauten.clock import Clock
from tauten.run.trace import Trace

_END = object()


class Channel:
    """Carries values from one producer to its readers; ends once, with or without an error. `beside` are all channels
    of the request; this one joins them."""

    __slots__ = ("_beside", "_bound", "_error", "_readers", "_room", "done")

    def __init__(self, bound: int, beside: list[Channel] | None = None) -> None:
        self._bound: float = bound
        self._beside = [] if beside is None else beside
        self._beside.append(self)
        self._readers: list[Reader] = []
        self._room: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.done = False

    def reader(self, trace: Trace, step: str, clock: Clock) -> Reader:
        """A new reader; must be made before the producer starts, or it misses what was sent."""
        reader = Reader(self, trace, step, clock)
        self._readers.append(reader)
        return reader

    async def send(self, value: Any) -> None:
        """Give a value to every open reader; waits while one of them is full."""
        while self._full():
            self._room = asyncio.get_running_loop().create_future()
            self.stuck()
            await self._room
        for reader in self._readers:
            reader.put(value)

    def _full(self) -> bool:
        """Whether a reader that reads is full; before anyone reads, whether the first part is."""
        reading = [reader for reader in self._readers if reader.started]
        return any(len(reader.held) >= self._bound for reader in reading or self._readers)

    def stuck(self) -> None:
        """Where a reader waits for the producer, and the producer for another reader: let unread channels take what comes."""
        if self._waits and any(reader.waits for reader in self._readers):
            for channel in self._beside:
                channel._open()

    @property
    def _waits(self) -> bool:
        """Whether the producer waits for room."""
        return self._room is not None and not self._room.done()

    def _open(self) -> None:
        if self._waits and not any(reader.started for reader in self._readers):
            self._bound = math.inf
            self.moved()

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes; readers raise `error` after what was sent."""
        self._error = error
        self.done = True
        for reader in self._readers:
            reader.put(_END)

    def leave(self, reader: Reader) -> None:
        """A reader that stopped early no longer holds the producer back."""
        if reader in self._readers:
            self._readers.remove(reader)
        self.moved()

    def moved(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    @property
    def abandoned(self) -> bool:
        """Whether every reader has left."""
        return not self._readers

    @property
    def error(self) -> BaseException | None:
        return self._error


class Reader(AsyncIterator[Any]):
    """One consumer's end of a channel."""

    __slots__ = ("_channel", "_clock", "_trace", "_waiter", "held", "started", "step")

    def __init__(self, channel: Channel, trace: Trace, step: str, clock: Clock) -> None:
        self._channel = channel
        self._trace = trace
        self.step = step
        self._clock = clock
        self._waiter: asyncio.Future[None] | None = None
        self.held: deque[Any] = deque()
        self.started = False  # a reader whose step never runs holds nobody back

    def put(self, value: Any) -> None:
        self.held.append(value)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def waits(self) -> bool:
        """Whether it waits for the next value."""
        return self._waiter is not None and not self._waiter.done()

    async def __anext__(self) -> Any:
        self.started = True
        if not self.held:
            asked = self._clock()
            self._waiter = asyncio.get_running_loop().create_future()
            self._channel.stuck()
            await self._waiter
            self._trace.rows.append((self.step, "assemble", asked, self._clock()))
        value = self.held.popleft()
        if value is _END:
            self.held.append(_END)  # a second look finds the end again
            if self._channel.error is not None:
                raise self._channel.error
            raise StopAsyncIteration
        self._channel.moved()
        return value

    async def aclose(self) -> None:
        """Stop reading; the producer is not held back any more."""
        self._channel.leave(self)
