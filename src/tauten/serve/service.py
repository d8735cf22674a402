"""What is served: workflows by name, each with its engine, plan, SLO and readiness."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tauten.describe.slo import Slo
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, NotFound, Overloaded, PlanError, StageError, Unavailable, suggest
from tauten.plan.plan import Plan
from tauten.run.door.objective import aim_of, budget_of
from tauten.run.engine import Engine
from tauten.run.request import Aim
from tauten.serve.kept.chance import Chance, chance_of
from tauten.serve.kept.flights import shareable
from tauten.serve.samples import asks_elsewhere

ROOM_S = 60.0  # that a sample waits for room among requests: a new plan is worth that, an operator's patience not more
LOOK_S = 0.05  # between looks, where nobody says when there will be room


class NotReady(Unavailable):
    """The server starts, drains or swaps: the client may ask again."""


class Service:
    """One workflow that is served by its name."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        plan: Plan | None = None,
        *,
        name: str = "",
        slo: Slo | None = None,
        samples: Sequence[Mapping[str, Any]] = (),
        made_up: Sequence[Mapping[str, Any]] = (),
        engine: Engine | None = None,
    ) -> None:
        self.workflow = workflow
        self.name = name or workflow.name
        self.promise(slo or workflow.slo)
        self.samples = samples  # real inputs; they warm the service up before it is ready
        self.made_up = made_up  # harmless ones, in place of them
        self.unfit = ""  # what a made-up input failed with
        self.engine = engine or Engine()
        self.shareable = shareable(workflow)  # of its requests those that `shares` says
        self.ready = False
        self.was_ready = False
        self.away = False  # an administrator unloaded it: the server is ready without it
        self._plan = plan
        self._swapping = asyncio.Lock()
        self.plan_id = ""

    async def open(self) -> None:
        """Load the plan's models and run the samples; then ready."""
        async with self.engine.deployments.warming_up():
            self.plan_id = await self.engine.open(self.workflow, self._plan)
            await self._warm_up()
        self.ready = self.was_ready = True

    async def swap(self, plan: Plan) -> str:
        """Go over to another plan without dropping a request; returns its id.

        The new plan is warmed up beside the old one, which drains afterwards. One swap at a time.
        """
        async with self._swapping:
            new = plan.id
            if new not in self.engine.plans:
                await self._warm(plan)
            self.plan_id = new  # that requests draw from now on, also where who asked for it leaves
            self._plan = plan  # opened again, it is served by what it went over to
            await self.engine.swap(self.workflow, plan)
        return new

    async def _warm(self, plan: Plan) -> None:
        """Open a plan that gets no traffic yet and run the samples through it; failing leaves nothing open."""
        try:
            async with self.engine.deployments.warming_up():
                await self.engine.open(self.workflow, plan, weight=0.0)
                await self._warm_up(plan.id)
        except BaseException:
            if plan.id in self.engine.plans:
                await self.engine.retire(plan.id, drain_s=0.0)
            raise

    async def _warm_up(self, plan: str = "") -> None:
        """Run what warms a plan up. A made-up input may fail: no stage has promised to take it; and where a plan asks
        a provider nobody pays for one."""
        for sample in self.samples:
            await self._rehearse(sample, plan)
        self.unfit = ""
        if asks_elsewhere(self.engine.plans[plan or self.plan_id].plan):
            return
        for sample in self.made_up:
            try:
                await self._rehearse(sample, plan)
            except (InputError, StageError) as error:
                self.unfit = f"{error.code} {error.message}"

    async def _rehearse(self, sample: Mapping[str, Any], plan: str) -> None:
        """Run one sample. Where those who ask leave no room for it, it waits for its turn, a while."""
        until = self.engine.clock() + ROOM_S
        while True:
            try:
                await self.engine.run(self.workflow.bind(**sample), plan=plan)
                return
            except Overloaded as error:
                if self.engine.clock() >= until:
                    raise
                await asyncio.sleep(min(max(error.retry_after_s or 0.0, LOOK_S), 1.0))

    async def close(self) -> None:
        self.ready = False
        await self.engine.close()

    def promise(self, slo: Slo) -> None:
        """Serve by an SLO from now on."""
        self.slo = slo
        self.aim: Aim = aim_of(slo)  # what a request that names no deadline is admitted for
        self.budget_s = budget_of(slo)  # and how long it may take before its work is stopped

    def chance(self, plan: str = "") -> Chance:
        """What a plan, or the present one, leaves to chance."""
        opened = self.engine.plans.get(plan or self.plan_id)
        return chance_of(self.workflow, None if opened is None else opened.lowered)

    def shares(self, inputs: Mapping[str, Any], plan: str = "") -> bool:
        """Whether a request with these inputs may share the computation of an identical one."""
        return self.shareable and not self.chance(plan).draws(inputs)

    def check(self) -> None:
        """Raise where requests cannot be taken now."""
        if not self.ready:
            raise NotReady(f"'{self.name}' is not ready", help="ask /health/ready, then send again")


class Services:
    """The services of a server, by name."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._named: dict[str, Service] = {}
        for service in services:
            if service.name in self._named:
                raise PlanError(
                    f"two workflows are called '{service.name}'",
                    help="give one another name: NAME=FILE.py:workflow",
                    code="E130",
                )
            self._named[service.name] = service

    def __iter__(self) -> Iterator[Service]:
        return iter(self._named.values())

    def __getitem__(self, name: str) -> Service:
        """A service that takes requests now; raises NotFound, or NotReady."""
        service = self._named.get(name)
        if service is None:
            raise NotFound(f"no workflow is served as {name!r}", help=suggest(name, self._named))
        service.check()
        return service

    def find(self, name: str) -> Service | None:
        """A service, ready or not."""
        return self._named.get(name)

    @property
    def names(self) -> list[str]:
        return list(self._named)

    @property
    def ready(self) -> bool:
        return bool(self._named) and all(service.ready for service in self)

    async def open(self) -> None:
        for service in self:
            await service.open()

    async def close(self) -> None:
        await asyncio.gather(*(service.close() for service in self))
