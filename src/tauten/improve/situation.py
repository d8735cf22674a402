"""What a strategy may look at, and what it says: changes of a plan to be tried, and refusals with their reasons."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from tauten.describe.graph import Graph
from tauten.describe.slo import Slo
from tauten.describe.turn import Answers
from tauten.plan.hardware import Hardware
from tauten.plan.lower import Lowered, Step, lower
from tauten.plan.plan import Choices, ModelChoice, Plan


class Proposal(msgspec.Struct, frozen=True):
    """A plan to be tried in place of the present one."""

    strategy: str
    change: str  # what is different, in few words
    plan: Plan
    answers: Answers
    why: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """What is not worth trying, and why."""

    strategy: str
    change: str
    why: str


class Asks(NamedTuple):
    """What a request that comes to a step asks of one of its models, in the mean."""

    share: float  # of all requests that come to the step
    items: float  # of those, each
    together: float  # items that it asks for at once


class Facts(Protocol):
    """What was measured of a workflow."""

    def work_s(self, step: str) -> float:
        """Seconds in which a request's step works, in the mean of those that come to it; 0.0 where none did."""
        ...

    def asks(self, step: str, role: str) -> Asks:
        """Zeros where it was never seen."""
        ...

    def run_s(self, step: str, role: str) -> float:
        """Seconds of a run of one item under the present plan; 0.0 where it was never seen."""
        ...


class Situation:
    """A plan, the workflow and machine that it is for, and what is known of them. `rate` in requests a second."""

    def __init__(
        self, graph: Graph, plan: Plan, hardware: Hardware, slo: Slo, rate: float, facts: Facts
    ) -> None:
        self.graph = graph
        self.plan = plan
        self.hardware = hardware
        self.slo = slo
        self.rate = rate
        self.facts = facts

    @cached_property
    def lowered(self) -> Lowered:
        return lower(self.graph, self.plan)

    def free(self, stage: str) -> bool:
        """Whether a stage may be changed: nobody has locked it."""
        return not self.plan.stage(stage).locked

    def models(self) -> Iterator[tuple[Step, str, ModelChoice]]:
        """(step, role, choice) of each model of a stage that may be changed."""
        for step in self.lowered.steps:
            if step.view is not None or step.kind is None or not self.free(step.name):
                continue
            for role, choice in step.models.items():
                if choice.backend:
                    yield step, role, choice


class Strategy(Protocol):
    """One idea. `reason` says why it stands where it stands in the order."""

    name: ClassVar[str]
    reason: ClassVar[str]

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]: ...


def with_choice(plan: Plan, step: Step, role: str, **changes: object) -> Plan:
    """The plan with another choice for one model: said of the stage where it has only that one."""
    stage = plan.stage(step.name)
    if len([each for each in step.models.values() if each.backend]) == 1:
        return plan.edit(step.name, **changes)
    own: Choices = stage.roles.get(role, ModelChoice())
    return plan.edit(step.name, roles={**stage.roles, role: msgspec.structs.replace(own, **changes)})


def label(step: Step, role: str) -> str:
    """A model as people find it in a plan."""
    return step.name if len(step.models) == 1 else f"{step.name}.{role}"
