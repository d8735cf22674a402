"""Admission: predictions along a path, the door of an engine, adaptive limits."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from run.kit_path import Busy, visit
from tauten.clock import run_virtual
from tauten.describe.stage import Role, stage
from tauten.errors import DeadlineExceeded, Overloaded, Unavailable
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.queueing import Entry
from tauten.run.door.admission import Door, Path
from tauten.run.door.feedback import EVENT_S, STEP, AdaptiveLimit, Margin
from tauten.run.engine import Engine
from tauten.run.request import Request


def test_a_path_adds_what_follows_and_takes_the_longest_branch() -> None:
    slow, quick = Busy(), Busy()
    path = Path({"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}, {"b": [slow], "c": [quick]})
    assert path.least_s(0, 0.0) == 0.0, "nothing is refused before anything is known"
    for _ in range(4):
        path.learn([*visit("a", 0, 1), *visit("b", 1, 4, 1), *visit("c", 1, 2), *visit("d", 4, 5)])
    assert path.least_s(0, 1.0) == pytest.approx(1 + 2 + 1)
    assert path.after(1.0) == pytest.approx({"a": 3, "b": 1, "c": 1, "d": 0})
    slow.wait = 10.0
    assert path.after(1.005)["a"] == 3, "what is handed down may be some milliseconds old"
    assert path.least_s(0, 1.1) == pytest.approx(14.0)
    assert path.after(1.1)["a"] == pytest.approx(13.0)


def test_members_of_a_map_wait_for_one_another() -> None:
    path = Path({"m": ()}, {"m": [Busy()]})
    rows = [row for n in range(4) for row in visit(f"m[{n}]", 2.0, 3.0 + n, n + 0.5)]
    path.learn(rows)
    assert path.least_s(0, 0.0) == pytest.approx(3.5), "four seconds less what the first one waited"


def test_steps_that_some_requests_skip_refuse_nobody() -> None:
    path = Path({"photo": (), "text": ("photo",)}, {"photo": [Busy(5.0)], "text": [Busy()]})
    for index in range(16):
        path.learn([*(visit("photo", 0, 9) if index % 2 else []), *visit("text", 9, 10)])
    assert path.least_s(0, 0.0) == pytest.approx(1.0)


def request(left_s: float) -> Request:
    return Request(lambda: 0.0, deadline=left_s)


def test_the_door_refuses_what_would_be_late_and_hands_predictions_down() -> None:
    path = Path({"a": (), "b": ("a",)}, {"a": [Busy()]})
    path.learn([*visit("a", 0, 1), *visit("b", 1, 3)])
    door = Door(lambda: 0.0)
    with pytest.raises(Overloaded, match="3000 ms, 1000 ms are left") as refused:
        door.enter(path, request(1.0))
    assert refused.value.retry_after_s == pytest.approx(2.0)
    admitted = request(4.0)
    with door.through(path, admitted):
        assert admitted.admitted
        assert admitted.after["a"] == pytest.approx(2.0)
    assert door.refused == 1
    with door.through(path, request(math.inf)):
        pass
    door.draining = True
    with pytest.raises(Unavailable, match="E409"):
        door.enter(path, request(math.inf))


def test_only_whole_requests_teach() -> None:
    path = Path({"a": ()}, {"a": [Busy()]})
    door = Door(lambda: 0.0)
    with pytest.raises(ValueError, match="broken"), door.through(path, request(math.inf)):
        raise ValueError("broken")
    assert path.learned == 0


def test_an_adaptive_limit_finds_the_capacity() -> None:
    """Eight at once take 10 ms each; more share the same capacity, and who takes more than 25 ms is late."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = asyncio.Semaphore(8)
        limit = AdaptiveLimit()
        ways = {"refused": 0, "late": 0, "done": 0}

        async def client() -> None:
            for _ in range(300):
                began = loop.time()
                try:
                    limit.enter()
                except Overloaded as error:
                    ways["refused"] += 1
                    await asyncio.sleep(max(0.001, error.retry_after_s))
                    continue
                async with gate:
                    await asyncio.sleep(0.010)
                taken_s = loop.time() - began
                ways["done" if taken_s < 0.025 else "late"] += 1
                limit.leave(began, loop.time(), 0.025)

        await asyncio.gather(*(client() for _ in range(64)))
        assert 6 <= limit.limit <= 32
        assert limit.running == 0
        assert ways["refused"]
        assert ways["late"] < 0.15 * ways["done"], ways
        assert ways["done"] / loop.time() > 0.9 * 800, "and the capacity is used"

    run_virtual(main())


def test_a_limit_is_cut_once_for_those_who_were_let_in_before() -> None:
    limit = AdaptiveLimit()
    limit.enter()
    limit.leave(0.0, 0.1, 10.0)
    for _ in range(100):
        limit.enter()
    for _ in range(50):
        limit.leave(1.0, 2.0, 1.0, whole=False)
    assert limit.limit == 70, "a part of those who ran when the first was late"
    for _ in range(50):
        limit.leave(1.0, 2.0, 1.0, whole=False)
    limit.enter()
    limit.leave(3.0, 3.1, 0.1, whole=False)
    assert limit.limit == 70, "who had too little time on an idle machine says nothing"


def test_a_limit_grows_again_only_while_it_is_used() -> None:
    limit = AdaptiveLimit()
    limit.enter()
    limit.leave(0.0, 0.1, 10.0)
    for _ in range(10):
        limit.enter()
    for _ in range(10):
        limit.leave(0.0, 1.0, 1.0, whole=False)
    assert limit.limit == 7
    for _ in range(100):
        limit.enter()
        limit.leave(2.0, 2.1, 1.0)
    assert limit.limit == 7
    for _ in range(20):
        for _ in range(7):
            limit.enter()
        for _ in range(7):
            limit.leave(2.0, 2.1, 1.0)
    assert limit.limit > 9


def test_low_priorities_find_the_limit_first_and_predictions_only_the_memory() -> None:
    limit = AdaptiveLimit(most=10)
    for _ in range(9):
        limit.enter()
    with pytest.raises(Overloaded):
        limit.enter(priority=-1)
    limit.enter()
    with pytest.raises(Overloaded) as refused:
        limit.enter(priority=1)
    assert refused.value.retry_after_s > 0
    for _ in range(10):
        limit.leave(0.0, 1.0, 1.0, whole=False)
    limit.enter()
    limit.leave(0.0, 0.1, 1.0)
    for _ in range(4):
        limit.enter(predicted=True)
    limit.leave(1.0, 2.0, 1.0, whole=False)
    assert limit.limit == 2
    limit.check(predicted=True)
    with pytest.raises(Overloaded):
        limit.check()


# -- an engine ------------------------------------------------------------------------------------------------

MODEL = {"model": Role("none", ("synthetic",))}


@stage(roles=MODEL, effects="pure")
async def first(q: int, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", q))


@stage(roles=MODEL, effects="pure")
async def second(q: int, ctx: tt.Context) -> int:
    return int(await ctx.infer("model", q))


@tt.workflow
def two(q: int) -> int:
    return second(first(q))  # type: ignore[arg-type,return-value]


def planned(first_ms: float, second_ms: float, batch: int = 1) -> Plan:
    def one(ms: float) -> StagePlan:
        return StagePlan(roles={"model": ModelChoice(options={"ms_per_batch": ms}, batch=Batch(max=batch))})

    return Plan(stages={"first": one(first_ms), "second": one(second_ms)})


def test_a_request_is_refused_before_its_first_step_when_its_last_one_is_too_busy() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(two, planned(1.0, 100.0))
        for _ in range(4):
            await engine.run({"q": 1})
        now = engine.clock()
        running = [asyncio.ensure_future(engine.run({"q": 1})) for _ in range(5)]
        await asyncio.sleep(0.02)
        with pytest.raises(Overloaded) as refused:
            await engine.run({"q": 1}, deadline_ms=200)
        assert engine.clock() - now == pytest.approx(0.02), "at once"
        assert 0.1 < refused.value.retry_after_s < 0.5
        assert (await engine.run({"q": 7}, deadline_ms=900, priority=1, tenant="a")).value == 7
        await asyncio.gather(*running)
        assert engine.zombies() == 0
        engine.door.draining = True
        with pytest.raises(Unavailable):
            await engine.run({"q": 1})

    virtual(body)


@pytest.mark.parametrize("times", [0.9, 3.0])
def test_a_chain_under_load_answers_those_that_it_admits(times: float) -> None:
    async def body(engine: Engine) -> None:
        import random

        draws = random.Random(2)
        await engine.open(two, planned(5.0, 20.0, batch=4))
        for _ in range(4):
            await engine.run({"q": 1})
        ways: dict[str, int] = {}

        async def one() -> None:
            try:
                await engine.run({"q": 1}, deadline_ms=250)
            except (Overloaded, DeadlineExceeded) as error:
                ways[type(error).__name__] = ways.get(type(error).__name__, 0) + 1
            else:
                ways["done"] = ways.get("done", 0) + 1

        tasks = []
        for _ in range(int(times * 200 * 8)):
            await asyncio.sleep(draws.expovariate(times * 200))
            tasks.append(asyncio.ensure_future(one()))
        await asyncio.gather(*tasks)
        assert ways["done"] > 0.85 * min(times, 1.0) * 200 * 8
        assert ways.get("DeadlineExceeded", 0) <= 0.02 * ways["done"], ways
        assert all(each.coming == 0 for each, _ in engine.deployments._held.values())

    virtual(body)


def test_views_show_each_deployment() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(two, planned(1.0, 2.0))
        await engine.run({"q": 1})
        views: dict[str, Any] = engine.deployments.views()
        assert len(views) == 2
        for view in views.values():
            assert (view.done, view.batches, view.idle, view.kind) == (1, 1, 1, "batch")
            assert view.reasons == {"full": 1}

    virtual(body)


def test_what_was_learned_in_a_bad_hour_does_not_refuse_for_ever() -> None:
    path = Path({"a": ()}, {"a": [Busy()]})
    for _ in range(20):
        path.learn(visit("a", 0, 3))
    door = Door(lambda: now)
    admitted = []
    for tenth in range(100):
        now = tenth / 10
        try:
            with door.through(path, request(now + 1.0)) as _:
                admitted.append(now)
                path.learn(visit("a", 0, 0.1))
        except Overloaded:
            continue
    assert admitted[0] == pytest.approx(3.0), "after as long as one would take, one is let in to see"
    assert len(admitted) == 70, "it took less, so what was known was wrong"


def test_a_stall_that_makes_hundreds_late_is_one_piece_of_evidence() -> None:
    margin = Margin()
    for _ in range(500):
        margin.late(1.0)
    assert margin.value < 1.1
    margin.late(1.0 + 2 * EVENT_S)
    assert margin.value == pytest.approx(1.0 + 2 * STEP)


def test_late_batches_are_paid_for_in_full_before_the_margin_narrows() -> None:
    """Three batches of eight: 200 answers in time for each, else the margin is lost before the next ones."""
    margin = Margin()
    for event in range(3):
        for _ in range(8):
            margin.late(event * 2 * EVENT_S)
    for _ in range(24 * 200):
        margin.in_time()
    assert margin.value == pytest.approx(1.0 + 3 * STEP)
    margin.in_time()
    assert margin.value < 1.0 + 3 * STEP


def test_a_margin_is_forgotten_where_nobody_is_late() -> None:
    margin = Margin()
    for tenth in range(100):
        for _ in range(50):
            margin.late(tenth / 10)
    assert margin.at(12.0) == 2.0
    assert margin.at(16.0) == pytest.approx(1.5)
    assert margin.at(21.0) == pytest.approx(1.25)
    assert margin.at(100.0) == 1.0


class Nobody:
    """Waits for ever."""

    def done(self) -> bool:
        return False

    def set_result(self, _: None, /) -> None: ...


def test_those_who_wait_as_one_are_counted_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight more urgent ones in one item go before a new one, and eight less urgent ones do not."""
    deployment = Deployment(lambda: None, label="d", clock=lambda: 0.0)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(deployment, "_needs_s", lambda ahead, others, own_s, now: ahead + own_s)
    for due in (1.0, 100.0):
        party = Entry(request(due), 8.0, 0.0, Nobody())
        party.count = 8
        deployment._check_time(request(100.0), party, 0.0, 0.0)
        deployment.queue.push(party)
    for left_s, fits in ((9.0, True), (8.0, False)):
        asks = request(left_s)
        entry = Entry(asks, 1.0, 0.0, Nobody())
        if fits:
            deployment._check_time(asks, entry, 1.0, 0.0)
        else:
            with pytest.raises(Overloaded):
                deployment._check_time(asks, entry, 1.0, 0.0)
