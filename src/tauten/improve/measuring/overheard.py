"""What models are really given: every item that reaches an engine while requests run, by step and role.

It is heard where all items pass, at the queue of a deployment: whatever the stage made of its inputs, under whatever
plan, in a drawn workflow or in running code, is heard as the backend sees it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tauten.clock import Clock, real
from tauten.describe.stage import StageKind
from tauten.describe.workflow import Workflow
from tauten.plan.plan import ModelChoice, Plan, StagePlan
from tauten.run.bound import BoundStep
from tauten.run.contracts import Chunk
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.deployments import Deployments, Models
from tauten.run.deploy.fair_queue import Waiter
from tauten.run.deploy.job import Job
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.engine import Engine
from tauten.run.opened import Opened
from tauten.run.request import Asked, Request
from tauten.run.steps import PlanSteps
from tauten.run.visits import base_name

MOST = 64  # items of one model: the sizes of its inputs show in that many; of photographs they are 300 MB

Place = Deployment | SlotDeployment
Where = tuple[str, str]
"""(step, role)."""


class Heard(NamedTuple):
    """One model of a step: how the plan runs it, its files, and what it was given, in the order of the requests."""

    choice: ModelChoice
    files: Mapping[str, Path]
    items: list[Any]


class Ear:
    """Keeps at most `most` items of each model: evenly drawn from all that came, the same for the same seed."""

    def __init__(self, most: int = MOST, seed: int = 0) -> None:
        self.most = most
        self.seed = seed
        self.models: dict[Where, tuple[ModelChoice, Mapping[str, Path]]] = {}
        self._roles: dict[tuple[str, Place], str] = {}
        self._kept: dict[Where, list[tuple[int, Any]]] = {}
        self._came: dict[Where, int] = {}
        self._draws: dict[Where, random.Random] = {}

    def learn(self, bound: BoundStep, models: Mapping[str, ModelChoice]) -> None:
        """Know which place plays which role of a step. Where two roles have one place, the first has its items."""
        for role, choice in models.items():
            if role in bound.deployments:
                self._roles.setdefault((bound.name, bound.deployments[role]), role)
                self.models[bound.name, role] = choice, bound.files[role]

    def note(self, place: Place, visit: str, item: Any) -> None:
        """An item reaches a place; code of the user's own is no model, and is passed over."""
        step = base_name(visit)
        role = self._roles.get((step, place))
        if role is None:
            return
        where = step, role
        came = self._came[where] = self._came.get(where, 0) + 1
        kept = self._kept.setdefault(where, [])
        if len(kept) < self.most:
            kept.append((came, copied(item)))
            return
        draws = self._draws.setdefault(where, random.Random(f"{self.seed} {step} {role}"))
        index = draws.randrange(came)  # reservoir sampling: Vitter, ACM TOMS 11 (1985) 37-57
        if index < self.most:
            kept[index] = came, copied(item)

    def heard(self, step: str, role: str) -> list[Any]:
        """What a model was given, in the order in which it came."""
        kept = self._kept.get((step, role), [])
        return [item for _, item in sorted(kept, key=lambda each: each[0])]

    def all(self) -> dict[Where, Heard]:
        """Every model of every step that was opened, with what it was given."""
        return {
            where: Heard(choice, files, self.heard(*where)) for where, (choice, files) in self.models.items()
        }


def copied(item: Any) -> Any:
    """An item whose arrays are its own: stages may use their memory again."""
    if isinstance(item, np.ndarray):
        return item.copy()
    if isinstance(item, Mapping):
        return {name: copied(value) for name, value in item.items()}
    return item


class OverhearingEngine(Engine):
    """An engine that notes what its models are given."""

    def __init__(
        self, store: Models | None = None, *, clock: Clock = real, seed: int = 0, ear: Ear | None = None
    ) -> None:
        self.ear = ear or Ear()
        super().__init__(store, clock=clock, seed=seed)
        self.deployments = _Overheard(store, clock, self.ear)
        self._alone.steps = self._plan_steps(self._alone)

    def _plan_steps(self, opened: Opened) -> PlanSteps:
        steps = _Steps(opened.plan, opened.keys, self.deployments, self.workers, self.decoders)
        steps.ear = self.ear
        return steps


async def overhear(
    workflow: Workflow[..., Any],
    plan: Plan | None,
    requests: Iterable[Mapping[str, Any]],
    *,
    store: Models | None = None,
    most: int = MOST,
    seed: int = 0,
    clock: Clock = real,
    progress: Callable[[int], None] | None = None,
) -> dict[Where, Heard]:
    """Run the requests under the plan, one after another, and give what each model of it was given.

    A model that none of them came to has no items. Raises what opening the plan and what a request raises.
    """
    ear = Ear(most, seed)
    async with OverhearingEngine(store, clock=clock, ear=ear) as engine:
        name = await engine.open(workflow, plan)
        for number, inputs in enumerate(requests, start=1):
            async for _ in engine.stream(inputs, plan=name):
                pass
            if progress is not None:
                progress(number)
    return ear.all()


class _HeardDeployment(Deployment):
    ear: Ear

    def submit(self, request: Asked, step: str, item: Any, waiter: Waiter) -> Job:
        self.ear.note(self, step, item)
        return super().submit(request, step, item, waiter)


class _HeardSlots(SlotDeployment):
    ear: Ear

    def stream(self, request: Request, step: str, item: Mapping[str, Any]) -> AsyncIterator[Chunk]:
        self.ear.note(self, step, item)
        return super().stream(request, step, item)


class _Overheard(Deployments):
    batched = _HeardDeployment
    slotted = _HeardSlots

    def __init__(self, store: Models | None, clock: Clock, ear: Ear) -> None:
        super().__init__(store, clock)
        self._ear = ear

    def _make(self, choice: ModelChoice, files: dict[str, Path]) -> Place:
        place = super()._make(choice, files)
        assert isinstance(place, _HeardDeployment | _HeardSlots)  # as said above
        place.ear = self._ear
        return place


class _Steps(PlanSteps):
    ear: Ear

    async def _open(
        self,
        name: str,
        kind: StageKind[..., Any],
        params: Mapping[str, Any],
        models: dict[str, ModelChoice],
        chosen: StagePlan,
    ) -> BoundStep:
        bound = await super()._open(name, kind, params, models, chosen)
        self.ear.learn(bound, models)
        return bound
