"""What was seen of each step under each way to run it, and what its models cost: all that a simulation knows.

A plan that was never run is put together from the plans that were: each step plays what it did under the same
settings. What a step asks of a model that answers batches does not hang on the engine that runs it, so a step that
was seen on one engine is known on another whose runs were measured, by themselves or in another plan.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from tauten.errors import PlanError, suggest
from tauten.improve.replay import step_key
from tauten.improve.simulate.capture import Captured
from tauten.improve.simulate.costs import ELSEWHERE, STILL, Cost, Moving, StreamCost, fitted, thinned
from tauten.improve.simulate.tape import BODY, CREW, Event, Level, Tape, Visit
from tauten.plan.lower import Lowered, Step
from tauten.plan.plan import ModelChoice
from tauten.run.contracts import batches_itself, find
from tauten.run.visits import base_name
from tauten.statistics import percentile

Visits = dict[str, Visit]  # of one request to one step, by their names
Runs = list[tuple[float, float]]  # (weight, seconds)
Held = tuple[tuple[int, int], ...]
"""(items in a batch, or streams at a time; bytes that a model holds by then), ascending; empty: nobody knows."""
EVERY = 1 << 10  # threads: an engine that is told no number takes every core there is


class Unknown(NamedTuple):
    """What a plan wants and nothing is known of: a step under its settings, or the runs of one of its models."""

    step: Step
    role: str = ""  # "": the step was never seen so

    @property
    def choice(self) -> ModelChoice:
        return self.step.models[self.role]


class _Seen(NamedTuple):
    """A step under one choice of its models."""

    step: Step
    visits: dict[str, Visits]  # item -> visits


class Library:
    """Tapes and costs of one workflow."""

    def __init__(self) -> None:
        self.inputs: dict[str, Mapping[str, Any]] = {}
        self.values: dict[str, Mapping[str, Any]] = {}
        self.costs: dict[str, Cost | StreamCost] = {}
        self.firsts: list[
            tuple[float, float]
        ] = []  # seconds after the first start, and usually, in their order
        self._visits: dict[str, dict[str, _Seen]] = {}  # visit key -> choices -> what was seen
        self._reached: set[str] = set()  # steps that were seen at all
        self._as_wanted: dict[
            tuple[str, str], dict[str, Visits]
        ] = {}  # the same at the costs of other choices
        self._runs: dict[str, Runs] = {}  # of a cost's key
        self._noise: dict[str, list[float]] = {}  # ratios of equal runs
        self._streams: dict[str, list[Event]] = {}
        self._threads: dict[str, int] = {}
        self._together: dict[str, tuple[tuple[int, float], ...]] = {}
        self._slots: dict[str, int] = {}
        self._alone: set[str] = set()  # costs of which runs of several sizes are known
        self._moving: dict[str, Moving] = {}
        self._held: dict[str, Held] = {}  # of a form's key
        self.version = 0  # another one whenever it has learned something that simulations go by

    # -- learning -----------------------------------------------------------------------------------------

    def add(self, seen: Captured, *, only: Collection[str] | None = None) -> None:
        """Take what was seen of one plan; of repeats that asked for other things than the usual one only that.
        Of the stages named `only`, where some are: what others did behind them hangs on what these gave."""
        lowered = seen.lowered
        steps = {step.name: step for step in lowered.steps}
        for (name, role), slots in seen.slots.items():
            self._slots[cost_key(steps[name].models[role])] = slots
        usual_s = {tapes[0].id: tapes[len(tapes) // 2].seconds for tapes in seen.tapes}
        self.firsts = self.firsts or [(seconds, usual_s[id]) for id, seconds in seen.firsts]
        for tapes in seen.tapes:
            usual = tapes[len(tapes) // 2]
            self.inputs.setdefault(usual.id, usual.inputs)
            self.values.setdefault(usual.id, usual.values)
            for name, visit in usual.visits.items():
                step = steps.get(base_name(name))
                if step is None or (only is not None and step.stage not in only):
                    continue
                others = [
                    other for each in tapes if (other := each.visits.get(name)) and _alike(other, visit)
                ]
                kept = self._median(step, others or [visit])
                self._reached.add(step.name)
                under = self._visits.setdefault(visit_key(lowered, step), {})
                found = under.setdefault(choices_key(step), _Seen(step, {}))
                found.visits.setdefault(usual.id, {})[name] = kept
        self._fit()

    def add_runs(self, choice: ModelChoice, runs: Runs) -> None:
        """Take runs of a model that were measured by themselves: (weight of the batch, seconds)."""
        self._runs.setdefault(cost_key(choice), []).extend(runs)
        self._alone.add(cost_key(choice))
        self._threads.setdefault(cost_key(choice), _occupied(choice))
        self._fit()

    def add_streams(self, choice: ModelChoice, together: tuple[tuple[int, float], ...]) -> None:
        """Take how many times longer a token takes among so many streams: (streams, times), the first is (1, 1.0)."""
        self._together[cost_key(choice)] = together
        self._fit()

    def add_moving(self, choice: ModelChoice, moving: Moving) -> None:
        """Take in how much of its time a model moves bytes: with what was measured that is the share which neighbours
        slow down."""
        self._moving[cost_key(choice)] = moving
        self._fit()

    def add_held(self, choice: ModelChoice, held: Held) -> None:
        """Take the memory that a form of a model holds."""
        self.version += 1
        self._held[form_key(choice)] = held

    def _median(self, step: Step, visits: list[Visit]) -> Visit:
        """One visit with the median times of alike ones; how they differ is the machine's noise."""
        levels = []
        for place, level in enumerate(visits[0].levels):
            chains = []
            for number, chain in enumerate(level.chains):
                beside = [visit.levels[place].chains[number] for visit in visits]
                chains.append(
                    tuple(
                        self._event(step, event, [other[index] for other in beside])
                        for index, event in enumerate(chain)
                    )
                )
            gap_s = percentile([visit.levels[place].gap_s for visit in visits], 0.5)
            levels.append(msgspec.structs.replace(level, gap_s=gap_s, chains=tuple(chains)))
        tail_s, held = (
            percentile([getattr(visit, of) for visit in visits], 0.5) for of in ("tail_s", "held")
        )
        return Visit(tuple(levels), tail_s, held)

    def _event(self, step: Step, event: Event, seen: list[Event]) -> Event:
        usual_s = percentile([each.seconds for each in seen], 0.5)
        usual = msgspec.structs.replace(
            event, seconds=usual_s, gap_s=percentile([each.gap_s for each in seen], 0.5)
        )
        if event.role == CREW or usual_s <= 0.0:
            return usual
        key = cost_key(_choice(step, event.role))
        threads = 1 if event.role == BODY else _occupied(step.models[event.role])
        self._threads.setdefault(key, threads)
        if event.stream:
            usual = msgspec.structs.replace(usual, first_s=percentile([each.first_s for each in seen], 0.5))
            self._streams.setdefault(key, []).append(usual)
            if len(seen) > 1 and usual.first_s > 0.0:
                self._noise.setdefault(key, []).extend([each.first_s / usual.first_s for each in seen])
            return usual
        self._runs.setdefault(key, []).append((event.total, usual_s))
        if len(seen) > 1:
            self._noise.setdefault(key, []).extend([each.seconds / usual_s for each in seen])
        return usual

    def _fit(self) -> None:
        self.version += 1
        self._as_wanted.clear()
        for key, runs in self._runs.items():
            cost = fitted(runs, threads=self._threads[key], noise=self._noise.get(key, ()))
            share = _moves(self._moving.get(key, STILL), cost, runs)
            self.costs[key] = msgspec.structs.replace(cost, memory=share) if share else cost
        for key, streams in self._streams.items():
            self.costs[key] = self._stream_cost(key, streams)

    def _stream_cost(self, key: str, streams: list[Event]) -> StreamCost:
        firsts = [(each.fresh, each.first_s) for each in streams]
        first = fitted(firsts, threads=self._threads[key], noise=self._noise.get(key, ()))
        each_s = sorted(
            (each.seconds - each.first_s) / (each.tokens - 1.0) for each in streams if each.tokens > 1.0
        )
        token_s = percentile(each_s, 0.5) if each_s else 0.0
        ratios = thinned([value / token_s for value in each_s]) if token_s > 0.0 else (1.0,)
        moving = self._moving.get(key, STILL)
        read = percentile([each.fresh for each in streams], 0.5)
        first = msgspec.structs.replace(first, memory=moving.share_of(first.line(read)))
        return StreamCost(
            first,
            token_s,
            ratios,
            self._together.get(key, ((1, 1.0),)),
            self._slots.get(key, 1),
            moving.share_of(token_s),
        )

    # -- telling ------------------------------------------------------------------------------------------

    def cost(self, choice: ModelChoice) -> Cost | StreamCost:
        """What a run of a model takes; raises PlanError E131 where it was never measured."""
        key = cost_key(choice)
        if key not in self.costs:
            raise PlanError(
                f"{choice.model} on {choice.backend} was not measured as the plan wants it: {key}",
                help=suggest(key, self.costs),
                code="E131",
            )
        return self.costs[key]

    def unknown(self, lowered: Lowered) -> Iterator[Unknown]:
        """What has to be measured before a plan can be simulated."""
        for step in lowered.steps:
            if not self._visits.get(visit_key(lowered, step)):
                if step.name in self._reached:  # else nobody takes the side that it is on
                    yield Unknown(step)
                continue
            for role, choice in step.models.items():
                if choice.backend and self.asked(lowered, step, role) and cost_key(choice) not in self.costs:
                    yield Unknown(step, role)

    def held(self, choice: ModelChoice) -> int | None:
        """Bytes that a model holds as a choice runs it, all its replicas together; None where nobody measured it."""
        known = self._held.get(form_key(choice), ())
        enough = [held for batch, held in known if batch >= choice.batch.max]
        if not known:
            return None
        one = known[-1][1] if batches_itself(choice.backend) or not enough else enough[0]
        return one * choice.replicas

    def wants_streams(self, choice: ModelChoice) -> bool:
        """Whether nobody knows how streams of an engine slow one another."""
        return batches_itself(choice.backend) and cost_key(choice) not in self._together

    def wants_runs(self, choice: ModelChoice) -> bool:
        """Whether a model was never run by itself: of requests one at a time nobody learns what batches cost."""
        return not batches_itself(choice.backend) and cost_key(choice) not in self._alone

    def asked(self, lowered: Lowered, step: Step, role: str) -> bool:
        """Whether a request was ever seen to use a model."""
        under = self._visits.get(visit_key(lowered, step), {}).values()
        return any(
            event.role == role
            for seen in under
            for visits in seen.visits.values()
            for visit in visits.values()
            for event in visit.events()
        )

    def costs_under(self, lowered: Lowered) -> Callable[[ModelChoice], Cost | StreamCost]:
        """What runs of the models of a plan take. One that no request came to takes no time; raises PlanError E131
        for one that was asked and never measured."""
        asked = {
            cost_key(choice)
            for step in lowered.steps
            for role, choice in step.models.items()
            if choice.backend and self.asked(lowered, step, role)
        }

        def cost(choice: ModelChoice) -> Cost | StreamCost:
            key = cost_key(choice)
            if key in asked or key in self.costs:
                return self.cost(choice)
            return StreamCost(Cost(0.0), 0.0) if batches_itself(choice.backend) else Cost(0.0)

        return cost

    def tape(self, id: str, lowered: Lowered) -> Tape:
        """A request as it would go under a plan; raises PlanError E131 for a step that was not seen so."""
        visits: Visits = {}
        for step in lowered.steps:
            visits.update(self.seen(lowered, step).get(id, {}))
        return Tape(id, self.inputs[id], visits, self.values[id], 0.0, 0.0)

    def seen(self, lowered: Lowered, step: Step) -> Mapping[str, Visits]:
        """What each request does at a step, as the plan wants it: as seen, at what its models cost there.

        Raises PlanError E131 where the step was never seen with its settings, or a model was not measured.
        """
        key, choices = visit_key(lowered, step), choices_key(step)
        found = self._as_wanted.get((key, choices))
        if found is None:
            found = self._as_wanted[key, choices] = self._seen_as(key, choices, step)
        return found

    def _seen_as(self, key: str, choices: str, step: Step) -> dict[str, Visits]:
        under = self._visits.get(key)
        if under:
            seen = under.get(choices) or next(reversed(under.values()))
            return {
                id: {name: self._priced(seen.step, step, visit) for name, visit in visits.items()}
                for id, visits in seen.visits.items()
            }
        if step.name not in self._reached:
            return {}  # a side that nobody takes, or a control step
        raise PlanError(
            f"step '{step.name}' was not seen as the plan wants it: {key}",
            help=suggest(key, self._visits),
            code="E131",
        )

    def _priced(self, seen: Step, wanted: Step, visit: Visit) -> Visit:
        return visit.changed(lambda event: self._event_at(seen, wanted, event))

    def _event_at(self, seen: Step, wanted: Step, event: Event) -> Event:
        """An item at the cost of the wanted model: as much slower than that as it was than the one that was seen."""
        if event.role == CREW or event.seconds <= 0.0:
            return event
        cost = self.cost(_choice(seen, event.role))
        if isinstance(cost, StreamCost):
            return msgspec.structs.replace(event, slow=event.first_s / cost.first.line(event.fresh) or 1.0)
        slow = event.seconds / cost.line(event.total)
        now = self.cost(_choice(wanted, event.role))
        assert isinstance(now, Cost)  # streams are only known as they were seen
        return msgspec.structs.replace(event, slow=slow, seconds=slow * now.line(event.total))


def visit_key(lowered: Lowered, step: Step) -> str:
    """How a step was run, as far as that decides what it asks for: not how large batches are, nor on which engine
    those run; how streams were made, which shows in what they read and give."""
    streams = msgspec.structs.replace(
        step_key(lowered, step), batch=1, variant="", backend="", precision="", threads=0
    )
    made = [
        cost_key(choice)
        for choice in step.models.values()
        if choice.backend and batches_itself(choice.backend)
    ]
    return " ".join([msgspec.json.encode(streams).decode(), *made])


def choices_key(step: Step) -> str:
    """What runs the models of a step."""
    return " ".join(cost_key(choice) for choice in step.models.values())


def cost_key(choice: ModelChoice) -> str:
    """What decides how long a run takes: the model, its form, its engine and its options."""
    options = {key: value for key, value in choice.options.items() if _written(value)}
    parts = [choice.model, choice.variant, choice.backend, choice.precision, choice.threads, options]
    return msgspec.json.encode(parts, order="deterministic").decode()


def _written(value: Any) -> bool:
    """Whether a plan can write an option; code, which a plan cannot, is no part of a key."""
    if isinstance(value, list | tuple):
        return all(map(_written, value))
    if isinstance(value, dict):
        return all(map(_written, value.values()))
    return isinstance(value, str | int | float | bool)


def _occupied(choice: ModelChoice) -> int:
    """Threads of this machine that a run of a model keeps busy."""
    if not getattr(find("backends", choice.backend), "local", True):
        return ELSEWHERE
    return choice.threads or EVERY


def _moves(moving: Moving, cost: Cost, runs: Runs) -> float:
    """The share of a run of one item in which bytes move; where a deployment weighs items otherwise than they were
    counted, the lightest run is taken for that of one."""
    weights = [weight for weight, _ in runs]
    counted = 0.0 < moving.weight <= max(weights)
    return moving.share_of(cost.line(moving.weight if counted else min(weights)))


def form_key(choice: ModelChoice) -> str:
    """What decides how much memory a model holds: its form, its engine and its options; threads hardly do."""
    return cost_key(msgspec.structs.replace(choice, threads=0))


def _choice(step: Step, role: str) -> ModelChoice:
    """What plays a role of a step; its own code is a model of the kind's name."""
    if role == BODY and step.kind is not None:
        return ModelChoice(model=step.kind.name, backend="python")
    return step.models[role]


def _alike(one: Visit, other: Visit) -> bool:
    return [_shape(level) for level in one.levels] == [_shape(level) for level in other.levels]


def _shape(level: Level) -> tuple[Any, ...]:
    chains = [
        [(each.role, each.weight, each.stream, each.tokens) for each in chain] for chain in level.chains
    ]
    return level.needs, level.gives, chains
