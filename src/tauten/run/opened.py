"""A plan in the engine's table, and what a request of it gives."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tauten.describe.workflow import Workflow
from tauten.errors import Unavailable
from tauten.plan.lower import Lowered
from tauten.plan.plan import Plan
from tauten.run.bound import BoundStep
from tauten.run.door.admission import Path
from tauten.run.request import Asked
from tauten.run.slots import Getter, Operator
from tauten.run.steps import PlanSteps
from tauten.run.trace import Trace


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gave: its value, and the trace of how."""

    value: Any
    trace: Trace
    plan: str
    request_id: str


@dataclass(slots=True, eq=False)
class Opened:
    """A plan in the engine's table."""

    plan: Plan
    workflow: Workflow[..., Any]
    lowered: Lowered | None
    id: str = ""
    operators: tuple[Operator, ...] = ()
    result: tuple[Getter, bool] | None = None
    slots: int = 0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()  # the step whose result is the request's
    streams: bool = False
    bound: dict[str, BoundStep] = field(default_factory=dict)
    steps: PlanSteps | None = None
    path: Path | None = None  # what its steps will take; None where a drawing queues for nothing
    keys: list[str] = field(default_factory=list)  # of the deployments it holds
    weight: float = 1.0
    requests: set[Asked] = field(default_factory=set)  # that run it now

    @property
    def running(self) -> int:
        return sum(request.count for request in self.requests)

    def stop(self) -> None:
        """Tell all who run that it was retired."""
        said = f"plan {self.plan.id} was retired while the request ran"
        for request in list(self.requests):
            request.fail(Unavailable(said, help="send the request again"))
