"""The search for the highest rate: on answers made up, and on a virtual server whose capacity is known."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from load.virtual_targets import Fifo, VirtualTarget, md1_capacity, virtually
from tauten.describe.slo import Slo
from tauten.errors import InputError
from tauten.improve.load.bench import Bencher, Side, trial_size
from tauten.improve.load.schedule import Load
from tauten.improve.load.search import MOST_TRIALS, Found, Trial, find_max_rate
from tauten.improve.load.target import Response
from tauten.improve.load.verdict import Answer
from tauten.statistics.early_stopping import allowed_misses


def search(capacity: float, *, start: float = 1.0, void_above: float = 1e9, **options: Any) -> Found:
    async def attempt(rate: float, seed: int) -> Trial:
        answer: Answer = "void" if rate > void_above else "met" if rate <= capacity else "missed"
        return Trial(rate_per_s=rate, seed=seed, answer=answer, n=100, misses=0)

    return asyncio.run(find_max_rate(attempt, start=start, **options))


@pytest.mark.parametrize("capacity", [0.013, 0.9, 1.0, 3.3, 777.0])
def test_the_rate_is_found_from_anywhere(capacity: float) -> None:
    found = search(capacity)
    assert found.stopped == "found"
    assert found.rate_per_s is not None
    assert capacity / 1.06 <= found.rate_per_s <= capacity
    assert found.above_per_s is not None
    assert found.above_per_s >= capacity


def test_each_trial_has_a_fresh_seed_and_the_last_one_confirms() -> None:
    found = search(3.3, seed=10)
    seeds = [trial.seed for trial in found.trials]
    assert seeds == list(range(10, 10 + len(seeds)))
    assert found.trials[-1].holds
    at_rate = [trial for trial in found.trials if trial.rate_per_s == found.rate_per_s]
    assert len(at_rate) == 2


def test_a_lucky_rate_is_not_confirmed() -> None:
    lucky = {"left": 1}

    async def attempt(rate: float, seed: int) -> Trial:
        holds = rate <= 2.0 or (rate == 4.0 and lucky["left"] > 0)
        lucky["left"] -= rate == 4.0
        return Trial(rate_per_s=rate, seed=seed, answer="met" if holds else "missed", n=1, misses=0)

    found = asyncio.run(find_max_rate(attempt, start=1.0, precision=0.5))
    assert found.rate_per_s is not None
    assert found.rate_per_s < 4.0


def test_a_target_that_never_holds() -> None:
    found = search(0.0)
    assert found.stopped == "no rate holds"
    assert found.rate_per_s is None
    assert len(found.trials) == 11  # down to a thousandth


def test_a_weak_generator_is_named_as_the_bound() -> None:
    found = search(1000.0, void_above=10.0)
    assert found.stopped == "generator"
    assert found.rate_per_s == pytest.approx(10.0, rel=0.06)
    assert search(1000.0, void_above=0.0).rate_per_s is None
    assert search(1000.0, void_above=0.0).stopped == "generator"


def test_a_search_ends() -> None:
    found = search(1e300, void_above=math.inf)
    assert found.stopped == "trials"
    assert len(found.trials) == MOST_TRIALS


def test_a_trial_is_large_enough_to_prove_something() -> None:
    p95 = {0.95: {"p95_ms": 100.0}}
    assert trial_size(0.1, p95) == 259
    assert trial_size(30.0, p95) == 1372
    assert trial_size(10.0, {0.5: {"p50_ms": 50.0}, **p95}) == 600
    assert allowed_misses(trial_size(0.1, {0.99: {"p99_ms": 100.0}}), 0.99) == 5


def test_a_trial_lasts_long_enough_for_a_queue_to_grow() -> None:
    """A million requests a second for a millisecond would prove that any server is fast enough."""
    assert trial_size(1e6, {0.95: {"p95_ms": 100.0}}) == 10_000_000
    assert trial_size(100.0, {0.95: {"p95_ms": 2000.0}}, 50) == 4000


# -- a server whose capacity is known ------------------------------------------------------------------------

SERVICE_S, LIMIT_S = 0.01, 0.05


def test_the_search_finds_the_capacity_of_md1() -> None:
    known = md1_capacity(0.95, LIMIT_S, SERVICE_S)
    assert 65 < known < 75

    async def main(clock: Any) -> Any:
        target = Fifo(clock, SERVICE_S)
        bencher = Bencher([Side("md1", target, [None])], slo=Slo(p95_ms=LIMIT_S * 1e3), clock=clock)
        return await bencher.max_rate(Load(requests=1372, seed=1))

    found, run = virtually(main)
    assert found.stopped == "found"
    assert 0.85 * known <= found.rate_per_s <= 1.02 * known
    assert run.answer == "met"
    assert run.rate_per_s == found.rate_per_s
    assert any(trial.stopped_early and not trial.holds for trial in found.trials)


def test_a_target_that_answers_nothing_is_an_error_with_its_reason() -> None:
    class Down(VirtualTarget):
        async def send(self, prepared: Any, budget_s: float) -> Response:
            await asyncio.sleep(0.001)
            return Response("failed", error="no connection: refused")

    async def main(clock: Any) -> Any:
        bencher = Bencher([Side("down", Down(), [None])], slo=Slo(p95_ms=1), clock=clock)
        return await bencher.max_rate(Load())

    with pytest.raises(InputError, match="no connection: refused"):
        virtually(main)


def test_a_search_needs_an_slo() -> None:
    async def main(clock: Any) -> Any:
        bencher = Bencher([Side("md1", Fifo(clock, 0.01), [None])], slo=Slo(), clock=clock)
        return await bencher.max_rate(Load())

    with pytest.raises(InputError, match="no SLO"):
        virtually(main)


def test_two_plans_share_each_schedule() -> None:
    class Kept(Fifo):
        def __init__(self, clock: Any) -> None:
            super().__init__(clock, 0.001)
            self.at: list[float] = []

        async def send(self, prepared: Any, budget_s: float) -> Response:
            self.at.append(self.clock())
            return await super().send(prepared, budget_s)

    async def main(clock: Any) -> Any:
        targets = [Kept(clock), Kept(clock)]
        sides = [Side(f"plan {n}", target, [None]) for n, target in enumerate(targets)]
        bencher = Bencher(sides, slo=Slo(p95_ms=50), clock=clock)
        runs = await bencher.runs(Load(rate_per_s=20.0, requests=30), rounds=3)
        return runs, bencher.rounds

    ((a, b),), ((rounds_a, rounds_b),) = virtually(main)
    assert (a.plan, b.plan) == ("plan 0", "plan 1")
    assert a.requests.sent == b.requests.sent == 90
    for one, other in zip(rounds_a, rounds_b, strict=True):
        assert [s.due for s in one.measured] == pytest.approx([s.due for s in other.measured])
    assert [s.due for s in rounds_a[0].measured] != [s.due for s in rounds_a[1].measured]
