"""The door knows tenants: one that asks for less than its part is let in while another floods, in virtual time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

import tauten as tt
from kit.virtual import virtual
from run.kit_load import quantile
from run.test_admission import planned, two
from run.test_aims import CAPACITY, batches, flow, served, spoken
from tauten.describe.slo import Slo
from tauten.errors import DeadlineExceeded, Overloaded
from tauten.plan.plan import ModelChoice, Plan, StagePlan
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.fair_queue import FairQueue
from tauten.run.deploy.queueing import Entry
from tauten.run.engine import Engine
from tauten.run.request import Request
from tauten.serve.service import Service

WARM_S = 4.0


class End(NamedTuple):
    how: str
    took_s: float


class Asker:
    """Requests of tenants to an engine, with the aim of an SLO, and how they ended."""

    def __init__(self, engine: Engine, workflow: Any, slo: Slo, inputs: dict[str, Any]) -> None:
        self.engine, self.inputs = engine, inputs
        self.service = Service(workflow, slo=slo, engine=engine)
        self.ends: dict[str, list[End]] = {}

    async def one(self, tenant: str, priority: int = 0) -> None:
        engine, service = self.engine, self.service
        request = engine.request(
            deadline_ms=service.budget_s * 1e3, aim=service.aim, tenant=tenant, priority=priority
        )
        how = "done"
        try:
            await engine.run(self.inputs, request=request)
        except (Overloaded, DeadlineExceeded) as error:
            how = type(error).__name__
        self.ends.setdefault(tenant, []).append(End(how, engine.clock() - request.trace.start))

    async def load(self, tenant: str, rate: float, seconds: float, priority: int = 0) -> None:
        draws = random.Random(tenant)
        until, tasks = self.engine.clock() + seconds, []
        while self.engine.clock() < until:
            await asyncio.sleep(draws.expovariate(rate))
            tasks.append(asyncio.ensure_future(self.one(tenant, priority)))
        await asyncio.gather(*tasks)

    def refused(self, tenant: str) -> float:
        """The share of a tenant's requests."""
        ends = self.ends[tenant]
        return sum(end.how == "Overloaded" for end in ends) / len(ends)

    def p99_s(self, tenant: str) -> float:
        return quantile([end.took_s for end in self.ends[tenant] if end.how != "Overloaded"], 0.99)

    def in_time(self, tenant: str, limit_s: float) -> int:
        return sum(end.how == "done" and end.took_s <= limit_s for end in self.ends[tenant])


def asked(
    workflow: Any,
    plan: Plan,
    slo: Slo,
    rates: Mapping[str, float],
    seconds: float = 12.0,
    *,
    inputs: dict[str, Any] | None = None,
    warm_s: float = WARM_S,
    priorities: Mapping[str, int] | None = None,
) -> Asker:
    """Who asked at these rates, counted once the model is known and its margin was found."""
    ranks = priorities or {}

    async def body(engine: Engine) -> Asker:
        await engine.open(workflow, plan)
        given = inputs or {"q": 1}
        for _ in range(5):
            await asyncio.gather(*(engine.run(given) for _ in range(16)))
        asker = Asker(engine, workflow, slo, given)
        for span_s in (warm_s, seconds):
            asker.ends.clear()
            await asyncio.gather(
                *(asker.load(each, rate, span_s, ranks.get(each, 0)) for each, rate in rates.items())
            )
        for each, _ in engine.deployments._held.values():
            assert (each.coming, each.coming_of) == (0, {}), "nobody is expected who has gone"
        return asker

    found: Asker = virtual(body)
    return found


@pytest.mark.parametrize("slo_ms", [300, 1000])
def test_a_light_tenant_is_let_in_while_a_heavy_one_is_refused(slo_ms: int) -> None:
    rates = {"heavy": 3 * CAPACITY, "light": 0.05 * CAPACITY}
    asker = asked(flow, batches(40.0), Slo(p99_ms=slo_ms), rates, 30.0)
    assert asker.refused("light") <= 0.01
    assert asker.p99_s("light") <= min(slo_ms / 1e3, 0.3), "however long the others wait"
    assert asker.refused("heavy") > 0.6
    assert asker.in_time("heavy", slo_ms / 1e3) / 30.0 >= 0.9 * 0.95 * CAPACITY, "what the light one leaves"
    assert asker.p99_s("heavy") <= slo_ms / 1e3


@pytest.mark.parametrize(("first_ms", "second_ms"), [(5.0, 20.0), (20.0, 5.0)])
def test_it_is_let_in_wherever_on_the_path_the_others_wait(first_ms: float, second_ms: float) -> None:
    """Those that were admitted and have yet to come to the slow step are the heavy one's, too."""
    rates = {"heavy": 600.0, "light": 10.0}
    asker = asked(two, planned(first_ms, second_ms, batch=4), Slo(p99_ms=250), rates)
    assert asker.refused("light") == 0.0
    assert asker.p99_s("light") < 0.1
    assert asker.refused("heavy") > 0.6
    assert asker.in_time("heavy", 0.25) / 12.0 >= 0.9 * 190.0
    assert asker.p99_s("heavy") <= 0.25


def test_it_is_let_in_by_slots_too() -> None:
    options = {"prefill_ms": 200.0, "ms_per_token": 65.0, "tokens": 20, "slots": 4, "sigma": 0.05}
    role = ModelChoice(backend="synthetic_slots", options=options)
    plan = Plan(stages={"speak": StagePlan(roles={"llm": role})})
    rates = {"heavy": 3 * 4 / 1.5, "light": 0.1 * 4 / 1.5}
    given = {"text": tt.Text("hello")}
    asker = asked(spoken, plan, Slo(p95_ms=5000), rates, 120.0, inputs=given, warm_s=30.0)
    assert asker.refused("light") == 0.0
    assert asker.p99_s("light") < 3.5
    assert asker.in_time("heavy", 5.0) / 120.0 >= 0.85 * 0.9 * 4 / 1.5
    assert asker.p99_s("heavy") <= 5.0


def test_two_who_flood_have_half_each() -> None:
    asker = asked(flow, batches(40.0), Slo(p99_ms=300), {"a": 1.5 * CAPACITY, "b": 1.5 * CAPACITY})
    shares = [asker.in_time(each, 0.3) / 12.0 / CAPACITY for each in "ab"]
    assert min(shares) >= 0.45
    assert max(asker.p99_s("a"), asker.p99_s("b")) <= 0.3


def test_who_waits_while_many_others_keep_coming_is_told_so() -> None:
    """Nine tenants ask for 2.6 times the capacity; before a request of the heavy one goes, others overtake it that
    had not come when it was let in."""
    rates = {"heavy": CAPACITY, **{f"light-{index}": 0.2 * CAPACITY for index in range(8)}}
    asker = asked(flow, batches(40.0), Slo(p99_ms=300), rates)
    admitted = [end.took_s for ends in asker.ends.values() for end in ends if end.how != "Overloaded"]
    assert quantile(admitted, 0.99) <= 0.3
    assert sum(took_s <= 0.3 for took_s in admitted) / 12.0 >= 0.9 * CAPACITY
    parts = [asker.in_time(each, 0.3) / 12.0 / CAPACITY for each in rates if each != "heavy"]
    assert min(parts) >= 0.8 / 9


def test_a_lower_priority_is_still_refused_first() -> None:
    """A light tenant of a low priority has no part of what a higher one fills."""
    rates = {"heavy": 1.5 * CAPACITY, "light": 0.1 * CAPACITY}
    asker = asked(flow, batches(40.0), Slo(p99_ms=500), rates, priorities={"heavy": 1})
    assert asker.refused("light") > 0.7
    assert asker.refused("heavy") < 0.5
    asker = asked(flow, batches(40.0), Slo(p99_ms=500), rates, priorities={"light": 1})
    assert asker.refused("light") == 0.0


@pytest.mark.parametrize("tenant", ["", "the only one"])
def test_a_tenant_alone_is_served_as_without_tenants(tenant: str) -> None:
    """`served` asks without any: the same requests are admitted, and wait as long."""
    plan, slo = batches(40.0), Slo(p99_ms=300)
    asker = asked(flow, plan, slo, {tenant: 3 * CAPACITY})
    without = served(plan, slo, 3 * CAPACITY, 12.0)
    good = sum(end.how == "done" and end.took_s <= 0.3 for end in without.ends)
    assert asker.in_time(tenant, 0.3) == pytest.approx(good, rel=0.02)
    assert asker.p99_s(tenant) <= 0.3


def test_who_only_knocks_is_known_by_its_tenant_too() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(flow, batches(40.0))
        for _ in range(5):
            await asyncio.gather(*(engine.run({"q": 1}) for _ in range(16)))
        waiting = [
            asyncio.ensure_future(engine.run({"q": 1}, deadline_ms=60_000, tenant="heavy")) for _ in range(64)
        ]
        await asyncio.sleep(0.01)
        engine.knock(deadline_ms=300, tenant="light")
        with pytest.raises(Overloaded):
            engine.knock(deadline_ms=300, tenant="heavy")
        with pytest.raises(Overloaded):
            engine.knock(deadline_ms=300, tenant="light", priority=-1)
        await asyncio.gather(*waiting)

    virtual(body)


# -- what one more waits behind --------------------------------------------------------------------------------


class Nobody:
    def done(self) -> bool:
        return False

    def set_result(self, _: None, /) -> None:
        return


def entry(tenant: str, priority: int = 0) -> Entry:
    return Entry(Request(lambda: 0.0, tenant=tenant, priority=priority), 1.0, 0.0, Nobody())


def queue_of(tenants: str) -> FairQueue[Any]:
    queue: FairQueue[Any] = FairQueue()
    for each in tenants:
        queue.push(entry(each))
    return queue


def test_those_on_their_way_take_turns_as_those_that_wait() -> None:
    queue = queue_of("aaaab")
    assert queue.ahead(0, "c") == 2, "one of each"
    assert queue.ahead(0, "c", {"a": 9}) == 2
    assert queue.ahead(0, "c", {"d": 9}) == 3
    assert queue.ahead(0, "c", {"c": 2}) == 2 + 3 + 1, "behind its own two, each other has had three at most"
    assert queue.ahead(0, "a", {"a": 2}) == 6 + 1
    assert queue.ahead(1, "c") == 0
    assert queue.ahead(-1, "c", {"d": 9}) == 5 + 1
    assert queue_of("aaaa").ahead(0, "a", {"a": 2}) == 6


def test_what_others_took_of_late_is_reckoned_with() -> None:
    queue = queue_of("a" * 400)
    for _ in range(150):  # b comes again as soon as it was served, one at a time
        queue.push(entry("b"))
        while (taken := queue.pop()) is not None and taken.tenant != "b":
            pass
    queue.push(entry("b"))
    left = queue.live - 1
    assert left + 1 < queue.ahead(0, "a") <= 2 * left + 1, "not only the one that waits now"
    assert queue.ahead(0, "b") == 1 + 2


class Busy(NamedTuple):
    """A replica at work."""

    until: float
    dead: bool = False
    kept: bool = False


def test_the_batch_of_who_goes_first_is_full_all_the_same() -> None:
    deployment = Deployment(lambda: None, label="d", clock=lambda: 0.0, max_batch=8)  # type: ignore[arg-type, return-value]
    deployment._alive, deployment._replicas = 1, [Busy(0.01)]  # type: ignore[list-item]
    for size in (1, 8) * 20:
        deployment.durations.observe(size, float(size), 0.010 + 0.002 * size, 0.0)
    alone_s = deployment.wait_s(0, 0.0, tenant="light")
    for _ in range(40):
        deployment.queue.push(entry("heavy"))
    light_s, heavy_s = (deployment.wait_s(0, 0.0, tenant=each) for each in ("light", "heavy"))
    assert light_s == pytest.approx(alone_s + 7 * 0.002), "it runs with seven of the others"
    assert heavy_s > light_s + 4 * 0.026
    assert deployment.wait_s(0, 0.0) == heavy_s
