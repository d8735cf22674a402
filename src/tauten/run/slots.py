"""One request's values by slot, and the streams among them: shared, collected, left."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from tauten.describe.payload import Text
from tauten.describe.ports import PortType, Stream
from tauten.run.channel import Channel, Reader
from tauten.run.request import Request
from tauten.run.values import join, unwrapped


class Run:
    """One request's way through a bound program: its values by slot, and the tasks it started.

    `free` is when its last step ended: from then until the next begins the engine hands over.
    """

    __slots__ = ("channels", "free", "request", "tasks", "values", "visits")

    def __init__(self, request: Request, values: list[Any], free: float) -> None:
        self.request = request
        self.values = values
        self.free = free
        self.tasks: list[asyncio.Task[Any]] = []
        self.channels: list[Channel] = []
        self.visits: dict[str, int] = {}

    def branch(self) -> Run:
        """The same request in a task beside this one: it hands over in its own time."""
        other = Run(self.request, self.values, self.free)
        other.tasks, other.channels, other.visits = self.tasks, self.channels, self.visits
        return other

    def begins(self, at: float) -> None:
        """A step begins: what passed since the last one ended was the engine's, on its loop."""
        self.request.trace.rows.append(("", "loop", self.free, at))


_SHARED_BOUND = 64  # increments, as a streamed edge's default


Operator = Callable[[Run], Coroutine[Any, Any, None]]


Getter = Callable[[Run], Any]


class Streamed:
    """A streamed value in its slot: the channel, and a reader for each port that reads it."""

    __slots__ = ("channel", "readers")

    def __init__(self, channel: Channel, readers: dict[str, list[Reader]]) -> None:
        self.channel = channel
        self.readers = readers

    def take(self, consumer: str) -> Reader:
        """The next of a consumer's readers: it asks once for each of its ports."""
        readers = self.readers[consumer]
        readers.append(readers.pop(0))
        return readers[-1]


def readers_for(channel: Channel, request: Request, consumers: list[str]) -> Streamed:
    readers: dict[str, list[Reader]] = {}
    for each in consumers:
        readers.setdefault(each, []).append(channel.reader(request.trace, each, request.clock))
    return Streamed(channel, readers)


def shared(value: Any, run: Run, consumers: list[str]) -> Any:
    """A stream that a control step hands on to several consumers."""
    if not hasattr(value, "__aiter__"):
        return value
    channel = Channel(_SHARED_BOUND, run.channels)
    streamed = readers_for(channel, run.request, consumers)
    run.tasks.append(asyncio.ensure_future(pump(channel, _values_of(value), run, [])))
    return streamed


async def _values_of(stream: Stream[Any]) -> AsyncIterator[Any]:
    try:
        async for value in stream:
            yield value
    finally:
        await stream.aclose()


def leaving(operate: Operator, streams: list[tuple[int, str]]) -> Operator:
    """A step that ends has left the streams it read, so that it holds nobody back."""
    if not streams:
        return operate

    async def operate_and_leave(run: Run) -> None:
        try:
            await operate(run)
        finally:
            await leave(run, streams)

    return operate_and_leave


async def leave(run: Run, streams: list[tuple[int, str]]) -> None:
    for slot, consumer in streams:
        value = run.values[slot]
        if isinstance(value, Streamed):
            for reader in value.readers[consumer]:
                await reader.aclose()
        elif isinstance(value, Stream):
            await value.aclose()


async def pump(
    channel: Channel, values: AsyncIterator[Any], run: Run, streams: list[tuple[int, str]]
) -> None:
    """Move a streaming stage's values into its channel; its end or failure reaches the readers."""
    error: BaseException | None = None
    try:
        async for value in values:
            await channel.send(value)
            if channel.abandoned:
                break
    except asyncio.CancelledError as cancelled:
        error = cancelled
        raise
    except Exception as failed:  # noqa: BLE001  # every reader of the channel raises it
        error = failed
    finally:
        await values.aclose()  # type: ignore[attr-defined]
        await leave(run, streams)
        channel.end(error)


def as_stream(value: Any, consumer: str) -> Stream[Any] | None:
    """A consumer's end of a streamed slot; what came whole (a caller's value, a side of `when`) is its one
    increment, a list its increments."""
    if value is None:
        return None
    if isinstance(value, Streamed):
        return Stream(value.take(consumer))
    if isinstance(value, Stream):
        value.relabel(consumer)
        return value
    if hasattr(value, "__aiter__"):
        return Stream(aiter(value))
    return Stream(whole(value if isinstance(value, list) else [value]))


def whole_streams(ports: Mapping[str, PortType], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A caller's inputs, lists for streamed ports as the streams that a program's code reads."""
    given = {
        name: inputs[name]
        for name, port in ports.items()
        if port.stream and isinstance(inputs.get(name), list)
    }
    return {**inputs, **{name: Stream(whole(values)) for name, values in given.items()}} if given else inputs


async def whole(values: list[Any]) -> AsyncIterator[Any]:
    """What came whole, as increments."""
    for value in values:
        yield value


def as_wanted_stream(get: Getter, consumer: str, wanted: PortType) -> Getter:
    """The stream that a consumer reads, its increments in the type that it wants."""
    if not {str, Text} & set(wanted.kinds):
        return lambda run: as_stream(get(run), consumer)

    def read(run: Run) -> Stream[Any] | None:
        stream = as_stream(get(run), consumer)
        return None if stream is None else Stream(_Unwrapping(stream, wanted))

    return read


class Around:
    """A stream seen through something; who reads it stays known, and leaving it leaves the stream."""

    __slots__ = ("_source", "_stream")

    def __init__(self, stream: Stream[Any], source: AsyncIterator[Any]) -> None:
        self._stream = stream
        self._source = source

    def __aiter__(self) -> AsyncIterator[Any]:
        return self  # type: ignore[return-value]  # its kinds have __anext__

    @property
    def step(self) -> str:
        return str(getattr(self._source, "step", ""))

    @step.setter
    def step(self, reader: str) -> None:
        self._stream.relabel(reader)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Unwrapping(Around):
    """A stream's increments with text as `wanted` spells it."""

    __slots__ = ("_wanted",)

    def __init__(self, stream: Stream[Any], wanted: PortType) -> None:
        super().__init__(stream, aiter(stream))
        self._wanted = wanted

    async def __anext__(self) -> Any:
        return unwrapped(await anext(self._source), self._wanted)


async def begun(value: Any) -> Any:
    """A stream whose first increment came: what fails before it may still fall back."""
    if not isinstance(value, Stream):
        return value
    source = aiter(value)
    try:
        first = await anext(source)
    except StopAsyncIteration:
        return Stream(whole([]))
    return Stream(_Rest(first, value, source))


class _Rest(Around):
    """A stream after its first increment was looked at."""

    __slots__ = ("_held",)

    def __init__(self, first: Any, stream: Stream[Any], source: AsyncIterator[Any]) -> None:
        super().__init__(stream, source)
        self._held = [first]

    async def __anext__(self) -> Any:
        return self._held.pop() if self._held else await anext(self._source)


async def collected(value: Any, consumer: str, wanted: PortType, given: PortType) -> Any:
    stream = as_stream(value, consumer)
    if stream is None:
        return None
    values = await stream.collect()
    return unwrapped(values if wanted.many else join(values, given), wanted)


async def settle(run: Run) -> None:
    """Raise what a producer raised unseen; streams that nobody reads are stopped by the caller."""
    for task in run.tasks:
        if task.done():
            await task
