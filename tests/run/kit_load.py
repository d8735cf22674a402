"""Simulated load on one deployment, on a virtual clock: open and closed loops, and what became of each request."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from tauten.clock import run_virtual
from tauten.errors import BackendError, DeadlineExceeded, Overloaded
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.deploy.deployment import Deployment
from tauten.run.request import Request

WAYS_OUT = (Overloaded, DeadlineExceeded, BackendError)


class Outcome(NamedTuple):
    """One request's end: "done", or the name of its error."""

    came: float
    took: float
    how: str
    tenant: str
    priority: int
    size: int


class Load:
    """Requests to a deployment and what became of them."""

    def __init__(self, deployment: Deployment, seed: int = 0) -> None:
        self.deployment = deployment
        self.loop = asyncio.get_running_loop()
        self.draws = random.Random(seed)
        self.outcomes: list[Outcome] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def one(
        self, budget_s: float = math.inf, tenant: str = "", priority: int = 0, item: Any = 1
    ) -> Outcome:
        """One request under its deadline, as an engine runs it."""
        now = self.loop.time()
        request = Request(self.loop.time, deadline=now + budget_s, tenant=tenant, priority=priority)
        arm(request)
        how = "done"
        try:
            await stoppable(request, self.deployment.infer(request, "s", item))
        except WAYS_OUT as error:
            how = type(error).__name__
        except asyncio.CancelledError:
            how = "cancelled"
        finally:
            disarm(request)
        batches = request.trace.batches
        size = batches[0][1] if batches else 0
        outcome = Outcome(now, self.loop.time() - now, how, tenant, priority, size)
        self.outcomes.append(outcome)
        return outcome

    def start(self, **request: Any) -> asyncio.Task[None]:
        task: asyncio.Task[Any] = self.loop.create_task(self.one(**request))  # type: ignore[arg-type]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def open_loop(self, rate: float, seconds: float, **request: Any) -> None:
        """Poisson arrivals, whatever the answers do."""
        until = self.loop.time() + seconds
        at = self.loop.time()
        while (at := at + self.draws.expovariate(rate)) < until:
            await asyncio.sleep(at - self.loop.time())
            self.start(**request)
        await self.settled()

    async def closed_loop(self, clients: int, each: int, think_s: float = 0.0, **request: Any) -> None:
        """Clients that send their next request a moment after the last answer."""

        async def client() -> None:
            for _ in range(each):
                await self.one(**request)
                await asyncio.sleep(think_s * self.draws.uniform(0.5, 1.5))

        await asyncio.gather(*(client() for _ in range(clients)))

    async def settled(self) -> None:
        while self.tasks:
            await asyncio.wait(self.tasks)

    def took(self, how: str = "done") -> list[float]:
        return sorted(each.took for each in self.outcomes if each.how == how)

    @property
    def ways(self) -> Counter[str]:
        return Counter(each.how for each in self.outcomes)


def simulate(
    body: Callable[[Load], Awaitable[Any]],
    *,
    seed: int = 0,
    backend: Callable[[ModelSpec], Any] = SyntheticBackend,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """Run `body` with a load on a fresh deployment, and close it; no request may be left without an end."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        spec = ModelSpec("synthetic", options={"seed": seed, **(options or {})})
        deployment = Deployment(lambda: backend(spec), label="model", clock=loop.time, **settings)
        await deployment.open()
        load = Load(deployment, seed)
        try:
            result = await body(load)
        finally:
            await deployment.close()
        await load.settled()
        assert deployment.waiting == 0
        assert deployment.zombies() == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return run_virtual(main())


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]
