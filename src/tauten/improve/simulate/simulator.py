"""Runs a plan in virtual time: the engine, its door, its deployments and the plan's order are the real ones.

What is not real: the models, which only take their measured time on a machine that they share, and the code of
the stages, which does what it was recorded to do. The same seed gives the same figures.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tauten.clock import VirtualLoop, run_virtual
from tauten.describe.slo import Slo
from tauten.describe.workflow import Workflow
from tauten.errors import TautenError
from tauten.improve.drawn import drawn
from tauten.improve.simulate.coarse import coarse
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Machine, Shared
from tauten.improve.simulate.models import TapedDeployments
from tauten.improve.simulate.player import Played, PlayedDecoders, played
from tauten.improve.simulate.tape import Tape
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.door.objective import aim_of, budget_of
from tauten.run.engine import PREPARATION_THREADS, Engine
from tauten.run.request import ANY_TIME
from tauten.run.slowed import Delays
from tauten.run.trace import Trace
from tauten.statistics import percentile

Arrivals = Iterable[tuple[float, str]]
"""(seconds since the beginning, id of the recorded request), ascending."""


class Done(msgspec.Struct, frozen=True):
    """One simulated request: seconds from when it was due; `error` is the code of what ended it."""

    id: str
    at_s: float
    seconds: float
    first_s: float
    error: str = ""
    slowed_s: Mapping[str, float] = {}  # what steps of it were delayed by, where delays were drawn


class Simulated(msgspec.Struct, frozen=True):
    """What became of all requests."""

    plan: str
    done: list[Done]
    busy: float  # share of the machine's cores that models and code took
    core_seconds: float  # that they took
    batches: Mapping[str, Mapping[int, int]]  # deployment -> size -> how often

    def latency_ms(self, quantile: float) -> float:
        """Of the answered requests; infinite where none was."""
        return _percentile_ms([each.seconds for each in self.done if not each.error], quantile)

    def first_ms(self, quantile: float) -> float:
        """To the first output."""
        return _percentile_ms([each.first_s for each in self.done if not each.error], quantile)

    @property
    def failed(self) -> int:
        return sum(bool(each.error) for each in self.done)


def _percentile_ms(seconds: list[float], quantile: float) -> float:
    return percentile(seconds, quantile) * 1e3 if seconds else math.inf


class Simulator:
    """Simulates plans of one workflow by what a library knows of it."""

    def __init__(self, workflow: Workflow[..., Any], library: Library, shared: Shared) -> None:
        self.graph = drawn(workflow)
        self.workflow = workflow
        self.library = library
        self.shared = shared

    def run(
        self,
        plan: Plan,
        arrivals: Arrivals,
        *,
        slo: Slo | None = None,
        seed: int = 0,
        delays: Delays | None = None,
        traces: list[Trace] | None = None,
    ) -> Simulated:
        """What would become of requests that arrive so under a plan. With an SLO the door refuses by it; `traces` is
        given that of each request, in the order of `done`.

        Raises PlanError E131 where something that the plan wants was never measured.
        """
        run = _Run(self, plan, slo, seed, delays, traces)
        found: Simulated = run_virtual(run.main(arrivals), _Loop)
        return found


class _Loop(VirtualLoop):
    """One that keeps no list of the streams that were begun: the engine closes all of its own."""

    def _asyncgen_firstiter_hook(self, agen: object) -> None:
        return


class _SimulatedEngine(Engine):
    """An engine whose deployments and threads only take their time."""

    def __init__(self, deployments: TapedDeployments, clock: Any, seed: int) -> None:
        super().__init__(None, clock=clock, seed=seed)
        self.deployments = deployments
        self.decoders = PlayedDecoders(threads=PREPARATION_THREADS, clock=clock)


class _Run:
    def __init__(
        self,
        simulator: Simulator,
        plan: Plan,
        slo: Slo | None,
        seed: int,
        delays: Delays | None,
        traces: list[Trace] | None,
    ) -> None:
        self.library = simulator.library
        self.plan = plan
        self.slo = slo
        self.seed = seed
        self.delays = delays
        self.traces = traces
        self.machine = Machine(simulator.shared)
        self.workflow, self.graph = simulator.workflow, simulator.graph
        self.tapes: dict[str, Tape] = {}
        self.done: list[Done] = []
        self.sent: Counter[str] = Counter()
        self.unseen = False  # nobody looks at where requests spend their time
        self.running = 0  # requests
        self.ended = 0.0  # when the last one was over

    async def main(self, arrivals: Arrivals) -> Simulated:
        loop = asyncio.get_running_loop()
        self.lowered, arrivals = lower(self.graph, self.plan), list(arrivals)
        for id in dict.fromkeys(id for _, id in arrivals):
            self.tapes[id] = coarse(self.library.tape(id, self.lowered))
        workflow = copy.copy(self.workflow)
        workflow.graph = played(self.graph)
        deployments = TapedDeployments(
            self.library.costs_under(self.lowered), self.machine, loop.time, self.seed
        )
        self.caches = deployments.timed
        async with _SimulatedEngine(deployments, loop.time, self.seed) as engine:
            self.engine, self.id = engine, await engine.open(workflow, self.plan)
            if self.delays is not None:
                self.delays.slow(engine.plans[self.id])
            # Without a deadline nobody is told what is still to come, so nobody needs to learn it.
            self.unseen = self.slo is None and self.delays is None and self.traces is None
            if self.unseen:
                engine.plans[self.id].path = None
            await self._drive(arrivals, loop)
            batches = {view.label: view.batch_sizes for view in engine.deployments.views().values()}
        spent = self.machine.core_seconds / (self.machine.shared.cores * max(loop.time(), 1e-9))
        return Simulated(self.plan.id, self.done, spent, self.machine.core_seconds, batches)

    async def _drive(self, arrivals: Arrivals, loop: asyncio.AbstractEventLoop) -> None:
        """Open loop: a request comes when it is due, whatever became of those before. A bug in one ends them all."""
        begun = loop.time()
        try:
            async with asyncio.TaskGroup() as running:
                for at_s, id in arrivals:
                    left_s = begun + at_s - loop.time()
                    if left_s > 0.0:
                        await asyncio.sleep(left_s)
                    running.create_task(self._one(id, at_s, loop))
        except ExceptionGroup as several:
            raise several.exceptions[0] from several

    async def _one(self, id: str, at_s: float, loop: asyncio.AbstractEventLoop) -> None:
        tape, slo, error = self.tapes[id], self.slo, ""
        aim = aim_of(slo) if slo is not None else ANY_TIME
        request = Played(tape, self.machine, loop.time, aim=aim)
        request.partition = str(self.sent[id])  # one that comes again stands for another of its like
        self.sent[id] += 1
        if self.unseen:
            request.unseen()
        if slo is not None:
            request.deadline = request.start + budget_of(slo)
        if not self.running:
            self.caches.idle(loop.time() - self.ended)
        self.running += 1
        try:
            async for _ in self.engine.stream(tape.inputs, plan=self.id, request=request):
                pass
        except TautenError as refused:
            error = refused.code
        self.running -= 1
        self.ended = now = loop.time()
        trace = request.trace
        first = now if trace.first_output is None else trace.first_output
        slowed = self.delays.drawn.get(request.id, {}) if self.delays is not None else {}
        self.done.append(Done(id, at_s, now - trace.start, first - trace.start, error, slowed))
        if self.traces is not None:
            self.traces.append(trace)
