"""Tapes: what one request did, step by step, so that it can be done again in virtual time under another plan.

Inside a visit what was asked of models and threads is kept in levels: what began before all that was asked
earlier had come back belongs to the same level. A level is played as chains side by side: what was asked follows
what had come back just before it. Between levels lies the step's own code. Streams between steps are kept by
their first and their last increment; where a map takes them one by one, by every one. What is decoded for a member of
a map belongs to its visit: no other step does it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from tauten.describe.graph import stages_in
from tauten.plan.lower import Lowered, Step
from tauten.run.trace import VISIT, Invocation, Trace
from tauten.run.visits import base_name

Part = Literal["", "first", "more", "end"]
Given = tuple[Part, float]
"""Which increment it is, and when it was there."""

BODY, CREW = "body", ""  # roles: a stage's own code in a deployment of its own, and threads that all share
_SAME_S = 2e-6  # instants that differ by less were one turn of the loop


class Event(msgspec.Struct, frozen=True):
    """One thing that a visit asks of a place where it may have to wait."""

    role: str  # of its step
    seconds: float  # that its run took, the whole batch's where it shared one
    weight: float = 1.0
    total: float = 1.0  # weight of its batch
    group: Any = None
    tokens: float = 0.0  # of a stream: given
    fresh: float = 0.0  # of its prompt: not cached
    first_s: float = 0.0  # until its first increment
    stream: bool = False
    gap_s: float = 0.0  # after the one before it in its chain, or after its level began
    slow: float = 1.0  # times longer than the cost of its model says that it took
    slow_tokens: float = 1.0  # of a stream, after its first increment

    def rest_s(self, token_s: float) -> float:
        """Seconds of a stream after its first increment, at so many a token; as many as they were where there is no
        second token to count by: sound, and answers of one word."""
        if self.tokens > 1.0:
            return (self.tokens - 1.0) * token_s
        return max(0.0, self.seconds - self.first_s)


class Level(msgspec.Struct, frozen=True):
    """What is asked at once, `gap_s` of the step's own code after all before it, and after a part of its streams."""

    gap_s: float
    chains: tuple[tuple[Event, ...], ...] = ()
    needs: Part = ""  # of the increments that it reads
    gives: Part = ""  # of its own, once it is over


class Visit(msgspec.Struct, frozen=True):
    """One stay of a request in a step."""

    levels: tuple[Level, ...]
    tail_s: float = 0.0  # its own code after the last level
    held: float = 1.0  # share of its own code in which the event loop does nothing else; in the rest it waits

    def own_s(self) -> float:
        """Seconds of its own code."""
        gaps = sum(event.gap_s for event in self.events()) + sum(level.gap_s for level in self.levels)
        return gaps + self.tail_s

    def events(self) -> Iterator[Event]:
        """All that it asks for."""
        return (event for level in self.levels for chain in level.chains for event in chain)

    def changed(self, change: Callable[[Event], Event]) -> Visit:
        """With every event changed, in the order in which `events` tells them."""
        levels = tuple(
            replace(level, chains=tuple(tuple(change(event) for event in chain) for chain in level.chains))
            for level in self.levels
        )
        return replace(self, levels=levels)

    def at_pace(self, times: float, elsewhere: Collection[str] = ()) -> Visit:
        """As where what is computed takes so many times as long; not what roles do `elsewhere`, nor what is waited for."""
        own = 1.0 + (times - 1.0) * self.held

        def longer(event: Event) -> Event:
            run = 1.0 if event.role in elsewhere else times
            return replace(
                event, seconds=event.seconds * run, first_s=event.first_s * run, gap_s=event.gap_s * own
            )

        changed = self.changed(longer)
        levels = tuple(replace(level, gap_s=level.gap_s * own) for level in changed.levels)
        return replace(changed, levels=levels, tail_s=self.tail_s * own)


class Tape(msgspec.Struct, frozen=True):
    """One request: its visits by name, and what its steps gave, as far as others decide by it."""

    id: str
    inputs: Mapping[str, Any]
    visits: Mapping[str, Visit]
    values: Mapping[str, Any]
    seconds: float  # that it took when it was recorded
    first_s: float
    short_s: float = 0.0  # pieces of own code are added up to this

    def at_pace(self, times: float, elsewhere: Mapping[str, Collection[str]]) -> Tape:
        """As where what is computed takes so many times as long; `elsewhere` are roles by step."""
        visits = {
            name: visit.at_pace(times, elsewhere.get(base_name(name), ()))
            for name, visit in self.visits.items()
        }
        return replace(self, visits=visits, seconds=self.seconds * times, first_s=self.first_s * times)


def tape(
    id: str,
    inputs: Mapping[str, Any],
    trace: Trace,
    lowered: Lowered,
    values: Mapping[str, Any],
    loop_s: float = math.inf,
) -> Tape:
    """The tape of a finished request of a drawn workflow; `values` are its steps' results. `loop_s` is what the event
    loop's thread has computed for it: what its steps' own code took beyond that they waited for something."""
    reader = _Reader(trace, lowered)
    visits = {name: reader.visit(name) for name in reader.stays if base_name(name) in reader.steps}
    own_s = sum(visit.own_s() for visit in visits.values())
    if own_s > loop_s:
        visits = {name: replace(visit, held=loop_s / own_s) for name, visit in visits.items()}
    first = trace.end if trace.first_output is None else trace.first_output
    return Tape(id, inputs, visits, values, trace.end - trace.start, first - trace.start)


class _Reader:
    """Reads one trace."""

    def __init__(self, trace: Trace, lowered: Lowered) -> None:
        self.steps = {step.name: step for step in lowered.steps}
        self.stays: dict[str, tuple[float, float]] = {}
        self.given: dict[str, list[float]] = {}  # when each increment of a stream was there
        for step, cause, start, end in trace.rows:
            if cause == VISIT:
                self.stays[step] = (start, end)
            elif cause == "user":
                self.given.setdefault(step, []).append(end)
        self.calls: dict[str, list[Invocation]] = {}
        for call in trace.invocations:
            self.calls.setdefault(call.step, []).append(call)
        self.decodes: dict[str, list[str]] = {}  # for a member of a map: decode steps that no plan has
        for name in self.stays:
            member = name.rpartition(".")[0]
            if member.endswith("]") and base_name(name) not in self.steps:
                self.decodes.setdefault(member, []).append(name)
        maps = [step for step in lowered.steps if step.control == "map"]
        self.mapped = {name for step in maps for name in self._handed(stages_in(step.inputs["items"]))}
        self.batches: dict[tuple[str, float, float], float] = {}  # weight, by place and run
        for call in trace.invocations:
            run = (call.place, call.started, call.ended)
            self.batches[run] = self.batches.get(run, 0.0) + call.weight

    def visit(self, name: str) -> Visit:
        step = self.steps[base_name(name)]
        parts = [name, *self.decodes.get(name, ())]
        calls = sorted(
            (call for each in parts for call in self.calls.get(each, ())), key=lambda call: call.asked
        )
        marks = self._marks(step) if step.control != "map" else None  # the map reads, its members do not
        given = self._own(step, name, marks)
        events = [(call, self._event(step, call, given)) for call in calls]
        began = min(self.stays[each][0] for each in parts)
        return _leveled(began, self.stays[name][1], events, marks, given)

    def _event(self, step: Step, call: Invocation, given: Sequence[Given]) -> Event:
        role = role_of(step, call.place)
        ran_s = max(0.0, call.ended - call.started)
        if call.first or call.tokens:
            fresh = max(0.0, call.weight - call.cached)
            first = call.first
            if given and call.started < given[0][1] <= call.back:
                first = given[0][1]  # what it made before that its step has kept to itself
            first_s = min(max(0.0, first - call.started), ran_s)
            return Event(
                role, ran_s, call.weight, tokens=call.tokens, fresh=fresh, first_s=first_s, stream=True
            )
        total = self.batches[call.place, call.started, call.ended]
        return Event(role, ran_s, call.weight, total, call.group)

    def _marks(self, step: Step) -> tuple[float, float] | None:
        """When the first and the last increment that a step reads were there."""
        found = [self.given[name] for name in self._read_by(step) if name in self.given]
        if not found:
            return None
        return min(times[0] for times in found), max(times[-1] for times in found)

    def _read_by(self, step: Step) -> Iterator[str]:
        """The steps whose increments a step reads."""
        return self._handed(step.upstream)

    def _handed(self, names: Iterable[str]) -> Iterator[str]:
        """Those of steps that stream: of one behind `when` or `choose` those that it may pass on."""
        for name in names:
            other = self.steps.get(name)
            if other is None:
                continue
            if other.control and other.control != "map":
                yield from self._handed(other.upstream)
            elif other.streams:
                yield name

    def _own(self, step: Step, name: str, marks: tuple[float, float] | None) -> list[Given]:
        """When the first and the last increment that it gives were there. Where each is a member of a map all of them,
        as they came; of a step that reads as it gives the later ones at the end: when they come hangs on what it reads."""
        times = self.given.get(name)
        if not times or not step.streams:
            return []
        if name not in self.mapped:
            return [("first", times[0]), ("end", times[-1])]
        *made, end = times  # the last row is of its code behind the last increment
        later: list[Given] = [("more", at) if marks is None else ("end", end) for at in made[1:]]
        return [*[("first", at) for at in made[:1]], *later]


def _leveled(
    start: float,
    end: float,
    calls: Sequence[tuple[Invocation, Event]],
    marks: tuple[float, float] | None,
    gives: Sequence[Given],
) -> Visit:
    """Put what was asked, and what was given, into levels."""
    levels: list[Level] = []
    last = start

    def add(at: float, chains: tuple[tuple[Event, ...], ...], back: float, given: Part = "") -> None:
        nonlocal last
        needs = _needs(at, last, marks)
        since = max(last, _mark(needs, marks))
        levels.append(Level(max(0.0, at - since), chains, needs, given))
        last = max(last, back, at)

    given = list(gives)
    for together in _together(calls):
        asked, back = together[0][0].asked, max(call.back for call, _ in together)
        while given and given[0][1] <= asked:
            part, at = given.pop(0)
            add(at, (), at, part)
        add(asked, _chains(together), back)
    for part, at in given:
        if at >= last or not levels:  # else a stream of its own gave it meanwhile
            add(at, (), at, part)
    if needs := _needs(end, last, marks):  # what it reads was there after all that it asked for
        levels.append(Level(0.0, (), needs))
        last = max(last, _mark(needs, marks))
    return Visit(tuple(levels), max(0.0, end - last))


def _together(calls: Iterable[tuple[Invocation, Event]]) -> Iterable[list[tuple[Invocation, Event]]]:
    level: list[tuple[Invocation, Event]] = []
    back = 0.0
    for each in calls:
        if level and each[0].asked > back - _SAME_S:
            yield level
            level = []
        level.append(each)
        back = max(back, each[0].back) if len(level) > 1 else each[0].back
    if level:
        yield level


def _chains(together: Sequence[tuple[Invocation, Event]]) -> tuple[tuple[Event, ...], ...]:
    """What was asked together: each behind the one that had come back last before it, where no other follows that."""
    began = together[0][0].asked
    chains: list[tuple[float, list[Event]]] = []  # (when its last one was back, events)
    for call, event in together:
        open_ = [index for index, (back, _) in enumerate(chains) if back <= call.asked + _SAME_S]
        if open_:
            index = max(open_, key=lambda each: chains[each][0])
            back, events = chains[index]
        else:
            index, back, events = len(chains), began, []
            chains.append((back, events))
        events.append(replace(event, gap_s=max(0.0, call.asked - back)))
        chains[index] = (call.back, events)
    return tuple(tuple(events) for _, events in chains)


def _needs(at: float, since: float, marks: tuple[float, float] | None) -> Part:
    """Which part of the increments that it reads an act waited for."""
    if marks is None or at < marks[0] - _SAME_S or marks[1] < since:
        return ""
    return "end" if at >= marks[1] - _SAME_S else "first"


def _mark(needs: Part, marks: tuple[float, float] | None) -> float:
    if marks is None or not needs:
        return 0.0
    return marks[0] if needs == "first" else marks[1]


def role_of(step: Step, place: str) -> str:
    """The role that a place plays for a step: of one of its models, of its own code, or of shared threads."""
    for role, choice in step.models.items():
        if f"{choice.model}/{choice.backend}" == place:
            return role
    kind = step.kind
    return BODY if kind is not None and place == f"{kind.name}/python" else CREW
