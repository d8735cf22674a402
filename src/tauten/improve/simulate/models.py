"""Models that only take their time: what stands behind the deployments of a simulated engine.

An item is an `Event` of a tape, and a run of several takes what the fitted cost of the model says for their
weight, times how much slower than that cost its members were when they were recorded, times a drawn spread.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, ClassVar

from tauten.clock import Clock
from tauten.improve.simulate.costs import ELSEWHERE, Cost, StreamCost, drawn
from tauten.improve.simulate.lookups import TimedCaches
from tauten.improve.simulate.machine import ANYWHERE, Engine, Machine
from tauten.improve.simulate.tape import Event
from tauten.plan.plan import ModelChoice
from tauten.run.contracts import Chunk
from tauten.run.deploy.cpu_sets import cpu_sets
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.deployments import Deployments
from tauten.run.deploy.slots_deployment import SlotDeployment

Costs = Callable[[ModelChoice], Cost | StreamCost]
"""What a run of a model takes; raises PlanError for one that was not measured."""


class TapedBackend:
    """A batch backend on the virtual clock."""

    name: ClassVar[str] = "taped"
    option_keys: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, cost: Cost, machine: Machine, draws: random.Random, on: frozenset[int] = ANYWHERE
    ) -> None:
        self.cost = cost
        self.machine = machine
        self.draws = draws
        self.on = on  # the processors of its replica

    def open(self) -> None:
        return

    def group(self, item: Event) -> Hashable:
        found: Hashable = item.group
        return found

    def weight(self, item: Event) -> float:
        return item.weight

    def spend(self, items: Sequence[Event], over: Callable[[], object]) -> None:
        """Take as long as a run of these items does, and call back."""
        cost, total, slow = self.cost, 0.0, 0.0
        for item in items:
            total += item.weight
            slow += item.weight * item.slow
        seconds = cost.drawn(total, self.draws.random()) * (slow / total if total else 1.0)
        if cost.threads == ELSEWHERE:
            asyncio.get_running_loop().call_later(seconds, over)
            return
        self.machine.begin(seconds, over, cost.threads, cost.memory, None, self.on)

    def answer(self, items: Sequence[Event]) -> list[Any]:
        return [None] * len(items)

    def run(self, items: Sequence[Event]) -> list[Any]:
        return self.answer(items)

    def properties(self) -> Mapping[str, str]:
        return {"precision": "none", "threads": str(self.cost.threads), "device": "simulated"}

    def close(self) -> None:
        return


class TapedSlots:
    """A slot backend on the virtual clock. Its streams share one engine, which slows each as it was measured to."""

    name: ClassVar[str] = "taped_slots"
    option_keys: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, cost: StreamCost, machine: Machine, draws: random.Random, clock: Clock) -> None:
        self.cost = cost
        self.slots = cost.slots
        self.machine = machine
        self.draws = draws
        self.clock = clock
        self.engine = Engine(cost.slowed)

    async def open(self) -> None:
        return

    async def start(self, item: Mapping[str, Any]) -> AsyncIterator[Chunk]:
        event: Event = item["event"]
        cost, first = self.cost, self.cost.first
        seconds = first.drawn(event.fresh, self.draws.random()) * event.slow
        await self._take(seconds, first.memory)
        yield Chunk(tokens=min(1, round(event.tokens)), at=self.clock())
        rest = max(0.0, event.tokens - 1.0)
        each_s = cost.token_s * drawn(cost.ratios, self.draws.random()) * event.slow_tokens
        await self._take(event.rest_s(each_s), cost.memory)
        yield Chunk(tokens=round(rest), done=True, finish="stop", at=self.clock())

    async def _take(self, seconds: float, memory: float) -> None:
        """So long on this machine; a model elsewhere is only waited for, however many do."""
        threads = self.cost.first.threads
        if threads != ELSEWHERE:
            await self.machine.work(seconds, threads, memory, self.engine)
        elif seconds > 0.0:
            await asyncio.sleep(seconds)

    def lingering(self) -> Collection[float]:
        return ()  # closing a stream ends it at once

    def properties(self) -> Mapping[str, str]:
        return {"precision": "none", "threads": str(self.cost.first.threads), "device": "simulated"}

    async def close(self) -> None:
        return


class TapedDeployments(Deployments):
    """Opens, for each choice of a plan, a deployment of its settings over a model that only takes its time."""

    def __init__(self, costs: Costs, machine: Machine, clock: Clock, seed: int) -> None:
        super().__init__(None, clock)
        self.caches = self.timed = TimedCaches(machine, clock, seed)
        self._costs = costs
        self._machine = machine
        self._seed = seed

    async def files(self, choice: ModelChoice) -> dict[str, Any]:
        return {}

    def _make(self, choice: ModelChoice, files: dict[str, Any]) -> Deployment | SlotDeployment:
        cost, label = self._costs(choice), f"{choice.model}/{choice.backend}"
        draws = random.Random(f"{self._seed} {label} {choice.variant} {choice.precision} {choice.threads}")
        if isinstance(cost, StreamCost):
            return SlotDeployment(
                TapedSlots(cost, self._machine, draws, self._clock), label=label, clock=self._clock
            )
        sets = itertools.cycle(cpu_sets(choice.cpus, choice.nodes) or (ANYWHERE,))
        return self._of_batches(choice, lambda: TapedBackend(cost, self._machine, draws, next(sets)))


class Spending:
    """A piece of blocking work that takes so many seconds of one core, for threads that do not exist."""

    __slots__ = ("machine", "seconds")

    def __init__(self, machine: Machine, seconds: float) -> None:
        self.machine = machine
        self.seconds = seconds

    def __call__(self) -> None:
        return

    def spend(self, over: Callable[[], object]) -> None:
        """Take the time, and call back."""
        self.machine.begin(self.seconds, over)
