"""Admission of programs: what an `async def` workflow will take is learned from the requests that ended."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from run.kit_load import quantile
from run.kit_path import Busy, visit
from tauten.describe.stage import Role, stage
from tauten.errors import DeadlineExceeded, Overloaded
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.door.admission import Path
from tauten.run.door.known_steps import ENOUGH, stays
from tauten.run.engine import Engine
from tauten.run.request import Aim
from tauten.run.trace import BODY, Row

MODEL = {"model": Role("none", ("synthetic",))}
SLO_S = 1.2
LONG = pytest.mark.slow


def learned(*rows: list[Row], places: dict[str, list[list[Busy]]] | None = None, times: int = ENOUGH) -> Path:
    """A path after requests that all went the same way."""
    path = Path({}, {}, lambda name: (places or {}).get(name, []))
    for _ in range(times):
        path.learn([row for each in rows for row in each])
    return path


# -- what rows teach -----------------------------------------------------------------------------------------


def test_nothing_is_refused_before_enough_was_learned() -> None:
    places = {"a": [[Busy(5.0)]]}
    assert learned(visit("a", 0, 1), places=places, times=ENOUGH - 1).least_s(0, 0.0) == 0.0
    assert learned(visit("a", 0, 1), places=places).least_s(0, 0.0) == pytest.approx(6.0)
    assert not learned(visit("a", 0, 1)).knows, "where nothing is queued for, nothing is predicted"


def test_a_step_comes_after_those_that_had_ended_when_it_began() -> None:
    """a, then b and c at the same time, then d."""
    busy = Busy()
    rows = [visit("a", 0, 1, 0.5), visit("c", 1, 2), visit("b", 1, 4), visit("d", 4, 5)]
    path = learned(*rows, places={"b": [[busy]], "d": [[busy]]})
    assert path.least_s(0, 0.0) == pytest.approx(0.5 + 3 + 1)
    assert path.after(0.0) == pytest.approx({"a": 4, "b": 1, "c": 1, "d": 0})
    busy.wait = 10.0
    assert path.least_s(0, 1.0) == pytest.approx(24.5)


def test_one_request_in_another_order_shows_that_there_was_none() -> None:
    busy = [[Busy()]]
    path = learned(visit("a", 0, 1), visit("b", 1, 3), places={"a": busy, "b": busy})
    assert path.least_s(0, 0.0) == pytest.approx(3.0)
    path = learned(visit("a", 0, 1), visit("b", 1, 3), places={"a": busy, "b": busy}, times=ENOUGH - 1)
    path.learn([*visit("b", 0, 2), *visit("a", 1, 2)])
    assert path.least_s(0, 0.0) == pytest.approx(2.0)


def test_orders_that_contradict_one_another_across_requests_end() -> None:
    """a before b, b before c, c before a, never all three in one request."""
    path = Path({}, {}, lambda name: [[Busy()]])
    for pair in ("ab", "bc", "ca") * 20:
        path.learn([*visit(pair[0], 0, 1), *visit(pair[1], 1, 2)])
    assert path.least_s(0, 0.0) == 0.0, "each is skipped by a third of the requests"
    assert set(path.after(0.0)) == set("abc")


def test_a_step_that_comes_back_waits_each_time_and_members_of_a_map_once() -> None:
    busy = Busy()
    loop = [visit("a", 0, 2, 1), visit("b", 2, 3), visit("a[1]", 3, 5, 1), visit("b[1]", 5, 6)]
    path = learned(*loop, places={"a": [[busy]]})
    assert path.least_s(0, 0.0) == pytest.approx(4.0)
    assert path.after(0.0)["a"] == pytest.approx(1.0), "from its last turn on"
    busy.wait = 1.0
    assert path.least_s(0, 1.0) == pytest.approx(6.0)
    members = [visit(f"a[{n}]" if n else "a", 0, 2 + n, n + 1) for n in range(3)]
    assert learned(*members, places={"a": [[busy]]}).least_s(0, 0.0) == pytest.approx(3.0 + 1.0)


def test_own_code_is_a_step_and_called_stages_are_not_their_callers_work() -> None:
    inner = Busy()
    rows: list[list[Row]] = [
        visit("outer/inner", 2, 5, 1),
        visit("outer", 1, 6),
        [(BODY, "user", 0.0, 7.0)],
    ]
    assert {name: stay.own_s for name, stay in stays(row for each in rows for row in each).items()} == {
        "outer/inner": 2.0,
        "outer": 2.0,
        BODY: 2.0,
    }
    path = learned(*rows, places={"outer/inner": [[inner]]})
    assert path.least_s(0, 0.0) == pytest.approx(6.0)
    inner.wait = 3.0
    assert path.least_s(0, 1.0) == pytest.approx(9.0)


def test_of_two_models_for_one_step_nobody_knows_which_a_request_will_ask() -> None:
    free, busy = Busy(), Busy(9.0)
    path = learned(visit("a", 0, 1), places={"a": [[free], [busy]]})
    assert path.least_s(0, 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_branch_that_few_take_refuses_nobody(share: float) -> None:
    """Whatever the luck of the draw: 20,000 requests, and at no time is the branch taken for granted."""
    draws = random.Random(3)
    path = Path({}, {}, lambda name: [[Busy(100.0 if name == "rare" else 0.0)]])
    for number in range(20_000):
        branch = visit("rare", 1, 9) if draws.random() < share else []
        path.learn([*visit("a", 0, 1), *branch, *visit("b", 9 if branch else 1, 10 if branch else 2)])
        assert path.least_s(0, float(number)) < 100.0
    assert path.least_s(0, 1e9) == pytest.approx(2.0)


# -- an engine ------------------------------------------------------------------------------------------------


@stage(roles=MODEL, effects="pure")
async def look(q: int, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", q))


@stage(roles=MODEL, effects="pure")
async def answer(q: int, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", q))


@stage(roles=MODEL, effects="pure")
async def think(q: int, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", q))


@tt.workflow
async def chain(q: int) -> int:
    return await answer(await look(q))


@tt.workflow
async def looped(q: int) -> int:
    for _ in range(3):
        q = await answer(await look(q))
    return q


@tt.workflow
async def branching(q: int) -> int:
    seen = await look(q)
    if q % 10 == 0:
        seen = await think(seen)
    return await answer(seen)


def model(ms_per_batch: float, most: int = 8, sigma: float = 0.1) -> StagePlan:
    options = {"ms_per_batch": ms_per_batch, "ms_per_item": 8.0, "sigma": sigma}
    return StagePlan(roles={"model": ModelChoice(options=options, batch=Batch(max=most))})


PLAN = Plan(stages={"look": model(40.0), "answer": model(96.0), "think": model(800.0, most=1)})
CAPACITY = 8 / 0.160  # of the slower of the two that all need, in full batches


class Crowd:
    """An open loop of requests as a server gives them to an engine: an aim, and thrice that as deadline."""

    def __init__(self, engine: Engine, slo_s: float) -> None:
        self.engine, self.slo_s = engine, slo_s
        self.draws = random.Random(7)
        self.ways: Counter[str] = Counter()
        self.admitted_s: list[float] = []
        self.hints_s: list[float] = []

    async def one(self, q: int) -> None:
        request = self.engine.request(deadline_ms=3e3 * self.slo_s, aim=Aim(self.slo_s))
        how = "done"
        try:
            await self.engine.run({"q": q}, request=request)
        except Overloaded as refused:
            self.ways["refused early" if len(request.trace.rows) < 2 else "refused inside"] += 1
            self.hints_s.append(refused.retry_after_s)
            return
        except DeadlineExceeded:
            how = "expired"
        took_s = self.engine.clock() - request.trace.start
        self.admitted_s.append(took_s)
        self.ways["late" if how == "done" and took_s > self.slo_s else how] += 1

    async def load(self, rate: float, seconds: float) -> None:
        until, tasks = self.engine.clock() + seconds, []
        while self.engine.clock() < until:
            await asyncio.sleep(self.draws.expovariate(rate))
            tasks.append(asyncio.ensure_future(self.one(len(tasks))))
        await asyncio.gather(*tasks)
        assert self.engine.zombies() == 0
        assert self.engine.door.limit.running == 0
        assert all(each.coming == 0 for each, _ in self.engine.deployments._held.values())


def crowded(workflow: Any, rate: float, seconds: float, slo_s: float = SLO_S) -> Crowd:
    """After a load that begins with nothing known; counted once the margin was found."""

    async def body(engine: Engine) -> Crowd:
        await engine.open(workflow, PLAN)
        crowd = Crowd(engine, slo_s)
        await crowd.load(0.1 * rate, 8.0)
        await crowd.load(rate, 10.0)
        for each in (crowd.ways, crowd.admitted_s, crowd.hints_s):
            each.clear()
        await crowd.load(rate, seconds)
        return crowd

    found: Crowd = virtual(body)
    return found


@pytest.mark.parametrize("seconds", [16.0, pytest.param(400.0, marks=LONG)])
@pytest.mark.parametrize(
    ("workflow", "capacity", "slo_s"), [(chain, CAPACITY, SLO_S), (looped, CAPACITY / 3, 3.0)]
)
def test_a_program_keeps_its_goodput_and_its_promises_under_overload(
    workflow: Any, capacity: float, slo_s: float, seconds: float
) -> None:
    peak = max(crowded(workflow, share * capacity, seconds, slo_s).ways["done"] for share in (0.9, 1.0))
    over = crowded(workflow, 3 * capacity, seconds, slo_s)
    assert over.ways["done"] >= 0.9 * peak, (over.ways, peak)
    assert quantile(over.admitted_s, 0.99) <= slo_s, over.ways
    assert over.ways["refused early"] > 0.5 * over.ways.total()
    assert not over.ways["refused inside"], "nothing is begun that is not ended"
    assert 0.0 < min(over.hints_s) <= max(over.hints_s) < 2 * slo_s


def test_a_program_with_a_rare_branch_is_refused_for_what_all_need_only() -> None:
    """One in ten goes through a model that is too slow for them under overload; the others do not notice."""
    over = crowded(branching, 3 * CAPACITY, 12.0)
    assert over.ways["done"] >= 0.8 * CAPACITY * 12.0, over.ways
    idle = crowded(branching, 0.15 * CAPACITY, 12.0)
    assert not idle.ways["refused early"], idle.ways


def test_the_door_of_a_program_can_be_asked_before_it_begins() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(chain, PLAN)
        for _ in range(ENOUGH):
            engine.knock(deadline_ms=1)
            await engine.run({"q": 1})
        with pytest.raises(Overloaded, match="the request would take") as refused:
            engine.knock(deadline_ms=80)
        assert 0.0 < refused.value.retry_after_s < 0.3
        engine.knock(deadline_ms=400)

    virtual(body)
