"""A simulation says what the engine would have done: compared with the engine itself on a virtual clock."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from simulate.kit_desk import BATCHED, ITEMS, NAIVE, OVERLAP, desk, learned
from tauten.clock import run_virtual
from tauten.describe.slo import Slo
from tauten.errors import PlanError
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulated, Simulator
from tauten.plan.plan import Plan, StagePlan
from tauten.run.engine import Engine

ROOMY = Shared(cores=64)  # told times do not slow one another
Arrivals = list[tuple[float, str]]


def poisson(rate: float, count: int, seed: int = 0) -> Arrivals:
    draws, at, found = random.Random(seed), 0.0, []
    for _ in range(count):
        at += draws.expovariate(rate)
        found.append((at, draws.choice(ITEMS)[0]))
    return found


def real(plan: Plan, arrivals: Arrivals) -> list[tuple[str, float, float]]:
    """(id, seconds, seconds to the first output) of each request, in the order of their ends."""
    inputs = dict(ITEMS)
    done: list[tuple[str, float, float]] = []

    async def one(engine: Engine, id: str) -> None:
        request = engine.request()
        async for _ in engine.stream(inputs[id], request=request):
            pass
        trace = request.trace
        assert trace.first_output is not None
        done.append((id, engine.clock() - trace.start, trace.first_output - trace.start))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Engine(clock=loop.time) as engine:
            await engine.open(desk, plan)
            begun, tasks = loop.time(), []
            for at_s, id in arrivals:
                await asyncio.sleep(begun + at_s - loop.time())
                tasks.append(loop.create_task(one(engine, id)))
            await asyncio.gather(*tasks)

    run_virtual(main())
    return done


def simulated(library: Library, plan: Plan, arrivals: Arrivals, **more: Any) -> Simulated:
    return Simulator(desk, library, ROOMY).run(plan, arrivals, **more)


@pytest.mark.parametrize("plan", [NAIVE, OVERLAP, BATCHED], ids=["naive", "overlap", "batched"])
def test_one_request_alone_takes_what_it_took(plan: Plan) -> None:
    library = learned(plan)
    for id, _ in ITEMS:
        seen, told = real(plan, [(0.0, id)]), simulated(library, plan, [(0.0, id)])
        assert [(each.id, each.seconds, each.first_s) for each in told.done] == [
            pytest.approx(one, abs=2e-4) for one in seen
        ]


def test_what_was_seen_of_one_plan_tells_another() -> None:
    """Branches side by side were never run: the naive plan has shown all that they do."""
    library = learned(NAIVE)
    for id, _ in ITEMS:
        [(_, seconds, first_s)] = real(OVERLAP, [(0.0, id)])
        [told] = simulated(library, OVERLAP, [(0.0, id)]).done
        assert (told.seconds, told.first_s) == pytest.approx((seconds, first_s), abs=2e-4)


@pytest.mark.parametrize(("plan", "rate"), [(NAIVE, 6.0), (OVERLAP, 8.0), (BATCHED, 12.0)])
def test_under_load_requests_wait_as_they_would(plan: Plan, rate: float) -> None:
    library, arrivals = learned(plan), poisson(rate, 400)
    seen = sorted(seconds for _, seconds, _ in real(plan, arrivals))
    told = sorted(each.seconds for each in simulated(library, plan, arrivals).done)
    for share in (0.5, 0.9, 0.95):
        assert told[int(share * 400)] == pytest.approx(seen[int(share * 400)], rel=0.05)


def test_an_slo_refuses_as_the_door_would() -> None:
    library = learned(NAIVE)
    slo = Slo(p95_ms=900.0)
    calm = simulated(library, NAIVE, poisson(2.0, 200), slo=slo)
    crowd = simulated(library, NAIVE, poisson(30.0, 600), slo=slo)
    assert calm.failed == 0
    assert crowd.failed > 300
    assert {each.error for each in crowd.done} <= {"", "E401", "E402"}
    assert crowd.latency_ms(0.95) < 3 * 900.0


def test_a_small_machine_is_slower() -> None:
    library, arrivals = learned(OVERLAP), poisson(4.0, 200)
    roomy = Simulator(desk, library, ROOMY).run(OVERLAP, arrivals)
    small = Simulator(desk, library, Shared(cores=1)).run(OVERLAP, arrivals)
    assert small.latency_ms(0.5) > 1.2 * roomy.latency_ms(0.5)
    assert 0.0 < roomy.busy < small.busy <= 1.0


def test_the_same_seed_gives_the_same_figures() -> None:
    library, arrivals = learned(BATCHED), poisson(12.0, 300)
    assert simulated(library, BATCHED, arrivals).done == simulated(library, BATCHED, arrivals).done


def test_what_was_never_seen_is_not_made_up() -> None:
    with pytest.raises(PlanError, match="hear") as refused:
        simulated(
            learned(NAIVE),
            Plan(graph=NAIVE.graph, stages={"hear": StagePlan(precision="int8")}),
            [(0.0, "deaf")],
        )
    assert refused.value.code == "E131"
    with pytest.raises(PlanError, match="not seen as the plan wants it") as unseen:
        simulated(learned(NAIVE), NAIVE.edit("look", settings={"rows": 2}), [(0.0, "short")])
    assert unseen.value.code == "E131"
