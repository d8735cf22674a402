"""Schedules of simulated requests: what `Gains` asks, answered by the optimizer's own prices."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.improve.optimizer.pricing import Pricer, figures_of
from tauten.improve.optimizer.search import Figures
from tauten.improve.simulate.simulator import Simulator
from tauten.improve.simulate.tape import Visit
from tauten.improve.whatif.gains import Prices, PricesQuicker
from tauten.improve.whatif.quicker import Quicker
from tauten.plan.lower import lower
from tauten.plan.plan import Plan

LEAST_S = 1e-4  # of a step's time in one request: below, nothing is to be gained


def prices(pricer: Pricer) -> Prices:
    """Any plan, under the schedule of any number."""

    def price(plan: Plan, number: int) -> Figures:
        return pricer(plan, pricer.seed + number)

    return price


def prices_quicker(pricer: Pricer, plan: Plan) -> PricesQuicker:
    """One plan with a step in less time, under the schedule of any number."""
    known = pricer.simulator

    def price(step: str, by: float, number: int) -> Figures:
        simulator = Simulator(known.workflow, Quicker(pricer.library, step, by), known.shared)
        seed = pricer.seed + number
        found = simulator.run(plan, pricer.arrivals(pricer.rate, seed), seed=seed)
        return figures_of(found, pricer.library)

    return price


def working_steps(pricer: Pricer, plan: Plan) -> list[str]:
    """The steps of a plan that were seen to take time, in its order."""
    graph = pricer.simulator.workflow.graph
    assert graph is not None  # the simulator looked
    lowered = lower(graph, plan)
    found = []
    for step in lowered.steps:
        visits = [each for one in pricer.library.seen(lowered, step).values() for each in one.values()]
        if max((_seconds(visit) for visit in visits), default=0.0) >= LEAST_S:
            found.append(step.name)
    return found


def _seconds(visit: Visit) -> float:
    """That it takes at the least to play a visit, its waits left out."""
    own_s = sum(level.gap_s for level in visit.levels) + visit.tail_s
    return own_s + sum(event.seconds + event.gap_s for event in visit.events())
