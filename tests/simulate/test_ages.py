"""Results that simulated caches keep grow old by the simulation's clock, and the same seed draws the same lots."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from simulate.kit_desk import HEAR_MS, NAIVE, desk, learned
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.lookups import TimedCaches
from tauten.improve.simulate.machine import Machine, Shared
from tauten.improve.simulate.simulator import Simulated, Simulator
from tauten.plan.plan import CachePlan

SAME = {"sound": "a", "photo": "xy"}
TTL_S = 60.0


@pytest.fixture(scope="module")
def library() -> Library:
    return learned(NAIVE, items=[(id, SAME) for id in ("first", "second", "third")])


def run(library: Library, rules: CachePlan, *at_s: float) -> Simulated:
    """Requests that ask the same, at these instants."""
    arrivals = list(zip(at_s, ("first", "second", "third"), strict=False))
    plan = NAIVE.edit("hear", cache=rules)
    return Simulator(desk, library, Shared(cores=64)).run(plan, arrivals)


def heard(found: Simulated) -> int:
    """How often the model ran."""
    return sum(found.batches["hear/synthetic"].values())


def test_what_is_kept_for_a_minute_is_gone_after_it(library: Library) -> None:
    rules = CachePlan(ttl_s=TTL_S)
    soon, late = run(library, rules, 0.0, TTL_S / 2), run(library, rules, 0.0, TTL_S * 2)
    assert (heard(soon), heard(late)) == (1, 2)
    saved_s = late.done[1].seconds - soon.done[1].seconds
    assert saved_s > 0.9 * HEAR_MS / 1e3


def test_nothing_grows_old_between_requests_that_are_simulated_one_by_one(library: Library) -> None:
    assert heard(run(library, CachePlan(ttl_s=TTL_S), 0.0, 1e4, 2e4)) == 1


def test_what_is_stale_is_given_at_once_and_computed_anew_behind(library: Library) -> None:
    rules = CachePlan(ttl_s=TTL_S, stale_s=10 * TTL_S)
    found = run(library, rules, 0.0, 2 * TTL_S, 2.5 * TTL_S)
    assert heard(found) == 2, "for the second, which did not wait for it; the third finds that"
    _, second, third = (each.seconds for each in found.done)
    assert second == pytest.approx(third, rel=0.1)
    assert second < found.done[0].seconds - 0.9 * HEAR_MS / 1e3


def test_lots_are_the_seeds() -> None:
    def lots(seed: int) -> list[float]:
        caches = TimedCaches(Machine(Shared(cores=1)), lambda: 0.0, seed)
        place = caches.take([], "hear", "results", 1 << 20)
        assert place is not None
        return [place.draw() for _ in range(3)]

    assert lots(1) == lots(1)
    assert lots(1) != lots(2)
