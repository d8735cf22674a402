"""Binds a lowered program to running things: each step becomes one small coroutine over value slots.

A straight line is a flat tuple of operators and costs no task; n branches cost n-1 tasks, with sibling
cancel and drain; only a streamed edge has a task and a bounded channel.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
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
    StepContext,
    cancel_all,
    gather_members,
    join,
    run_stage,
    stage_error,
    stream_stage,
)
from tauten.run.contracts import find
from tauten.run.decoders import Decoders
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


Operator = Callable[[Run], Awaitable[None]]
Getter = Callable[[Run], Any]


class Streamed:
    """A streamed value in its slot: the channel and one reader per consumer."""

    __slots__ = ("channel", "readers")

    def __init__(self, channel: Channel, readers: dict[str, Reader]) -> None:
        self.channel = channel
        self.readers = readers


class Binder:
    """Makes operators of one lowered program. `bound` holds each step's models and files."""

    def __init__(
        self,
        lowered: Lowered,
        bound: Mapping[str, BoundStep],
        dynamic: Dynamic,
        decoders: Decoders,
    ) -> None:
        self.lowered = lowered
        self.bound = bound
        self.dynamic = dynamic
        self.decoders = decoders
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
            return self._listed(source, consumer), True
        if isinstance(source, FromInput):
            slot = self.slots[f"input.{source.name}"]
            return _converted(
                lambda run: run.values[slot], self.lowered.graph.inputs.get(source.name), wanted
            ), False
        if isinstance(source, FromStage):
            return self._stage_getter(source, consumer, wanted)
        value = source.value
        return lambda run: value, False

    def _stage_getter(self, source: FromStage, consumer: str, wanted: PortType) -> tuple[Getter, bool]:
        slot, attribute = self.slots[source.name], source.attribute
        given = self.types.get(source.name)
        if given is not None and given.stream:
            if wanted.stream:
                return lambda run: _as_stream(run.values[slot], consumer), False
            return lambda run: _collected(run.values[slot], consumer, wanted), True
        if attribute:
            return lambda run: _field(run.values[slot], attribute), False
        return _converted(lambda run: run.values[slot], given, wanted), False

    def _listed(self, source: Listed, consumer: str) -> Getter:
        members = [self.getter(member, consumer, PortType(())) for member in source.members]

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
        needed = _needed(kind, names)
        bare = not (kind.params or kind.context_param or kind.session_param or kind.is_class)
        if bare and kind.is_async and kind.max_batch == 1 and len(names) == 1 and not any(waits):
            return _short(step.name, kind, getters[0], bool(needed), slot, bound, dynamic)

        async def operate(run: Run) -> None:
            inputs = {}
            for name, get, wait in zip(names, getters, waits, strict=True):
                inputs[name] = await get(run) if wait else get(run)
            for name in needed:
                if inputs[name] is None:
                    run.values[slot] = None  # its input is absent: skipped
                    return
            context = StepContext(bound, run.request, dynamic, run.visits)
            run.values[slot] = await run_stage(context, kind, inputs, bound.params)

        return operate

    def _inputs(self, step: Step, kind: StageKind[..., Any]) -> tuple[list[str], list[Getter], list[bool]]:
        names = list(step.inputs)
        anything = kind.open_inputs or PortType(())
        pairs = [self.getter(step.inputs[name], step.name, kind.inputs.get(name, anything)) for name in names]
        return names, [get for get, _ in pairs], [wait for _, wait in pairs]

    def _streaming(self, step: Step, kind: StageKind[..., Any]) -> Operator:
        """Starts the producer in a task of its own, and leaves a channel in the slot."""
        bound, slot, dynamic = self.bound[step.name], self.slots[step.name], self.dynamic
        names, getters, waits = self._inputs(step, kind)
        needed = _needed(kind, names)
        consumers = [name for name, _ in self.lowered.graph.consumers(step.name)]
        consumers += [""] if _feeds(self.lowered.result, step.name) else []
        bound_size = step.plan.channel

        async def operate(run: Run) -> None:
            inputs = {}
            for name, get, wait in zip(names, getters, waits, strict=True):
                inputs[name] = await get(run) if wait else get(run)
            if any(inputs[name] is None for name in needed):
                run.values[slot] = None
                return
            channel = Channel(bound_size)
            trace, clock = run.request.trace, run.request.clock
            readers = {each: channel.reader(trace, each, clock) for each in consumers}
            run.values[slot] = Streamed(channel, readers)
            context = StepContext(bound, run.request, dynamic, run.visits)
            run.tasks.append(asyncio.ensure_future(_pump(channel, context, kind, inputs)))

        return operate

    def _decode(self, step: Step) -> Operator:
        view, slot, decoders = step.view, self.slots[step.name], self.decoders
        assert view is not None
        codec = find("codecs", view.codec)()
        get, _ = self.getter(step.inputs["payload"], step.name, PortType(()))
        name, mode = step.name, step.plan.decode

        async def operate(run: Run) -> None:
            payload = get(run)
            if not isinstance(payload, Payload) or not codec.accepts(payload):
                run.values[slot] = payload  # absent, or of another modality: it passes through
                return
            request = run.request
            clock, rows = request.clock, request.trace.rows
            asked = clock()
            value, started, ended = await decoders.decode(payload, view, mode=mode)
            done = clock()
            rows.append((name, "queue", asked, started))
            rows.append((name, "decode", started, ended))
            rows.append((name, "loop", ended, done))
            rows.append((name, VISIT, asked, done))
            run.values[slot] = value

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
        view = kind.views.get(first)

        async def operate(run: Run) -> None:
            values = {name: await get(run) if wait else get(run) for name, (get, wait) in pairs.items()}
            items = values.pop("items")
            if items is None:
                run.values[slot] = None
                return
            clock = run.request.clock
            started, index = clock(), iter(range(1 << 30))

            async def one(member: Any) -> Any:
                child = bound.renamed(f"{step.name}[{next(index)}]")
                context = StepContext(child, run.request, dynamic, run.visits)
                if view is not None:
                    member = await self._view(context, member, view, step)
                arguments = {**values, first: member}
                if kind.is_generator:
                    return join([each async for each in stream_stage(context, kind, arguments, bound.params)])
                return await run_stage(context, kind, arguments, bound.params)

            try:
                run.values[slot] = await gather_members(one, items, limit, errors)
            finally:
                run.request.trace.rows.append((step.name, VISIT, started, clock()))

        return operate

    async def _view(self, context: StepContext, member: Any, view: Any, step: Step) -> Any:
        """Decode one member of a map as its stage wants to see it."""
        codec = find("codecs", view.codec)()
        if not isinstance(member, Payload) or not codec.accepts(member):
            return member
        clock, rows, name = context.request.clock, context.request.trace.rows, context.bound.name
        asked = clock()
        value, started, ended = await self.decoders.decode(
            member, view.with_params(**step.plan.view), mode=step.plan.decode
        )
        rows.append((name, "queue", asked, started))
        rows.append((name, "decode", started, ended))
        return value

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

        async def value(run: Run, port: str) -> Any:
            if port in sides:
                await sides[port](run)
            get, wait = getters[port]
            return await get(run) if wait else get(run)

        async def operate(run: Run) -> None:
            clock = run.request.clock
            started = clock()
            try:
                run.values[slot] = await decide(run, value)
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
                if gate not in gates or gates[gate](chosen):
                    run.request.trace.notes[step.name] = f"option {index + 1} of {count}"
                    return chosen
            raise StageError(
                f"'{step.name}': no option's gate opened", help="end tt.choose with a bare value"
            )

        return decide

    def _fallback(self, step: Step) -> Any:
        count = len(step.inputs)

        async def decide(run: Run, value: Any) -> Any:
            for index in range(count):
                try:
                    return await value(run, f"value{index}")
                except TautenError as error:
                    if index == count - 1:
                        raise
                    run.request.trace.notes[f"{step.name}.{index}"] = f"failed: {error.message}"
            raise AssertionError("a fallback has at least one alternative")

        return decide

    def _equals(self, step: Step) -> Any:
        async def decide(run: Run, value: Any) -> bool:
            return _plain(await value(run, "port")) == _plain(await value(run, "value"))

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
        except Exception as error:
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
        tasks = [asyncio.ensure_future(each(run)) for each in others]
        try:
            await first(run)
            for task in tasks:
                await task
        except BaseException:
            await cancel_all(tasks)  # type: ignore[arg-type]
            raise

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


async def _pump(
    channel: Channel, context: StepContext, kind: StageKind[..., Any], inputs: dict[str, Any]
) -> None:
    """Move a streaming stage's values into its channel; its end or failure reaches the readers."""
    clock, rows = context.request.clock, context.request.trace.rows
    started = clock()
    error: BaseException | None = None
    values = stream_stage(context, kind, inputs, context.bound.params)
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
        rows.append((context.bound.name, VISIT, started, clock()))
        channel.end(error)


def _as_stream(value: Streamed | Stream[Any] | None, consumer: str) -> Stream[Any] | None:
    """A consumer's end of a streamed slot; a control step has passed its own end on."""
    return Stream(value.readers[consumer]) if isinstance(value, Streamed) else value


async def _collected(value: Streamed | Stream[Any] | None, consumer: str, wanted: PortType) -> Any:
    stream = _as_stream(value, consumer)
    if stream is None:
        return None
    values = await stream.collect()
    return values if wanted.many else _unwrapped(join(values), wanted)


def _field(value: Any, attribute: str) -> Any:
    return None if value is None else getattr(value, attribute)


def _converted(get: Getter, given: PortType | None, wanted: PortType) -> Getter:
    """Text and str flow into each other; the conversion is only paid where the types may differ."""
    kinds = wanted.kinds
    if not ({str, Text} & set(kinds)) or (given is not None and given.kinds == kinds):
        return get
    return lambda run: _unwrapped(get(run), wanted)


def _unwrapped(value: Any, wanted: PortType) -> Any:
    if isinstance(value, Text) and str in wanted.kinds and Text not in wanted.kinds:
        return value.text
    if isinstance(value, str) and Text in wanted.kinds and str not in wanted.kinds:
        return Text(value)
    return value


def _needed(kind: StageKind[..., Any], names: list[str]) -> list[str]:
    """Inputs that, when absent, skip the stage."""
    ports = kind.inputs
    return [
        name
        for name in names
        if name in ports and not ports[name].optional and ports[name].kinds not in ((), (Any,))
    ]


def _feeds(result: Source, name: str) -> bool:
    if isinstance(result, FromStage):
        return result.name == name
    return isinstance(result, Listed) and any(_feeds(member, name) for member in result.members)


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
