"""What a plan would do under the stated load, by simulation: always the same requests at the same instants, so that
plans differ by what they are and not by what came when."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from tauten.describe.slo import Slo
from tauten.describe.workflow import Workflow
from tauten.improve.load.figures import quantile_of
from tauten.improve.load.schedule import Load
from tauten.improve.optimizer.memory import memory_of
from tauten.improve.optimizer.search import MEMORY, Figures
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulated, Simulator
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.trace import Trace

REQUESTS: Final = 200  # ten of them lie beyond p95
LEAST_S: Final = 30.0  # of arrivals: bursts of some seconds come and go several times
TIMES: Final = ("p50_ms", "p95_ms", "p99_ms", "first_output_ms")


class Pricer:
    """Prices plans of one workflow by what a library knows. `rate` in requests a second; 0 is one at a time."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        library: Library,
        shared: Shared,
        rate: float,
        *,
        seed: int = 0,
        requests: int = REQUESTS,
    ) -> None:
        self.simulator = Simulator(workflow, library, shared)
        self.library = library
        self.rate = rate
        self.seed = seed
        self.requests = requests

    def __call__(self, plan: Plan, seed: int | None = None) -> Figures:
        """Figures of a plan; raises PlanError E131 where something that it wants was never measured."""
        found = figures_of(self.simulate(plan, self.rate, seed=seed), self.library)
        held = memory_of(self.library, lower(self.simulator.graph, plan))
        if held is not None:
            found.values[MEMORY] = float(held)
        return found

    def simulate(
        self,
        plan: Plan,
        rate: float,
        *,
        slo: Slo | None = None,
        seed: int | None = None,
        traces: list[Trace] | None = None,
    ) -> Simulated:
        """A plan under a rate; with an SLO the door refuses by it. `traces` is given that of each request."""
        seed = self.seed if seed is None else seed
        return self.simulator.run(plan, self.arrivals(rate, seed), slo=slo, seed=seed, traces=traces)

    def arrivals(self, rate: float, seed: int) -> list[tuple[float, str]]:
        """Poisson arrivals of the known requests, in turn; one at a time where there is no rate."""
        ids = list(self.library.inputs)
        if not rate:
            return [(place * ALONE_S, ids[place % len(ids)]) for place in range(len(ids))]
        count = max(self.requests, math.ceil(rate * LEAST_S))
        schedule = Load(rate_per_s=rate, requests=count, warm_up_s=0.0, seed=seed).schedule(len(ids))
        return [
            (at - schedule.due[0], ids[item]) for at, item in zip(schedule.due, schedule.items, strict=True)
        ]


ALONE_S: Final = 1e4  # of virtual time between requests: the one before is over


def figures_of(found: Simulated, library: Library) -> Figures:
    """By the names of SLO limits; of a first output the percentile that an SLO means."""
    values = {name: found.latency_ms(quantile_of(name)) for name in TIMES[:-1]}
    values["first_output_ms"] = found.first_ms(quantile_of("first_output_ms"))
    values["core_ms"] = found.core_seconds * 1e3 / max(1, len(found.done))
    return Figures(values, found.failed / max(1, len(found.done)))


def curve(pricer: Pricer, plan: Plan, rates: Sequence[float]) -> list[tuple[float, float, float]]:
    """(requests a second, p50 in ms, p95 in ms) of a plan at each rate."""
    points = []
    for rate in rates:
        found = pricer.simulate(plan, rate)
        points.append((rate, found.latency_ms(0.5), found.latency_ms(0.95)))
    return points
