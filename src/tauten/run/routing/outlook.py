"""What one option of a choice would take now, by what its deployments foresee and what came of it of late."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec.structs import replace

from tauten.errors import BackendError, DeadlineExceeded, Overloaded, TautenError, Unavailable
from tauten.plan.lower import Program, Step
from tauten.run.bound import BoundStep
from tauten.run.contracts import Ask, Candidate, find
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.routing.bill import Bill
from tauten.run.routing.foresight import Foresight, There, Tokens, foresights, took
from tauten.run.slots import Run
from tauten.run.usage.prices import Prices

FAULTS = 3  # in a row make an option ill: two may be chance
COOL_S = 5.0  # then it is left alone, before it is tried again: as long as a worker takes to come back
GAIN = 1 / 8  # of a new duration, as round-trip estimators take it

Place = Deployment | SlotDeployment


class Surroundings(NamedTuple):
    """What a choice is made in: what its steps are bound to, where values lie, what things cost."""

    bound: Mapping[str, BoundStep]
    slots: Mapping[str, int]
    prices: Prices


class Foreseen(NamedTuple):
    """A candidate without its price, the tokens of each of its models, and what of its prompts is there."""

    candidate: Candidate
    tokens: Mapping[Place, Tokens]
    there: Mapping[Foresight, There]


class Outlook:
    """One option: the models on its side, one after another, and how it did."""

    def __init__(
        self,
        name: str,
        steps: Sequence[Sequence[Place]],
        *,
        ahead: Sequence[Foresight] = (),
        bill: Bill | None = None,
        local: bool = True,
    ) -> None:
        self.name = name
        self.outstanding = 0
        self._steps = steps
        self._places = list(dict.fromkeys(place for places in steps for place in places))
        self._ahead: dict[Place, list[Foresight]] = {}  # a model may have several steps
        for each in ahead:
            self._ahead.setdefault(each.place, []).append(each)
        self._bill = bill or Bill()
        self._local = local
        self._own_s = self._first_s = 0.0  # of late, waiting included
        self._seen = self._faults = 0
        self._ill_until = -math.inf

    def foreseen(self, run: Run, ask: Ask) -> Foreseen:
        """What it would take for one more request."""
        there = {each: each.there(run) for steps in self._ahead.values() for each in steps}
        tokens = {
            place: _sum([each.tokens(there[each]) for each in steps]) for place, steps in self._ahead.items()
        }
        wait_s = first_s = total_s = 0.0
        for places in self._steps:  # one after another; the models of a step are taken to run side by side
            wait_s += max((each.wait_s(ask.priority, ask.at, 0, ask.tenant) for each in places), default=0.0)
            takes = [self._takes_s(each, tokens.get(each)) for each in places]
            first_s = total_s + max((first for first, _ in takes), default=0.0)
            total_s += max((total for _, total in takes), default=0.0)
        if not total_s and self._seen:  # code without a model, or a model that nobody has run yet
            first_s, total_s = self._first_s, self._own_s
        candidate = Candidate(
            name=self.name,
            wait_s=wait_s,
            first_s=first_s,
            total_s=total_s,
            load=max((_load(each) for each in self._places), default=float(self.outstanding)),
            outstanding=self.outstanding,
            healthy=ask.at >= self._ill_until and not any(each.closed for each in self._places),
            local=self._local,
            input_tokens=sum(each.read for each in tokens.values()),
            output_tokens=sum(each.made for each in tokens.values()),
        )
        return Foreseen(candidate, tokens, there)

    def priced(self, foreseen: Foreseen, ask: Ask, wall: datetime) -> Candidate:
        """With its price. One of which nobody foresees the tokens is taken to need as many as the others."""
        own = sum(each.all for each in foreseen.tokens.values())
        each, cents, by = self._bill.of(foreseen.tokens, own or ask.tokens, wall)
        return replace(foreseen.candidate, cost_per_token=each, cents=cents, priced_by=by)

    def _takes_s(self, place: Place, tokens: Tokens | None) -> tuple[float, float]:
        """Seconds to the first output and to the end, of what is foreseen or of what usually comes there."""
        if isinstance(place, SlotDeployment):
            streams = place.streams
            prompt = streams.prompt
            if tokens is not None:
                steps = self._ahead[place]
                prompt = steps[0].weight(tokens) / len(steps)
            return streams.first.of_weight(prompt), streams.expected(prompt, math.inf)
        once_s = place.durations.expected(1)
        return once_s, once_s

    def learn(
        self, there: Mapping[Foresight, There], spent: Sequence[tuple[str, str, float]], core_s: float
    ) -> None:
        """What an answer took in tokens, step by step, and of this machine's processors."""
        for steps in self._ahead.values():
            for each in steps:
                each.learn(there.get(each, There()), took(spent, each.step))
        self._bill.worked(core_s)

    def did(self, took_s: float, first_s: float, now: float) -> None:
        """It answered."""
        self._faults, self._ill_until = 0, -math.inf
        gain = GAIN if self._seen else 1.0
        self._seen += 1
        self._own_s += (took_s - self._own_s) * gain
        self._first_s += ((first_s or took_s) - self._first_s) * gain

    def failed(self, error: TautenError, now: float) -> None:
        """It did not. Only what another place might do better counts against it; a wrong input does not."""
        if isinstance(error, BackendError | Unavailable | Overloaded | DeadlineExceeded):
            self._faults += 1
            if self._faults >= FAULTS:
                self._ill_until = now + COOL_S


def outlook_of(step: Step, port: str, name: str, around: Surroundings, price: float | None = None) -> Outlook:
    """The outlook of one side of a control step."""
    side = step.sides.get(port)
    steps = [] if side is None else list(_running(side))
    bound = around.bound
    found = [list(bound[each.name].deployments.values()) for each in steps if each.name in bound]
    ahead = [
        seen
        for each in steps
        if each.name in bound
        for seen in foresights(each, bound[each.name], around.slots)
    ]
    local = all(
        getattr(find("backends", choice.backend), "local", True)
        for each in steps
        for choice in each.models.values()
        if choice.backend
    )
    bill = Bill(around.prices, [place for places in found for place in places], told=price)
    return Outlook(name, [places for places in found if places], ahead=ahead, bill=bill, local=local)


def _running(program: Program) -> list[Step]:
    return [each for each in program.steps() if each.kind is not None and each.control in ("", "map")]


def _sum(tokens: Sequence[Tokens]) -> Tokens:
    return Tokens(sum(each.read for each in tokens), sum(each.made for each in tokens))


def _load(place: Place) -> float:
    return (place.waiting + place.at_work) / max(1, place.capacity)
