"""What a step asks of its models and threads, in seconds: by itself, and together with what is asked beside it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tauten.improve.simulate.costs import Cost, StreamCost, drawn
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.tape import BODY, CREW, Event, Visit
from tauten.plan.lower import Step
from tauten.plan.plan import Batch, ModelChoice
from tauten.run.deploy.scheduling import part
from tauten.run.engine import PREPARATION_THREADS
from tauten.run.steps import FUNCTION_THREADS

Chains = Sequence[Sequence[Event]]


class Place(NamedTuple):
    """Where items of one role are run: what a run takes, how many go side by side, and how large they may be."""

    cost: Cost | StreamCost
    lanes: int
    batch: Batch

    def run_s(self, events: Sequence[Event]) -> float:
        """One run of these, at its median."""
        assert isinstance(self.cost, Cost)  # streams are not run together
        total = sum(event.weight for event in events)
        slow = sum(event.weight * event.slow for event in events) / total if total else 1.0
        return self.cost.line(total) * drawn(self.cost.ratios, 0.5) * slow

    def parts(self, stream: Event) -> tuple[float, float]:
        """A stream's first token, and the others."""
        assert isinstance(self.cost, StreamCost)
        first_s = self.cost.first.line(stream.fresh) * drawn(self.cost.first.ratios, 0.5) * stream.slow
        token_s = self.cost.token_s * drawn(self.cost.ratios, 0.5)
        return first_s, stream.rest_s(token_s)

    def batches(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """How what came at once leaves: of one group, as many as fit, or in parts where several replicas are idle."""
        groups: dict[Any, list[Event]] = {}
        for event in events:
            groups.setdefault(event.group if self.batch.max > 1 else None, []).append(event)
        for members in groups.values():
            size = self._size(members)
            yield from (members[start : start + size] for start in range(0, len(members), size))

    def _size(self, members: Sequence[Event]) -> int:
        count, weight = len(members), sum(event.weight for event in members)
        room = int(self.batch.weight * count / weight) if self.batch.weight and weight else count
        size = max(1, min(count, self.batch.max, room))
        parts, whole = min(self.lanes, count), weight * size / count
        if parts < 2 or self.batch.wait != "slack":
            return size
        assert isinstance(self.cost, Cost)
        return -(-count // parts) if part(weight, whole, parts, self.cost.line) < whole else size


class Asked:
    """What steps ask for, at the costs of a library."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._places: dict[tuple[str, str], Place] = {}

    def seconds(self, step: Step, event: Event) -> float:
        """One event by itself."""
        if event.role == CREW:
            return event.seconds
        place = self.place(step, event.role)
        return sum(place.parts(event)) if event.stream else place.run_s([event])

    def chain_s(self, step: Step, chain: Sequence[Event]) -> float:
        """One after another."""
        return sum(event.gap_s + self.seconds(step, event) for event in chain)

    def level_s(self, step: Step, chains: Chains) -> float:
        """Side by side: the longest chain, or the model that has most to do."""
        alone = [self.chain_s(step, chain) for chain in chains]
        if len(alone) < 2:
            return sum(alone)
        return max(*alone, self.through_s(step, chains, alone))

    def through_s(self, step: Step, members: Chains, alone: Sequence[float]) -> float:
        """Until every model and thread is through with what all members ask of it, and the quickest of them with
        what it does besides; `alone` are the seconds of each member by itself."""
        found = 0.0
        for role in {event.role for member in members for event in member}:
            events = [event for member in members for event in member if event.role == role]
            besides = min(
                whole - sum(self.seconds(step, event) for event in member if event.role == role)
                for member, whole in zip(members, alone, strict=True)
                if any(event.role == role for event in member)
            )
            found = max(found, besides + makespan(self._runs(step, role, events), self._lanes(step, role)))
        return found

    def core_s(self, step: Step, visits: Sequence[Visit], cores: int) -> float:
        """Seconds of cores that visits keep busy: their own code, and the threads of what they ask for; members of
        a map share batches."""
        own_s = sum(
            visit.held
            * (
                visit.tail_s
                + sum(level.gap_s for level in visit.levels)
                + sum(each.gap_s for each in visit.events())
            )
            for visit in visits
        )
        levels = [list(level.chains) for visit in visits for level in visit.levels]
        if len(visits) > 1:
            levels = [[chain for level in levels for chain in level]]
        return own_s + sum(self._threads_s(step, chains, cores) for chains in levels)

    def _threads_s(self, step: Step, chains: Chains, cores: int) -> float:
        spent_s = 0.0
        for role in {event.role for chain in chains for event in chain}:
            events = [event for chain in chains for event in chain if event.role == role]
            spent_s += sum(self._runs(step, role, events)) * min(self._threads(step, role), cores)
        return spent_s

    def _runs(self, step: Step, role: str, events: Sequence[Event]) -> list[float]:
        """The runs that what came at once makes."""
        if role == CREW or events[0].stream:
            return [self.seconds(step, event) for event in events]
        place = self.place(step, role)
        return [place.run_s(batch) for batch in place.batches(events)]

    def _lanes(self, step: Step, role: str) -> int:
        return PREPARATION_THREADS if role == CREW else self.place(step, role).lanes

    def _threads(self, step: Step, role: str) -> int:
        if role == CREW:
            return 1
        cost = self.place(step, role).cost
        return cost.first.threads if isinstance(cost, StreamCost) else cost.threads

    def place(self, step: Step, role: str) -> Place:
        """Where a role's items go; raises PlanError E131 where its runs were never measured."""
        found = self._places.get((step.name, role))
        if found is None:
            found = self._places[step.name, role] = self._found(step, role)
        return found

    def _found(self, step: Step, role: str) -> Place:
        assert step.kind is not None  # decode steps ask only for threads
        if role != BODY:
            choice = step.models[role]
            cost = self.library.cost(choice)
            lanes = cost.slots if isinstance(cost, StreamCost) else choice.replicas
            return Place(cost, lanes, choice.batch)
        own = ModelChoice(model=step.kind.name, backend="python")
        alone = step.kind.is_class or step.kind.max_batch > 1
        lanes = step.plan.replicas if alone else step.plan.threads or FUNCTION_THREADS
        return Place(self.library.cost(own), lanes, Batch(max=step.kind.max_batch))


def makespan(seconds: Sequence[float], lanes: int) -> float:
    """Until all are done that are begun in their order, each on the lane that is free first.

    >>> makespan([3.0, 1.0, 1.0, 1.0], 2), makespan([], 2)
    (3.0, 0.0)
    """
    free = [0.0] * max(1, min(lanes, len(seconds)))
    for each in seconds:
        lane = free.index(min(free))
        free[lane] += each
    return max(free)
