"""What one option of a choice would take now, by what its deployments foresee and what came of it of late."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tauten.errors import BackendError, DeadlineExceeded, Overloaded, TautenError, Unavailable
from tauten.plan.lower import Program, Step
from tauten.run.bound import BoundStep
from tauten.run.contracts import Candidate, find
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.slots_deployment import SlotDeployment

FAULTS = 3  # in a row make an option ill: two may be chance
COOL_S = 5.0  # then it is left alone, before it is tried again: as long as a worker takes to come back
GAIN = 1 / 8  # of a new duration, as round-trip estimators take it

Place = Deployment | SlotDeployment


class Outlook:
    """One option: the models on its side, one after another, and how it did."""

    def __init__(
        self, name: str, steps: Sequence[Sequence[Place]], *, local: bool = True, price: float | None = None
    ) -> None:
        self.name = name
        self.outstanding = 0
        self._steps = steps
        self._places = list(dict.fromkeys(place for places in steps for place in places))
        self._local = local
        self._price = price
        self._own_s = self._first_s = 0.0  # of late, waiting included
        self._seen = self._faults = 0
        self._ill_until = -math.inf

    def candidate(self, priority: int, tenant: str, now: float) -> Candidate:
        """What it would take for one more request."""
        wait_s = first_s = total_s = 0.0
        for places in self._steps:  # one after another; the models of a step are taken to run side by side
            wait_s += max((each.wait_s(priority, now, 0, tenant) for each in places), default=0.0)
            took = [_takes_s(each) for each in places]
            first_s = total_s + max((first for first, _ in took), default=0.0)
            total_s += max((total for _, total in took), default=0.0)
        if not total_s and self._seen:  # code without a model, or a model that nobody has run yet
            first_s, total_s = self._first_s, self._own_s
        return Candidate(
            name=self.name,
            wait_s=wait_s,
            first_s=first_s,
            total_s=total_s,
            cost_per_token=self._price,
            load=max((_load(each) for each in self._places), default=float(self.outstanding)),
            outstanding=self.outstanding,
            healthy=now >= self._ill_until and not any(each.closed for each in self._places),
            local=self._local,
        )

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


def outlook_of(
    step: Step, port: str, name: str, bound: Mapping[str, BoundStep], price: float | None = None
) -> Outlook:
    """The outlook of one side of a control step."""
    side = step.sides.get(port)
    steps = [] if side is None else list(_running(side))
    found = [list(bound[each.name].deployments.values()) for each in steps if each.name in bound]
    local = all(
        getattr(find("backends", choice.backend), "local", True)
        for each in steps
        for choice in each.models.values()
        if choice.backend
    )
    return Outlook(name, [places for places in found if places], local=local, price=price)


def _running(program: Program) -> list[Step]:
    return [each for each in program.steps() if each.kind is not None and each.control in ("", "map")]


def _takes_s(place: Place) -> tuple[float, float]:
    """Seconds to the first output and to the end, of an item as they come there."""
    if isinstance(place, SlotDeployment):
        streams = place.streams
        return streams.first.of_weight(streams.prompt), streams.expected(streams.prompt, math.inf)
    once_s = place.durations.expected(1)
    return once_s, once_s


def _load(place: Place) -> float:
    return (place.waiting + place.at_work) / max(1, place.capacity)
