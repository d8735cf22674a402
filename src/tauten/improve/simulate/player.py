"""Plays tapes: stage kinds whose code is what a request was seen to do there, and nothing else.

The engine, the plan's order, its deployments and threads are the real ones. A played stage asks them for what
the tape says, lets the machine pass the time of its own code, and hands on the value that the real one gave.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from tauten.clock import Clock
from tauten.describe.graph import Graph, Stage
from tauten.describe.payload import Payload
from tauten.describe.ports import PortType
from tauten.describe.stage import StageKind
from tauten.describe.view import Pixels, View
from tauten.improve.simulate.machine import Machine
from tauten.improve.simulate.models import Spending
from tauten.improve.simulate.tape import Event, Part, Tape
from tauten.run.context import StepContext
from tauten.run.decode.decoders import Decoded, Decoders, Mode
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.job import Job
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.request import LOWEST, Asked, Request
from tauten.run.siblings import cancel_all
from tauten.run.visits import base_name

GAP_S = 0.0002  # between what is given at once and what is not: a step prepares one item after the other
_CONTEXT = "_context"  # no input of a stage is called so
_PROMPT = "p" * (1 << 20)  # what streams are said to read: only its length matters


class Played(Request):
    """A request that does on a machine what a tape says."""

    __slots__ = ("carried_s", "machine", "tape")

    def __init__(self, tape: Tape, machine: Machine, clock: Clock, **fields: Any) -> None:
        super().__init__(clock, **fields)
        self.teaches = False
        self.tape = tape
        self.machine = machine
        self.carried_s = 0.0  # of its steps' own code, that is due: too short to be played by itself

    def owns(self, seconds: float, held: float) -> bool:
        """Whether the code of a step takes so long that it is now to be waited for, by `own`; what is too short, and
        what meets nobody, is over at once."""
        self.carried_s = seconds = self.carried_s + seconds
        if seconds <= self.tape.short_s:
            return False
        if held >= 1.0 and self.machine.loop.passes(seconds * held):
            self.carried_s = 0.0
            return False
        return True

    async def own(self, held: float) -> None:
        """Let the code of a step take what has come together: a share of it holds the event loop, in the rest it
        waits."""
        seconds, self.carried_s = self.carried_s, 0.0
        if held > 0.0:
            await self.machine.loop.work(seconds * held)
        if held < 1.0:
            await asyncio.sleep(seconds * (1.0 - held))

    def behind(self) -> Request:
        """As of any request; what is computed behind it takes its time, too."""
        behind = Played(self.tape, self.machine, self.clock, id=self.id, tenant=self.tenant, priority=LOWEST)
        behind.partition, behind.plan = self.partition, self.plan
        return behind

    def unseen(self) -> None:
        """Nobody will look at where its time went: rows are not kept."""
        trace: Any = self.trace
        trace.rows, trace.calls = _NOWHERE, _NOWHERE


_NOWHERE: deque[Any] = deque(maxlen=0)  # what is appended to it is gone


def played(graph: Graph) -> Graph:
    """The same graph, of the same identity, whose stages play."""
    stages = {
        name: stage if stage.control not in ("", "map") else replace(stage, kind=_played(stage))
        for name, stage in graph.stages.items()
    }
    return replace(graph, stages=stages)


class _AsItComes(PortType, frozen=True):
    """A port that takes what stands for a value as it would take the value."""

    def coerce(self, value: object) -> object:
        return value


def _played(stage: Stage) -> StageKind[..., Any]:
    """The kind of a stage; of a map the input that it fans out takes any member."""
    kind = _kind(stage.kind)
    if stage.control == "map":
        name = stage.params["first"]
        port = kind.inputs[name]
        member = _AsItComes(port.kinds, optional=port.optional, many=port.many, stream=port.stream)
        kind.inputs = {**kind.inputs, name: member}
    return kind


def _kind(kind: StageKind[..., Any]) -> StageKind[..., Any]:
    """A kind of the same name, ports, roles and views, whose code plays."""
    new = copy.copy(kind)
    new.__dict__["deployed"] = kind.deployed  # its own code keeps the threads that it had
    new.body = _stream if kind.streams else _play
    new.is_async, new.is_generator, new.is_class = True, kind.streams, False
    new.context_param, new.session_param = _CONTEXT, ""
    new.prepare = None
    return new


async def _play(*, _context: StepContext, **inputs: Any) -> Any:
    context = _context
    request = _request(context)
    visit = request.tape.visits.get(context.name)
    if visit is not None:
        held, reading = visit.held, _Reading(inputs)
        for level in visit.levels:
            if level.needs:
                await reading.until(level.needs)
            if request.owns(level.gap_s, held):
                await request.own(held)
            if len(level.chains) == 1:
                await _follow(context, request, level.chains[0], held)
            elif level.chains:
                await _ask(context, request, level.chains, held)
        if request.owns(visit.tail_s, held):
            await request.own(held)
    return _value(request.tape, context.name)


async def _stream(*, _context: StepContext, **inputs: Any) -> AsyncIterator[Any]:
    """As `_play`, with a first increment and a last one; what they are nobody looks at."""
    context = _context
    request = _request(context)
    visit = request.tape.visits.get(context.name)
    if visit is None:
        return
    held, reading, given = visit.held, _Reading(inputs), 0
    for level in visit.levels:
        if level.needs:
            await reading.until(level.needs)
        if request.owns(level.gap_s, held):
            await request.own(held)
        await _ask(context, request, [chain for chain in level.chains if not chain[0].stream], held)
        for chain in level.chains:
            if chain[0].stream:
                async for _ in _streamed(context, chain[0]):
                    yield (given := given + 1)
                await _follow(context, request, chain[1:], held)
        if level.gives:
            yield (given := given + 1)
    if request.owns(visit.tail_s, held):
        await request.own(held)


class _Reading:
    """The streams among a stage's inputs, read as far as its tape says."""

    __slots__ = ("streams",)

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.streams = [aiter(value) for value in inputs.values() if hasattr(value, "__aiter__")]

    async def until(self, part: Part) -> None:
        for stream in self.streams:
            if part == "first":
                await anext(stream, None)
            else:
                async for _ in stream:
                    pass


def _request(context: StepContext) -> Played:
    request = context.request
    assert isinstance(request, Played)  # simulated engines run no others
    return request


def _value(tape: Tape, visit: str) -> Any:
    """What the real stage gave; of a member of a map its part."""
    name = base_name(visit)
    value = tape.values.get(name)
    if name == visit or not isinstance(value, list):
        return value
    index = int(visit[len(name) + 1 : -1])
    return value[index] if index < len(value) else None


async def _ask(context: StepContext, request: Played, chains: Sequence[Sequence[Event]], held: float) -> None:
    """Go all of these ways side by side, and wait until all are over."""
    if len(chains) < 2:
        for chain in chains:
            await _follow(context, request, chain, held)
        return
    asked, longer = _Together(context), []
    try:
        for chain in chains:
            if not asked.submit(chain):
                longer.append(asyncio.ensure_future(_follow(context, request, chain, held)))
        await asked.over()
        for task in longer:
            await task
    except BaseException:
        asked.leave()
        await cancel_all(longer)
        raise


async def _follow(context: StepContext, request: Played, chain: Sequence[Event], held: float) -> None:
    """Ask for one after another."""
    for event in chain:
        if event.gap_s and request.owns(event.gap_s, held):
            await request.own(held)
        if event.stream:
            async for _ in _streamed(context, event):
                pass
            continue
        place = context.bound.deployments.get(event.role)
        if isinstance(place, Deployment):
            await place.infer(request, context.name, event)
        else:
            await context.work(Spending(request.machine, event.seconds))


async def _streamed(context: StepContext, event: Event) -> AsyncIterator[Any]:
    place = context.bound.deployments[event.role]
    assert isinstance(place, SlotDeployment)  # it streamed when it was recorded
    item = {"event": event, "prompt": _PROMPT[: round(event.weight * 4)], "max_tokens": event.tokens}
    chunks = place.stream(context.request, context.name, item)
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        await chunks.aclose()  # type: ignore[attr-defined]


class _Together:
    """Items that a stage gives at once, and waits for without a task for each."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.waiting: list[tuple[Deployment, Job, _Waiter]] = []
        self.left = 0
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def submit(self, chain: Sequence[Event]) -> bool:
        """Give one that stands alone to its deployment; false for longer ones, and where there is no deployment of
        batches."""
        context, event = self.context, chain[0]
        place = context.bound.deployments.get(event.role)
        alone = len(chain) == 1 and event.gap_s <= GAP_S
        if not alone or event.stream or not isinstance(place, Deployment):
            return False
        waiter = _Waiter(self)
        job = place.submit(context.request, context.name, event, waiter)
        self.waiting.append((place, job, waiter))
        self.left += 1
        return True

    async def over(self) -> None:
        if self.left:
            await self.future
        for place, job, _ in self.waiting:
            place.result(self.context.request.trace, self.context.name, job)

    def told(self) -> None:
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(None)

    def leave(self) -> None:
        """The request ended before them."""
        for place, job, waiter in self.waiting:
            if not waiter.over:
                waiter.over = True
                place.leave(job)


class _Waiter:
    __slots__ = ("over", "together")

    def __init__(self, together: _Together) -> None:
        self.together = together
        self.over = False

    def done(self) -> bool:
        return self.over

    def set_result(self, _: None, /) -> None:
        self.over = True
        self.together.told()


class PlayedDecoders(Decoders):
    """Decodes nothing: it takes the time that the tape says."""

    async def decode(
        self,
        payload: Payload,
        view: View,
        *,
        mode: Mode = "thread",
        request: Asked | None = None,
        step: str = "",
    ) -> Decoded:
        assert isinstance(request, Played)  # as above
        crew, now = self.crew(mode), request.clock()
        visit = request.tape.visits.get(step)
        first = next(visit.events(), None) if visit is not None else None
        if first is None:
            return _Seen(payload, view), now, now
        job = await crew.call(request, step, Spending(request.machine, first.seconds))
        return _Seen(payload, view), job.started, job.ended


class _Seen(Pixels):
    """A decoded view that nobody looks at; caches ask for its name."""

    __slots__ = ("payload", "view")
    payload: Payload
    view: View

    def __init__(self, payload: Payload, view: View) -> None:
        object.__setattr__(self, "payload", payload)
        object.__setattr__(self, "view", view)

    @property
    def name(self) -> str:  # made when it is asked for
        return f"{self.payload.hash}/{self.view.name}"
