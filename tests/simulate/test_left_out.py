"""What a simulation leaves out because nobody would read it changes no figure: the same to the last digit with it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from typing import Any

import pytest

from simulate.kit_desk import BATCHED, ITEMS, NAIVE, OVERLAP, desk, learned
from tauten.clock import VirtualLoop
from tauten.describe.slo import Slo
from tauten.improve.simulate import simulator
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulated, Simulator
from tauten.plan.plan import Plan
from tauten.run.attribution import attribute
from tauten.run.door.admission import Path
from tauten.run.trace import Trace

SMALL = Shared(cores=2, interrupted=1.3, crowded=1.5)
PLANS = {
    "naive": NAIVE,
    "overlap": OVERLAP,
    "batched": BATCHED,
    "replicas": OVERLAP.edit("look", replicas=2),
    "cached": OVERLAP.edit("hear", cache=True),
}


def arrivals(rate: float, count: int = 150) -> list[tuple[float, str]]:
    draws, at, found = random.Random(3), 0.0, []
    for _ in range(count):
        at += draws.expovariate(rate)
        found.append((at, draws.choice(ITEMS)[0]))
    return found


@pytest.fixture(scope="module")
def library() -> Library:
    return learned(NAIVE, BATCHED)


def simulated(library: Library, plan: Plan, **more: Any) -> Simulated:
    return Simulator(desk, library, SMALL).run(plan, arrivals(5.0), seed=4, **more)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_traces_that_somebody_reads_change_nothing(library: Library, plan: Plan) -> None:
    traces: list[Trace] = []
    seen, unseen = simulated(library, plan, traces=traces), simulated(library, plan)
    assert seen == unseen
    assert len(traces) == len(seen.done)
    for done, trace in zip(seen.done, traces, strict=True):
        assert trace.end - trace.start == done.seconds
        assert attribute(trace).wall == pytest.approx(done.seconds)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_time_that_passes_at_once_is_the_time_that_a_timer_would_take(
    library: Library, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = simulated(library, plan)
    monkeypatch.setattr(VirtualLoop, "skips", lambda self, seconds: False)
    slow = simulated(library, plan)
    assert [each.id for each in quick.done] == [each.id for each in slow.done]
    for one, other in zip(quick.done, slow.done, strict=True):
        assert (one.seconds, one.first_s) == pytest.approx((other.seconds, other.first_s), abs=1e-9)
    assert quick.batches == slow.batches
    assert quick.core_seconds == pytest.approx(slow.core_seconds)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_loop_that_keeps_no_list_of_streams_gives_the_same(
    library: Library, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = simulated(library, plan)
    monkeypatch.setattr(simulator, "_Loop", VirtualLoop)
    assert simulated(library, plan) == quick


def test_nobody_learns_what_no_deadline_asks_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    learns: list[int] = []
    learn = Path.learn

    def noted(self: Path, *args: Any) -> None:
        learns.append(1)
        learn(self, *args)

    monkeypatch.setattr(Path, "learn", noted)
    simulated(library, NAIVE)
    assert learns == []
    refusing = simulated(library, NAIVE, slo=Slo(p95_ms=900.0))
    assert learns, "a door that refuses learns from those that it let through"
    assert len(refusing.done) == 150
