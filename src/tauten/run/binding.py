"""Binds a lowered program to running things: each step becomes one small coroutine over value slots.

A straight line is a flat tuple of operators and costs no task; n branches cost n-1 tasks, with sibling
cancel and drain; only a streamed edge has a task and a bounded channel.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from tauten.describe.graph import FromInput, FromStage, Listed, Source
from tauten.describe.payload import Payload, Text
from tauten.describe.ports import PortType, Stream
from tauten.describe.stage import AMBIENT, StageKind
from tauten.errors import InputError, StageError, TautenError
from tauten.plan.lower import Lowered, Program, Step
from tauten.run.channel import Channel, Reader
from tauten.run.context import (
    BoundStep,
    Dynamic,
    Siblings,
    StepContext,
    cancel_all,
    decode,
    decoded,
    gather_members,
    join,
    run_stage,
    stage_error,
    stream_stage,
    unwrapped,
)
from tauten.run.contracts import find
from tauten.run.request import Request
from tauten.run.trace import VISIT


class Run:
    """One request's way through a bound program: its values by slot, and the tasks it started."""

    __slots__ = ("request", "tasks", "values", "visits")

    def __init__(self, request: Request, values: list[Any]) -> None:
        self.request = request
        self.values = values
        self.tasks: list[asyncio.Task[Any]] = []
        self.visits: dict[str, int] = {}


_SHARED_BOUND = 64  # increments, as a streamed edge's default
Operator = Callable[[Run], Awaitable[None]]
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


class Binder:
    """Makes operators of one lowered program. `bound` holds each step's models and files."""

    def __init__(
        self,
        lowered: Lowered,
        bound: Mapping[str, BoundStep],
        dynamic: Dynamic,
    ) -> None:
        self.lowered = lowered
        self.bound = bound
        self.dynamic = dynamic
        graph = lowered.graph
        names = [*graph.inputs, *([graph.session] if graph.session else [])]
        self.slots: dict[str, int] = {f"input.{name}": index for index, name in enumerate(names)}
        for step in lowered.steps:
            self.slots[step.name] = len(self.slots)
        self.types: dict[str, PortType] = {name: stage.output for name, stage in graph.stages.items()}

    # -- sources ------------------------------------------------------------------------------------------

    def getter(self, source: Source, consumer: str, wanted: PortType) -> tuple[Getter, bool]:
        """How to read a source, and whether reading it must be awaited (a stream to collect)."""
        if isinstance(source, Listed):
            return self._listed(source, consumer, wanted), True
        if isinstance(source, FromInput):
            slot, attribute = self.slots[f"input.{source.name}"], source.attribute
            if attribute:
                return _converted(lambda run: _field(run.values[slot], attribute), None, wanted), False
            given = self.lowered.graph.inputs.get(source.name)
            if wanted.stream:
                return _streamed(lambda run: run.values[slot], consumer, wanted), False
            return _converted(lambda run: run.values[slot], given, wanted), False
        if isinstance(source, FromStage):
            return self._stage_getter(source, consumer, wanted)
        value = unwrapped(source.value, wanted)
        return lambda run: value, False

    def _stage_getter(self, source: FromStage, consumer: str, wanted: PortType) -> tuple[Getter, bool]:
        slot, attribute = self.slots[source.name], source.attribute
        given = self.types.get(source.name)
        if given is not None and given.stream:
            if wanted.stream:
                return _streamed(lambda run: run.values[slot], consumer, wanted), False
            return lambda run: _collected(run.values[slot], consumer, wanted, given), True
        if attribute:
            return _converted(lambda run: _field(run.values[slot], attribute), None, wanted), False
        if wanted.stream:
            return _streamed(lambda run: run.values[slot], consumer, wanted), False
        return _converted(lambda run: run.values[slot], given, wanted), False

    def _listed(self, source: Listed, consumer: str, wanted: PortType) -> Getter:
        element = wanted.element if wanted.many else PortType(())
        members = [self.getter(member, consumer, element) for member in source.members]

        async def read(run: Run) -> Any:
            values = [await get(run) if waits else get(run) for get, waits in members]
            if source.container == "dict":
                return dict(zip(source.keys, values, strict=True))
            return tuple(values) if source.container == "tuple" else values

        return read

    # -- programs -----------------------------------------------------------------------------------------

    def operators(self, program: Program) -> tuple[Operator, ...]:
        """The flat tuple of a series; one operator for anything else."""
        if program.shape == "series":
            return tuple(self.operator(part) for part in program.parts)
        return (self.operator(program),)

    def operator(self, program: Program) -> Operator:
        if program.step is not None:
            return self.step(program.step)
        if program.shape == "series":
            return _series(tuple(self.operator(part) for part in program.parts))
        if program.shape == "parallel":
            return _parallel([self.operator(part) for part in program.parts])
        parts = {part.step.name: self.operator(part) for part in program.parts if part.step is not None}
        return _knot(parts, program.needs)

    # -- steps --------------------------------------------------------------------------------------------

    def step(self, step: Step) -> Operator:
        if step.view is not None:
            return self._decode(step)
        if step.control == "map":
            return self._map(step)
        if step.control:
            return self._control(step)
        kind = step.kind
        assert kind is not None  # only decode steps have none
        if kind.streams:
            return self._streaming(step, kind)
        return self._plain(step, kind)

    def _plain(self, step: Step, kind: StageKind[..., Any]) -> Operator:
        """A stage that gives one value; user coroutines on one input take a shorter way."""
        bound, slot, dynamic = self.bound[step.name], self.slots[step.name], self.dynamic
        names, getters, waits = self._inputs(step, kind)
        collects = any(waits)
        needed = _needed(kind, names)
        bare = not (kind.params or kind.context_param or kind.session_param or kind.is_class)
        if bare and kind.is_async and kind.max_batch == 1 and len(names) == 1 and not any(waits):
            return _short(step.name, kind, getters[0], bool(needed), slot, bound, dynamic)

        async def operate(run: Run) -> None:
            since = run.request.clock() if collects else None
            inputs = {}
            for name, get, wait in zip(names, getters, waits, strict=True):
                inputs[name] = await get(run) if wait else get(run)
            for name in needed:
                if inputs[name] is None:
                    run.values[slot] = None  # its input is absent: skipped
                    return
            context = StepContext(bound, run.request, dynamic, run.visits)
            run.values[slot] = await run_stage(context, kind, inputs, bound.params, since)

        return _leaving(operate, self._read_streams(step, kind))

    def _read_streams(self, step: Step, kind: StageKind[..., Any]) -> list[tuple[int, str]]:
        """(slot, consumer) of the streams that a step reads as they come: it may leave them early."""
        wanted = {**kind.inputs, "items": PortType((), stream=True)}
        return [
            (self.slots[source.name], step.name)
            for name, source in step.inputs.items()
            if isinstance(source, FromStage) and self._streams(source)
            if name in wanted and wanted[name].stream
        ]

    def _inputs(self, step: Step, kind: StageKind[..., Any]) -> tuple[list[str], list[Getter], list[bool]]:
        names = list(step.inputs)
        anything = kind.open_inputs or PortType(())
        pairs = [self.getter(step.inputs[name], step.name, kind.inputs.get(name, anything)) for name in names]
        return names, [get for get, _ in pairs], [wait for _, wait in pairs]

    def _streaming(self, step: Step, kind: StageKind[..., Any]) -> Operator:
        """Starts the producer in a task of its own, and leaves a channel in the slot."""
        bound, slot, dynamic = self.bound[step.name], self.slots[step.name], self.dynamic
        names, getters, waits = self._inputs(step, kind)
        collects = any(waits)
        needed = _needed(kind, names)
        consumers = self._consumers(step.name)
        bound_size = step.plan.channel
        leave = self._read_streams(step, kind)

        async def operate(run: Run) -> None:
            since = run.request.clock() if collects else None
            inputs = {}
            for name, get, wait in zip(names, getters, waits, strict=True):
                inputs[name] = await get(run) if wait else get(run)
            if any(inputs[name] is None for name in needed):
                run.values[slot] = None
                return
            context = StepContext(bound, run.request, dynamic, run.visits)
            values = stream_stage(context, kind, inputs, bound.params, since)
            if not consumers:  # run for its effect
                async for _ in values:
                    pass
                return
            channel = Channel(bound_size)
            run.values[slot] = _readers(channel, run.request, consumers)
            run.tasks.append(asyncio.ensure_future(_pump(channel, values, run, leave)))

        return operate

    def _decode(self, step: Step) -> Operator:
        view, slot, decoders = step.view, self.slots[step.name], self.dynamic.decoders
        assert view is not None
        codec = find("codecs", view.codec)()
        get, wait = self.getter(step.inputs["payload"], step.name, PortType(()))
        name, mode = step.name, step.plan.decode

        async def operate(run: Run) -> None:
            since = run.request.clock() if wait else None
            payload = await get(run) if wait else get(run)
            if not isinstance(payload, Payload) or not codec.accepts(payload):
                run.values[slot] = payload  # absent, or of another modality: it passes through
                return
            run.values[slot] = await decode(decoders, run.request, name, payload, view, mode, since)

        return operate

    def _map(self, step: Step) -> Operator:
        kind, bound, slot, dynamic = step.kind, self.bound[step.name], self.slots[step.name], self.dynamic
        assert kind is not None
        first, limit, errors = step.params["first"], step.params["concurrency"], step.params["errors"]
        names = list(step.inputs)
        wanted = {name: PortType(()) if name == "items" else kind.inputs[name] for name in names}
        streams = self._streams(step.inputs["items"])
        pairs = {
            name: self.getter(
                step.inputs[name],
                step.name,
                PortType((), stream=True) if name == "items" and streams else wanted[name],
            )
            for name in names
        }
        view = kind.view_of(first, step.params, step.plan.view) if first in kind.views else None

        async def operate(run: Run) -> None:
            clock = run.request.clock
            started, index = clock(), iter(range(1 << 30))
            values = {name: await get(run) if wait else get(run) for name, (get, wait) in pairs.items()}
            items = values.pop("items")
            if items is None:
                run.values[slot] = None
                return

            async def one(member: Any) -> Any:
                child = bound.renamed(f"{step.name}[{next(index)}]")
                context = StepContext(child, run.request, dynamic, run.visits)
                member = unwrapped(kind.inputs[first].coerce(member), kind.inputs[first])
                if member is None and not kind.inputs[first].optional:
                    return None
                if view is not None:
                    member = await decoded(context, first, member, view, step.plan.decode)
                arguments = {**values, first: member}
                if kind.streams:
                    parts = [each async for each in stream_stage(context, kind, arguments, bound.params)]
                    return join(parts, kind.output)
                return await run_stage(context, kind, arguments, bound.params)

            try:
                run.values[slot] = await gather_members(one, items, limit, errors)
            finally:
                run.request.trace.rows.append((step.name, VISIT, started, clock()))

        return _leaving(operate, self._read_streams(step, kind))

    def _consumers(self, name: str) -> list[str]:
        """Who reads a step's stream, once for each port: stages (or their decode steps), "" for the caller."""
        reads = [(user.name, source) for user in self.lowered.steps for source in user.inputs.values()]
        reads.append(("", self.lowered.result))
        return [consumer for consumer, source in reads for _ in range(_feeds(source, name))]

    def _streams(self, source: Source) -> bool:
        given = self.types.get(source.name) if isinstance(source, FromStage) else None
        return given is not None and given.stream

    # -- control ------------------------------------------------------------------------------------------

    def _control(self, step: Step) -> Operator:
        wants_stream = self.types[step.name].stream
        getters = {
            name: self.getter(source, step.name, PortType((), stream=wants_stream and self._streams(source)))
            for name, source in step.inputs.items()
        }
        sides = {name: self.operator(program) for name, program in step.sides.items()}
        decide = getattr(self, f"_{step.control}")(step)
        slot, name = self.slots[step.name], step.name
        consumers = self._consumers(name) if wants_stream else []

        async def value(run: Run, port: str) -> Any:
            if port in sides:
                await sides[port](run)
            get, wait = getters[port]
            return await get(run) if wait else get(run)

        async def operate(run: Run) -> None:
            clock = run.request.clock
            started = clock()
            try:
                given = await decide(run, value)
                run.values[slot] = _shared(given, run, consumers) if len(consumers) > 1 else given
            finally:
                run.request.trace.rows.append((name, VISIT, started, clock()))

        return operate

    def _when(self, step: Step) -> Any:
        async def decide(run: Run, value: Any) -> Any:
            side = "then" if _truth(await value(run, "condition")) else "otherwise"
            return await value(run, side)

        return decide

    def _choose(self, step: Step) -> Any:
        gates: dict[str, Callable[[Any], bool]] = step.params["gates"]
        count = sum(1 for name in step.inputs if name.startswith("value"))

        async def decide(run: Run, value: Any) -> Any:
            for index in range(count):
                gate = f"gate{index}"
                if gate in step.inputs and not _truth(await value(run, gate)):
                    continue
                chosen = await value(run, f"value{index}")
                if gate not in gates or _opens(gates[gate], chosen, step.name):
                    run.request.trace.notes[step.name] = f"option {index + 1} of {count}"
                    return chosen
            raise StageError(
                f"'{step.name}': no option's gate opened", help="end tt.choose with a bare value", code="E408"
            )

        return decide

    def _fallback(self, step: Step) -> Any:
        count = len(step.inputs)

        async def decide(run: Run, value: Any) -> Any:
            for index in range(count):
                try:
                    return await _begun(await value(run, f"value{index}"))
                except TautenError as error:
                    if index == count - 1:
                        raise
                    run.request.trace.notes[f"{step.name}.{index}"] = f"failed: {error.message}"
            raise AssertionError("a fallback has at least one alternative")

        return decide

    def _equals(self, step: Step) -> Any:
        async def decide(run: Run, value: Any) -> bool:
            return bool(_plain(await value(run, "port")) == _plain(await value(run, "value")))

        return decide

    def _default(self, step: Step) -> Any:
        async def decide(run: Run, value: Any) -> Any:
            given = await value(run, "port")
            return await value(run, "value") if given is None else given

        return decide


# -- operators that need no binder --------------------------------------------------------------------------


def _short(
    name: str,
    kind: StageKind[..., Any],
    get: Getter,
    needed: bool,
    slot: int,
    bound: BoundStep,
    dynamic: Dynamic,
) -> Operator:
    """The common step of user code: one input, one value, a coroutine."""
    body = kind.body

    async def operate(run: Run) -> None:
        value = get(run)
        if needed and value is None:
            run.values[slot] = None
            return
        request = run.request
        started = request.clock()
        token = AMBIENT.set(StepContext(bound, request, dynamic, run.visits))
        try:
            run.values[slot] = await body(value)
        except TautenError:
            raise
        except (Exception, SystemExit) as error:
            raise stage_error(name, error) from error
        finally:
            AMBIENT.reset(token)
            ended = request.clock()
            rows = request.trace.rows
            rows.append((name, "user", started, ended))
            rows.append((name, VISIT, started, ended))

    return operate


def _series(operators: tuple[Operator, ...]) -> Operator:
    async def operate(run: Run) -> None:
        for each in operators:
            await each(run)

    return operate


def _parallel(operators: list[Operator]) -> Operator:
    """The caller runs the first branch, each other gets a task; a failure cancels and drains the rest."""
    first, *others = operators

    async def operate(run: Run) -> None:
        async with Siblings([asyncio.ensure_future(each(run)) for each in others]) as siblings:
            for task in siblings.tasks:
                task.add_done_callback(siblings.watch)
            await first(run)
            await asyncio.wait(siblings.tasks)

    return operate


def _knot(operators: dict[str, Operator], needs: dict[str, tuple[str, ...]]) -> Operator:
    """Steps whose order is neither a series nor branches: each waits for those before it."""

    async def operate(run: Run) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}

        async def after(name: str) -> None:
            for before in needs[name]:
                await asyncio.shield(tasks[before])
            await operators[name](run)

        for name in operators:
            tasks[name] = asyncio.ensure_future(after(name))
        try:
            await asyncio.gather(*tasks.values())
        except BaseException:
            await cancel_all(list(tasks.values()))
            raise

    return operate


def _readers(channel: Channel, request: Request, consumers: list[str]) -> Streamed:
    readers: dict[str, list[Reader]] = {}
    for each in consumers:
        readers.setdefault(each, []).append(channel.reader(request.trace, each, request.clock))
    return Streamed(channel, readers)


def _shared(value: Any, run: Run, consumers: list[str]) -> Any:
    """A stream that a control step hands on to several consumers."""
    if not hasattr(value, "__aiter__"):
        return value
    channel = Channel(_SHARED_BOUND)
    streamed = _readers(channel, run.request, consumers)
    run.tasks.append(asyncio.ensure_future(_pump(channel, _values_of(value), run, [])))
    return streamed


async def _values_of(stream: Stream[Any]) -> AsyncIterator[Any]:
    async for value in stream:
        yield value


def _leaving(operate: Operator, streams: list[tuple[int, str]]) -> Operator:
    """A step that ends has left the streams it read, so that it holds nobody back."""
    if not streams:
        return operate

    async def operate_and_leave(run: Run) -> None:
        try:
            await operate(run)
        finally:
            await _leave(run, streams)

    return operate_and_leave


async def _leave(run: Run, streams: list[tuple[int, str]]) -> None:
    for slot, consumer in streams:
        value = run.values[slot]
        if isinstance(value, Streamed):
            for reader in value.readers[consumer]:
                await reader.aclose()
        elif isinstance(value, Stream):
            await value.aclose()


async def _pump(channel: Channel, values: AsyncIterator[Any], run: Run, leave: list[tuple[int, str]]) -> None:
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
        await _leave(run, leave)
        channel.end(error)


def _as_stream(value: Any, consumer: str) -> Stream[Any] | None:
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
    return Stream(_whole(value if isinstance(value, list) else [value]))


async def _whole(values: list[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


def _streamed(get: Getter, consumer: str, wanted: PortType) -> Getter:
    """The stream that a consumer reads, its increments in the type that it wants."""
    if not {str, Text} & set(wanted.kinds):
        return lambda run: _as_stream(get(run), consumer)

    def read(run: Run) -> Stream[Any] | None:
        stream = _as_stream(get(run), consumer)
        return None if stream is None else Stream(_Unwrapping(stream, wanted))

    return read


class _Unwrapping:
    """A stream's increments with text as `wanted` spells it."""

    __slots__ = ("_source", "_stream", "_wanted")

    def __init__(self, stream: Stream[Any], wanted: PortType) -> None:
        self._stream = stream
        self._source = aiter(stream)
        self._wanted = wanted

    def __aiter__(self) -> _Unwrapping:
        return self

    async def __anext__(self) -> Any:
        return unwrapped(await anext(self._source), self._wanted)

    @property
    def step(self) -> str:
        return str(getattr(self._source, "step", ""))

    @step.setter
    def step(self, reader: str) -> None:
        self._stream.relabel(reader)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _begun(value: Any) -> Any:
    """A stream whose first increment came: what fails before it may still fall back."""
    if not isinstance(value, Stream):
        return value
    source = aiter(value)
    try:
        first = await anext(source)
    except StopAsyncIteration:
        return Stream(_whole([]))
    return Stream(_Rest(first, value, source))


class _Rest:
    """A stream after its first increment was looked at."""

    __slots__ = ("_held", "_source", "_stream")

    def __init__(self, first: Any, stream: Stream[Any], source: AsyncIterator[Any]) -> None:
        self._held = [first]
        self._stream = stream
        self._source = source

    def __aiter__(self) -> _Rest:
        return self

    async def __anext__(self) -> Any:
        return self._held.pop() if self._held else await anext(self._source)

    @property
    def step(self) -> str:
        return str(getattr(self._source, "step", ""))

    @step.setter
    def step(self, reader: str) -> None:
        self._stream.relabel(reader)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _collected(value: Any, consumer: str, wanted: PortType, given: PortType) -> Any:
    stream = _as_stream(value, consumer)
    if stream is None:
        return None
    values = await stream.collect()
    return unwrapped(values if wanted.many else join(values, given), wanted)


def _field(value: Any, attribute: str) -> Any:
    for name in attribute.split("."):
        value = None if value is None else getattr(value, name)
    return value


def _converted(get: Getter, given: PortType | None, wanted: PortType) -> Getter:
    """Text and str flow into each other; the conversion is only paid where the types may differ."""
    kinds = wanted.kinds
    if not ({str, Text} & set(kinds)) or (given is not None and given.kinds == kinds):
        return get
    return lambda run: unwrapped(get(run), wanted)


def _needed(kind: StageKind[..., Any], names: list[str]) -> list[str]:
    """Inputs that, when absent, skip the stage."""
    ports = kind.inputs
    return [
        name
        for name in names
        if name in ports and not ports[name].optional and ports[name].kinds not in ((), (Any,))
    ]


def _feeds(source: Source, name: str) -> int:
    """How often a source reads a step."""
    if isinstance(source, FromStage):
        return int(source.name == name)
    return sum(_feeds(member, name) for member in source.members) if isinstance(source, Listed) else 0


def _opens(gate: Callable[[Any], Any], value: Any, step: str) -> bool:
    try:
        return _truth(gate(value))
    except TautenError:
        raise
    except Exception as error:
        raise stage_error(step, error) from error


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, Text) else value


def _truth(value: Any) -> bool:
    if isinstance(value, Text):
        return bool(value.text.strip())
    try:
        return bool(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a condition of type {value.__class__.__name__} is neither true nor false: {error}",
            help="give a stage that returns a bool",
            code="E206",
        ) from error
