"""Deployments under load, on a virtual clock: overload, bursts, fairness, priorities, holds, nothing lost."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run.kit_load import Load, quantile, simulate
from tauten.errors import BackendError, Overloaded
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.request import Request

BATCHES: dict[str, Any] = {"ms_per_batch": 10.0, "ms_per_item": 1.0, "sigma": 0.2}
CAPACITY = 2 * 8 / 0.018  # of two replicas with full batches of eight, a second
SLO_S = 0.1
LONG = pytest.mark.slow  # 15 to 40 times the requests of the short runs: ten to ninety seconds of computing


def served(load: Load, seconds: float) -> float:
    """Answers in time a second, as a share of the capacity."""
    good = sum(each.how == "done" and each.took <= SLO_S for each in load.outcomes)
    return good / seconds / CAPACITY


def at(times: float, seconds: float, seed: int = 1) -> tuple[float, float, Counter[str]]:
    """(goodput, p99 of the admitted, ways out) at a multiple of the capacity."""

    async def body(load: Load) -> tuple[float, float, Counter[str]]:
        await load.open_loop(times * CAPACITY, seconds, budget_s=SLO_S)
        admitted = [each.took for each in load.outcomes if each.how != "Overloaded"]
        return served(load, seconds), quantile(admitted, 0.99), load.ways

    found: tuple[float, float, Counter[str]] = simulate(
        body, seed=seed, options=BATCHES, max_batch=8, replicas=2
    )
    return found


@pytest.mark.parametrize("seconds", [4.0, pytest.param(150.0, marks=LONG)])
def test_three_times_the_capacity_keeps_its_goodput_and_its_promises(seconds: float) -> None:
    peak = max(at(times, seconds)[0] for times in (0.9, 1.0, 1.1))
    goodput, p99, ways = at(3.0, seconds)
    assert goodput >= 0.9 * peak
    assert p99 <= SLO_S
    assert ways["Overloaded"] > 0.5 * ways.total()
    assert ways["DeadlineExceeded"] <= 0.01 * ways["done"]


def test_refusals_say_when_to_come_back() -> None:
    async def body(load: Load) -> None:
        await load.open_loop(3 * CAPACITY, 1.0, budget_s=SLO_S)
        load.outcomes.clear()
        load.deployment.rejected = 0
        crowd = [load.start(budget_s=SLO_S) for _ in range(500)]
        await asyncio.sleep(0)
        assert load.deployment.rejected > 300
        with pytest.raises(Overloaded, match="E402") as refused:
            await load.deployment.infer(Request(load.loop.time, deadline=load.loop.time() + SLO_S), "s", 1)
        assert 0.0 < refused.value.retry_after_s < SLO_S
        await asyncio.wait(crowd)

    simulate(body, options=BATCHES, max_batch=8, replicas=2)


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=LONG)])
def test_a_burst_of_ten_times_the_capacity_passes(seconds: float) -> None:
    async def body(load: Load) -> None:
        await load.open_loop(0.5 * CAPACITY, seconds, budget_s=SLO_S)
        await load.open_loop(10 * CAPACITY, 0.5, budget_s=SLO_S)
        load.outcomes.clear()
        await load.open_loop(0.5 * CAPACITY, seconds, budget_s=SLO_S)
        assert load.ways["done"] >= 0.995 * load.ways.total(), "the burst left nothing behind"

    simulate(body, options=BATCHES, max_batch=8, replicas=2)


@pytest.mark.parametrize("seconds", [20.0, pytest.param(400.0, marks=LONG)])
def test_a_heavy_tenant_takes_nothing_from_a_light_one(seconds: float) -> None:
    async def body(load: Load) -> None:
        await asyncio.gather(
            load.open_loop(400, seconds, budget_s=1.0, tenant="heavy"),
            load.open_loop(20, seconds, budget_s=1.0, tenant="light"),
        )
        light = [each for each in load.outcomes if each.tenant == "light"]
        assert all(each.how == "done" for each in light)
        assert quantile([each.took for each in light], 0.99) < 0.2
        heavy = Counter(each.how for each in load.outcomes if each.tenant == "heavy")
        assert heavy["done"] >= 75 * seconds, "and the light one's spare share is not wasted"

    simulate(body, options={"ms_per_batch": 10.0})


@pytest.mark.parametrize("seconds", [20.0, pytest.param(300.0, marks=LONG)])
def test_low_priorities_are_shed_first_and_never_starve(seconds: float) -> None:
    async def body(load: Load) -> None:
        await asyncio.gather(*(load.open_loop(60, seconds, budget_s=1.0, priority=p) for p in (-1, 0, 1)))
        share = {}
        for priority in (-1, 0, 1):
            ways = Counter(each.how for each in load.outcomes if each.priority == priority)
            share[priority] = ways["done"] / ways.total()
        assert share[1] > 0.99
        assert 0.3 < share[0] < 0.8, share
        assert 0.0 < share[-1] < 0.2, share

    simulate(body, options={"ms_per_batch": 10.0})


def test_without_deadlines_a_lower_priority_waits_but_comes() -> None:
    async def body(load: Load) -> None:
        low = load.start(priority=-1)
        flood = [load.start(priority=0) for _ in range(400)]
        await asyncio.wait([low])
        assert sum(task.done() for task in flood) < 60
        await load.settled()
        assert load.ways == {"done": 401}

    simulate(body, options={"ms_per_batch": 10.0})


@pytest.mark.parametrize("most", [1, 8])
def test_an_expired_request_is_answered_at_its_deadline_while_every_replica_is_busy(most: int) -> None:
    async def body(load: Load) -> None:
        budgets = [load.draws.uniform(0.05, 0.5) for _ in range(50)]
        ends: list[Any] = await asyncio.gather(*[load.start(budget_s=each) for each in budgets])
        for budget_s, each in zip(budgets, ends, strict=True):
            assert each.how == "DeadlineExceeded"
            assert budget_s <= each.took <= budget_s + 0.005, "its own deadline, not the longest"
        assert load.deployment.waiting == 0

    simulate(body, options={"ms_per_batch": 30_000.0}, max_batch=most, replicas=2)


# -- holding -------------------------------------------------------------------------------------------------

MODEL: dict[str, Any] = {"ms_per_batch": 3.0, "ms_per_item": 0.2}


def closed(clients: int, wait: Any = "slack", each: int = 60, think_s: float = 0.0003) -> tuple[float, Any]:
    """(answers a second, the deployment's view) of a closed loop."""

    async def body(load: Load) -> tuple[float, Any]:
        await load.closed_loop(clients, each, think_s)
        return len(load.outcomes) / load.loop.time(), load.deployment.view()

    found: tuple[float, Any] = simulate(body, options=MODEL, max_batch=32, wait=wait)
    return found


def test_a_closed_loop_of_32_clients_runs_full_batches() -> None:
    rate, view = closed(32)
    assert view.batch_sizes[32] >= 0.95 * view.batches
    assert rate > 1.2 * closed(32, "off")[0]


@pytest.mark.parametrize("clients", [2, 4, 8, 16])
def test_smaller_crowds_gather_too(clients: int) -> None:
    rate, view = closed(clients)
    assert rate > 1.2 * closed(clients, "off")[0]
    assert view.batch_sizes[clients] >= 0.8 * view.batches


class Disturbing(SyntheticBackend):
    """Says when it runs, as a model says by the cores that it takes."""

    until = 0.0

    def duration(self, items: Any) -> float:
        seconds = super().duration(items)
        type(self).until = asyncio.get_running_loop().time() + seconds
        return seconds


@pytest.mark.parametrize("clients", [8, 32])
def test_two_crowds_that_return_late_because_the_others_run_become_one(clients: int) -> None:
    """Their time to return says nothing of how soon they would be back if nothing ran, so that is tried."""

    async def client(load: Load, first_s: float) -> None:
        await asyncio.sleep(first_s)
        for _ in range(200):
            await load.one()
            await asyncio.sleep(0.0003)
            await asyncio.sleep(max(0.0, Disturbing.until - load.loop.time()))

    async def body(load: Load) -> Any:
        half = clients // 2
        crowds = [client(load, 0.0) for _ in range(half)] + [client(load, 0.002) for _ in range(half)]
        await asyncio.gather(*crowds)
        return load.deployment.view()

    Disturbing.until = 0.0
    view = simulate(body, options=MODEL, max_batch=32, backend=Disturbing)
    assert view.batch_sizes[clients] > 0.8 * view.batches


def test_a_single_client_never_waits() -> None:
    rate, view = closed(1)
    assert rate == pytest.approx(closed(1, "off")[0], rel=1e-9)
    assert set(view.reasons) == {"alone"}


def test_clients_that_come_in_their_own_time_are_not_waited_for() -> None:
    rate, _ = closed(8, think_s=0.2)
    assert rate == pytest.approx(closed(8, "off", think_s=0.2)[0], rel=0.02)


@pytest.mark.parametrize("load_share", [0.3, 0.6, 0.9])
def test_holding_costs_an_open_loop_no_latency(load_share: float) -> None:
    def mean_of(wait: Any) -> float:
        async def body(load: Load) -> float:
            await load.open_loop(load_share * 32 / 0.0094, 3.0)
            return sum(load.took()) / len(load.took())

        found: float = simulate(body, options=MODEL, max_batch=32, wait=wait, seed=4)
        return found

    assert mean_of("slack") <= 1.03 * mean_of("off")
    if load_share < 0.9:
        assert mean_of("slack") < mean_of(5.0)


def test_what_waited_because_it_was_held_is_batch_wait() -> None:
    async def body(load: Load) -> None:
        first, second = (Request(load.loop.time) for _ in range(2))
        task = load.loop.create_task(load.deployment.infer(first, "s", 1))
        await asyncio.sleep(0.002)
        await asyncio.gather(task, load.deployment.infer(second, "s", 1))
        rows = [
            [(cause, round(end - start, 6)) for _, cause, start, end in each.trace.rows]
            for each in (first, second)
        ]
        assert rows[0][:3] == [("queue", 0.0), ("batch_wait", 0.005), ("compute", 0.0034)]
        assert rows[1][:3] == [("queue", 0.0), ("batch_wait", 0.003), ("compute", 0.0034)]
        assert first.trace.batches == [("s", 2, "fixed")]

    simulate(body, options=MODEL, max_batch=32, wait=5.0)


# -- theory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "requests"), [(0.5, 15_000), pytest.param(0.8, 600_000, marks=LONG)])
def test_a_single_server_waits_as_long_as_theory_says(share: float, requests: int) -> None:
    """M/D/1: mean time in the system = s + share s / (2 (1 - share))."""

    async def body(load: Load) -> float:
        await load.open_loop(100.0 * share, requests / (100.0 * share))
        return sum(load.took()) / len(load.took())

    theory_s = 0.010 * (1 + share / (2 * (1 - share)))
    assert simulate(body, seed=11, options={"ms_per_batch": 10.0}) == pytest.approx(theory_s, rel=0.03)


# -- nothing is lost -----------------------------------------------------------------------------------------


class Moody(SyntheticBackend):
    """Batches with an item over 90 fail whole; now and then the backend dies."""

    def answer(self, items: Sequence[Any]) -> list[Any]:
        options = self.spec.options
        if options["moods"].random() < options["deaths"]:
            dead = BackendError("the engine is gone", help="it is opened anew")
            dead.dead = True
            raise dead
        if any(item > 90 for item in items):
            raise ValueError("poison")
        return list(items)

    def weight(self, item: Any) -> float:
        return 1.0 + item % 7

    def group(self, item: Any) -> Any:
        return item % 3


def chaos(seed: int, requests: int, deaths: float, wait: Any) -> None:
    async def body(load: Load) -> None:
        draws = random.Random(seed)
        for index in range(requests):
            task = load.start(
                budget_s=draws.choice((0.02, 0.1, 1.0, float("inf"))),
                tenant=draws.choice("abc"),
                priority=draws.randint(-1, 1),
                item=draws.randint(0, 100),
            )
            if draws.random() < 0.2:
                load.loop.call_later(draws.uniform(0, 0.05), task.cancel)
            if index % 7 == 0:
                await asyncio.sleep(draws.expovariate(50.0))
        await load.settled()
        assert len(load.outcomes) == requests, "each request has one end"
        assert set(load.ways) <= {"done", "cancelled", "Overloaded", "DeadlineExceeded", "BackendError"}
        await asyncio.sleep(1.0)  # batches whose requests all left run to their end
        view = load.deployment.view()
        assert (view.waiting, view.running, view.zombies) == (0, 0, 0)
        assert view.restarts == 0 or deaths
        assert load.ways["done"], (seed, deaths, wait, load.ways, view)

    simulate(
        body,
        seed=seed,
        backend=Moody,
        options={**BATCHES, "deaths": deaths, "moods": random.Random(seed)},
        max_batch=8,
        replicas=2,
        wait=wait,
        max_weight=24.0,
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.02]), st.sampled_from(["slack", "off", 4.0]))
def test_every_request_reaches_exactly_one_end(seed: int, deaths: float, wait: Any) -> None:
    chaos(seed, 300, deaths, wait)


@LONG
@pytest.mark.parametrize("seed", range(5))
def test_every_one_of_a_hundred_thousand_requests_reaches_exactly_one_end(seed: int) -> None:
    chaos(seed, 100_000, 0.005, "slack")
