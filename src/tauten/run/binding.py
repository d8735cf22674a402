"""Binds a lowered program to running things: each step becomes one small coroutine over value slots.

A straight line is a flat tuple of operators and costs no task; n branches cost n-1 tasks, with sibling
cancel and drain; only a streamed edge has a task and a bounded channel.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tauten.describe.graph import FromInput, FromStage, Listed, Source
from tauten.describe.payload import Payload, Text
from tauten.describe.ports import PortType
from tauten.describe.stage import AMBIENT, StageKind
from tauten.errors import TautenError
from tauten.plan.lower import Lowered, Program, Step
from tauten.run.bound import BoundStep, Dynamic
from tauten.run.channel import Channel
from tauten.run.context import StepContext
from tauten.run.contracts import find
from tauten.run.control import decider
from tauten.run.siblings import Siblings, cancel_all, gather_members
from tauten.run.slots import (
    Getter,
    Operator,
    Run,
    as_wanted_stream,
    collected,
    leaving,
    pump,
    readers_for,
    shared,
)
from tauten.run.staging import decode, decoded, run_stage, stage_error, stream_stage
from tauten.run.trace import VISIT
from tauten.run.values import field_of, join, unwrapped


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
                return _converted(lambda run: field_of(run.values[slot], attribute), None, wanted), False
            given = self.lowered.graph.inputs.get(source.name)
            if wanted.stream:
                return as_wanted_stream(lambda run: run.values[slot], consumer, wanted), False
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
                return as_wanted_stream(lambda run: run.values[slot], consumer, wanted), False
            return lambda run: collected(run.values[slot], consumer, wanted, given), True
        if attribute:
            return _converted(lambda run: field_of(run.values[slot], attribute), None, wanted), False
        if wanted.stream:
            return as_wanted_stream(lambda run: run.values[slot], consumer, wanted), False
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
        bare = not (kind.params or kind.context_param or kind.session_param or kind.is_class or bound.results)
        if bare and kind.is_async and kind.max_batch == 1 and len(names) == 1 and not any(waits):
            short = _short(step.name, kind, getters[0], bool(needed), slot, bound, dynamic)
            return leaving(short, self._read_streams(step, kind))

        async def operate(run: Run) -> None:
            clock = run.request.clock
            since = clock() if collects else None
            inputs = {}
            for name, get, wait in zip(names, getters, waits, strict=True):
                inputs[name] = await get(run) if wait else get(run)
            for name in needed:
                if inputs[name] is None:
                    run.values[slot] = None  # its input is absent: skipped
                    return
            run.begins(clock() if since is None else since)
            context = StepContext(bound, run.request, dynamic, run.visits)
            try:
                run.values[slot] = await run_stage(context, kind, inputs, bound.params, since)
            finally:
                run.free = clock()

        return leaving(operate, self._read_streams(step, kind))

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
        needed = _needed(kind, names)
        consumers = self._consumers(step.name)
        bound_size = step.plan.channel
        leave = self._read_streams(step, kind)

        async def operate(run: Run) -> None:
            since = run.request.clock()
            run.begins(since)
            inputs = {}
            for name, get, wait in zip(names, getters, waits, strict=True):
                inputs[name] = await get(run) if wait else get(run)
            run.free = run.request.clock()  # what it waited for is in the visit of its task
            if any(inputs[name] is None for name in needed):
                run.values[slot] = None
                return
            context = StepContext(bound, run.request, dynamic, run.visits)
            values = stream_stage(context, kind, inputs, bound.params, since)
            if not consumers:  # run for its effect
                async for _ in values:
                    pass
                return
            channel = Channel(bound_size, run.channels)
            run.values[slot] = readers_for(channel, run.request, consumers)
            run.tasks.append(asyncio.ensure_future(pump(channel, values, run, leave)))

        return operate

    def _decode(self, step: Step) -> Operator:
        view, slot, dynamic = step.view, self.slots[step.name], self.dynamic
        assert view is not None
        codec = find("codecs", view.codec)()
        get, wait = self.getter(step.inputs["payload"], step.name, PortType(()))
        name, mode = step.name, step.plan.decode
        views = self.bound[name.rpartition(".")[0]].views  # of the stage that it is named after

        async def operate(run: Run) -> None:
            clock = run.request.clock
            since = clock() if wait else None
            payload = await get(run) if wait else get(run)
            if not isinstance(payload, Payload) or not codec.accepts(payload):
                run.values[slot] = payload  # absent, or of another modality: it passes through
                return
            run.begins(clock() if since is None else since)
            try:
                run.values[slot] = await decode(dynamic, run.request, name, payload, view, mode, since, views)
            finally:
                run.free = clock()

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
            clock, index = run.request.clock, iter(range(1 << 30))
            started = clock()
            run.begins(started)
            run.free = started
            values = {name: await get(run) if wait else get(run) for name, (get, wait) in pairs.items()}
            items = values.pop("items")
            if items is None:
                run.values[slot] = None
                return

            async def one(member: Any) -> Any:
                run.begins(clock())
                member_name = f"{step.name}[{next(index)}]"
                context = StepContext(bound, run.request, dynamic, run.visits, member_name)
                member = unwrapped(kind.inputs[first].coerce(member), kind.inputs[first])
                if member is None and not kind.inputs[first].optional:
                    return None
                try:
                    if view is not None:
                        member = await decoded(context, first, member, view, step.plan.decode)
                    arguments = {**values, first: member}
                    if kind.streams:
                        parts = [each async for each in stream_stage(context, kind, arguments, bound.params)]
                        return join(parts, kind.output)
                    return await run_stage(context, kind, arguments, bound.params)
                finally:
                    run.free = clock()

            family = run.request.family(step.name)
            run.values[slot] = await gather_members(one, items, limit, errors, family)

        return leaving(operate, self._read_streams(step, kind))

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
        decide = decider(step, self.bound, self.slots, self.dynamic.prices, self.types[step.name])
        slot, name = self.slots[step.name], step.name
        consumers = self._consumers(name) if wants_stream else []

        def decided(run: Run) -> None:
            """What passed since the last step ended was the decision; a control step has no visit."""
            now = run.request.clock()
            run.request.trace.rows.append((name, "route", run.free, now))
            run.free = now

        async def value(run: Run, port: str) -> Any:
            if port in sides:
                decided(run)
                await sides[port](run)
            get, wait = getters[port]
            return await get(run) if wait else get(run)

        async def operate(run: Run) -> None:
            try:
                given = await decide(run, value)
                run.values[slot] = shared(given, run, consumers) if len(consumers) > 1 else given
            finally:
                decided(run)

        return operate


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
        rows = request.trace.rows
        started = request.clock()
        rows.append(("", "loop", run.free, started))
        token = AMBIENT.set(StepContext(bound, request, dynamic, run.visits))
        try:
            run.values[slot] = await body(value)
        except TautenError:
            raise
        except (Exception, SystemExit) as error:
            raise stage_error(name, error) from error
        finally:
            AMBIENT.reset(token)
            run.free = ended = request.clock()
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
        create = asyncio.get_running_loop().create_task
        branches = [run.branch() for _ in others]
        tasks = [create(each(branch)) for each, branch in zip(others, branches, strict=True)]
        async with Siblings(tasks) as siblings:
            for task in tasks:
                task.add_done_callback(siblings.watch)
            await first(run)
            for task in tasks:
                await task
        run.free = max(run.free, *[branch.free for branch in branches])

    return operate


def _knot(operators: dict[str, Operator], needs: dict[str, tuple[str, ...]]) -> Operator:
    """Steps whose order is neither a series nor branches: each waits for those before it."""

    async def operate(run: Run) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}
        branches = {name: run.branch() for name in operators}

        async def after(name: str) -> None:
            branch = branches[name]
            for before in needs[name]:
                await asyncio.shield(tasks[before])
                branch.free = max(branch.free, branches[before].free)
            await operators[name](branch)

        for name in operators:
            tasks[name] = asyncio.ensure_future(after(name))
        try:
            await asyncio.gather(*tasks.values())
        except BaseException:
            await cancel_all(list(tasks.values()))
            raise
        run.free = max(branch.free for branch in branches.values())

    return operate


def _converted(get: Getter, given: PortType | None, wanted: PortType) -> Getter:
    """Text and str flow into each other; the conversion is only paid where the types may differ."""
    kinds = wanted.kinds
    if not ({str, Text} & set(kinds)) or (given is not None and given.kinds == kinds):
        return get
    return lambda run: unwrapped(get(run), wanted)


def _needed(kind: StageKind[..., Any], names: list[str]) -> list[str]:
    """Inputs that, when absent, skip the stage."""
    return [name for name in names if name in kind.required]


def _feeds(source: Source, name: str) -> int:
    """How often a source reads a step."""
    if isinstance(source, FromStage):
        return int(source.name == name)
    return sum(_feeds(member, name) for member in source.members) if isinstance(source, Listed) else 0
