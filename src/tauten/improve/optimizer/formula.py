"""The figures of a plan without queues: the longest way through its program, from what each request was seen to do.

Nobody else is there: no request waits for another, and no core is shared. What one request asks for at once still
stands in the queue of its model. That is all a sum can know; under load a simulation says the rest.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from tauten.describe.graph import FromStage, Source, stages_in
from tauten.improve.load.figures import quantile_of
from tauten.improve.optimizer.asked import Asked, makespan
from tauten.improve.optimizer.search import Figures
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.tape import Level, Visit
from tauten.plan.lower import Lowered, Program, Step
from tauten.run.visits import base_name
from tauten.statistics import percentile


class Way(NamedTuple):
    """One request alone: seconds to its end, to its first output, and of cores that it kept busy."""

    seconds: float
    first_s: float
    core_s: float


def formula(library: Library, lowered: Lowered, *, cores: int = 0) -> Figures:
    """The figures of a plan for the recorded requests, each alone on the machine, by the names of SLO limits; with
    `cores`, those that a request keeps busy, too.

    Raises PlanError E131 where something that the plan wants was never measured, as a simulation does.
    """
    walk = Walk(library, lowered, cores=cores)
    ways = [walk.way(id) for id in library.inputs]
    ended, first = [each.seconds for each in ways], [each.first_s for each in ways]
    values = {name: percentile(ended, quantile_of(name)) * 1e3 for name in ("p50_ms", "p95_ms", "p99_ms")}
    values["first_output_ms"] = percentile(first, quantile_of("first_output_ms")) * 1e3
    if cores:
        values["core_ms"] = sum(each.core_s for each in ways) / len(ways) * 1e3
    return Figures(values)


class _Given(NamedTuple):
    """When the first increment of a stream is there, and when it is over."""

    first: float
    end: float


class Walk:
    """Walks requests through a program, one at a time; instants are seconds since each came."""

    def __init__(self, library: Library, lowered: Lowered, *, cores: int = 0) -> None:
        self.library = library
        self.lowered = lowered
        self.cores = cores
        self.asked = Asked(library)

    def way(self, id: str) -> Way:
        """One recorded request alone."""
        self.given: dict[str, _Given] = {}
        self.visits: dict[str, list[Visit]] = {}  # of a map one a member
        for name, visit in self.library.tape(id, self.lowered).visits.items():
            self.visits.setdefault(base_name(name), []).append(visit)
        end = self.program(self.lowered.program, 0.0)
        result = self.lowered.result
        if isinstance(result, FromStage) and result.name in self.given:
            streamed = self.given[result.name]
            return Way(max(end, streamed.end), max(end, streamed.first), self._core_s())
        end = max([end, *(each.end for each in self._streams([result]))])
        return Way(end, end, self._core_s())

    def _core_s(self) -> float:
        steps = [(step, self.visits.get(step.name, ())) for step in self.lowered.steps if self.cores]
        return sum(self.asked.core_s(step, visits, self.cores) for step, visits in steps)

    # -- the program --------------------------------------------------------------------------------------------

    def program(self, program: Program, at: float) -> float:
        """When a part of the program that begins at an instant is over."""
        if program.step is not None:
            return self.step(program.step, at)
        if program.shape == "parallel":
            return max(self.program(part, at) for part in program.parts)
        if program.shape == "knot":
            ends: dict[str, float] = {}
            for part, (name, needs) in zip(program.parts, program.needs.items(), strict=True):
                ends[name] = self.program(part, max([at, *(ends[each] for each in needs)]))
            return max(ends.values())
        for part in program.parts:
            at = self.program(part, at)
        return at

    def step(self, step: Step, at: float) -> float:
        """Sides come one after another; those that a request did not take hold no visit of it, and no time."""
        for side in step.sides.values():
            at = self.program(side, at)
        if step.control not in ("", "map"):
            return self._handed_on(step, at)
        visits = self.visits.get(step.name, [])
        at = max([at, *(each.end for each in self._collected(step))])
        if not visits:
            return at
        if step.control == "map":
            return self._map(step, visits, at)
        if step.view is not None:  # it only waits for a thread
            return at + sum(event.seconds for event in islice(visits[0].events(), 1))
        if step.streams:
            return self._stream(step, visits[0], at)
        return self._visit(step, visits[0], at)

    def _handed_on(self, step: Step, at: float) -> float:
        """A control step gives the stream of the side that was taken, or the value."""
        streams = self._streams(step.inputs.values())
        if streams and self.lowered.graph.stages[step.name].output.stream:
            self.given[step.name] = _Given(
                max(each.first for each in streams), max(each.end for each in streams)
            )
            return at
        return max([at, *(each.end for each in streams)])

    def _streams(self, sources: Iterable[Source]) -> list[_Given]:
        return [self.given[name] for each in sources for name in stages_in(each) if name in self.given]

    def _collected(self, step: Step) -> list[_Given]:
        """The streams that a step wants whole before it begins."""
        return self._streams([source for port, source in step.inputs.items() if not _reads(step, port)])

    def _read(self, step: Step) -> list[_Given]:
        """Those that it reads as they come."""
        return self._streams([source for port, source in step.inputs.items() if _reads(step, port)])

    # -- visits -------------------------------------------------------------------------------------------------

    def _visit(self, step: Step, visit: Visit, at: float) -> float:
        read = self._read(step)
        for level in visit.levels:
            at = _after(level, read, at) + level.gap_s + self.asked.level_s(step, level.chains)
        return at + visit.tail_s

    def _stream(self, step: Step, visit: Visit, at: float) -> float:
        """What a step gives comes while the program goes on; returned is when that does."""
        began, read, given = at, self._read(step), []
        for level in visit.levels:
            streams = [chain for chain in level.chains if chain[0].stream]
            others = [chain for chain in level.chains if not chain[0].stream]
            at = _after(level, read, at) + level.gap_s + self.asked.level_s(step, others)
            for chain in streams:
                first_s, _ = self.asked.place(step, chain[0].role).parts(chain[0])
                given.append(at + first_s)
                at += self.asked.chain_s(step, chain)
            if level.gives:
                given.append(at)
        end = at + visit.tail_s
        self.given[step.name] = _Given(given[0] if given else end, end)
        return began

    def _map(self, step: Step, visits: Sequence[Visit], at: float) -> float:
        """Members side by side, as many as may be, and no faster than their models are through with all of them."""
        read = self._read(step)
        began = max([at, *(each.first for each in read)])
        alone = [self._visit(step, visit, 0.0) for visit in visits]
        took_s = makespan(alone, step.params["concurrency"] or len(alone))
        took_s = max(took_s, self.asked.through_s(step, [list(visit.events()) for visit in visits], alone))
        return max([began + took_s, *(each.end for each in read)])


def _reads(step: Step, port: str) -> bool:
    """Whether a step takes increments of what comes to a port."""
    if step.control == "map":
        return port == "items"
    wanted = step.kind.inputs.get(port) if step.kind is not None else None
    if wanted is None and step.kind is not None:
        wanted = step.kind.open_inputs
    return wanted is not None and wanted.stream and isinstance(step.inputs[port], FromStage)


def _after(level: Level, read: Sequence[_Given], at: float) -> float:
    """When a level begins that needs a part of what is read."""
    if not level.needs:
        return at
    return max([at, *(each.first if level.needs == "first" else each.end for each in read)])
