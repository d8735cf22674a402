"""Who keeps a place in a full queue: priorities first, then tenants by their fair share of the places."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run.kit_load import Load, quantile, simulate
from tauten.clock import run_virtual
from tauten.errors import Overloaded
from tauten.run.backends.synthetic_slots import SyntheticSlotsBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.fair_queue import FairQueue
from tauten.run.deploy.job import Job
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.request import Request

RUN_MS = 10.0


@pytest.mark.parametrize("heavy", ["heavy", "two heavy ones"])
def test_a_heavy_tenant_takes_no_place_from_a_light_one(heavy: str) -> None:
    """Without deadlines a queue fills to its bound; whoever asks for less than his share finds a place there."""
    many = ["heavy"] if heavy == "heavy" else ["a", "b"]

    async def body(load: Load) -> None:
        await asyncio.gather(
            *(load.open_loop(400 / len(many), 8.0, tenant=each) for each in many),
            load.open_loop(20, 8.0, tenant="light"),
        )
        ways = {each: Counter(one.how for one in load.outcomes if one.tenant == each) for each in many}
        light = [each for each in load.outcomes if each.tenant == "light"]
        assert Counter(each.how for each in light) == {"done": len(light)}
        assert quantile([each.took for each in light], 0.99) < 0.2
        assert sum(each["done"] for each in ways.values()) >= 600, "and its spare share is not wasted"
        if len(many) == 2:
            assert ways["a"]["done"] == pytest.approx(ways["b"]["done"], rel=0.1)
        assert load.deployment.shed + load.deployment.rejected == load.ways["Overloaded"]

    simulate(body, options={"ms_per_batch": RUN_MS}, bound=50)


async def filled(load: Load, tenants: str, **request: Any) -> list[asyncio.Task[Any]]:
    """One that runs, and one that waits for each letter."""
    load.start()
    await asyncio.sleep(0.0)
    waiting = []
    for tenant in tenants:
        waiting.append(load.start(tenant=tenant, item=len(waiting), **request))
        await asyncio.sleep(0.0001)
    return waiting


async def asks(load: Load, tenant: str, **request: Any) -> str:
    """What becomes of one more at once; "" for nothing yet."""
    task = load.start(tenant=tenant, **request)
    await asyncio.sleep(0.0)
    await asyncio.sleep(0.0)
    return (await task).how if task.done() else ""  # type: ignore[attr-defined]


def test_who_has_most_makes_room_until_all_have_their_share() -> None:
    async def body(load: Load) -> None:
        heavy = await filled(load, "aaaa")
        assert await asks(load, "a") == "Overloaded", "its own are no reason to give up another one"
        assert await asks(load, "b") == ""
        assert [task.done() for task in heavy] == [False, False, False, True], "the least urgent one"
        assert await asks(load, "b") == ""
        assert [task.done() for task in heavy] == [False, False, True, True]
        assert await asks(load, "b") == "Overloaded", "half of the places are its share"
        assert await asks(load, "c") == "", "of three tenants each has one at least"
        assert (load.deployment.waiting, load.deployment.shed, load.deployment.rejected) == (4, 3, 2)
        await load.settled()
        assert load.ways == {"done": 5, "Overloaded": 5}

    simulate(body, options={"ms_per_batch": RUN_MS}, bound=4)


def test_who_made_room_is_told_when_to_come_back() -> None:
    async def body(load: Load) -> None:
        deployment = load.deployment
        for _ in range(8):
            await load.one()
        told: list[Overloaded] = []

        async def heavy() -> None:
            try:
                await deployment.infer(Request(load.loop.time, tenant="heavy"), "s", 1)
            except Overloaded as refused:
                told.append(refused)

        tasks = [asyncio.ensure_future(heavy()) for _ in range(6)]
        await asyncio.sleep(0.001)
        assert await asks(load, "light") == ""
        await asyncio.sleep(0.0)
        (refused,) = told
        assert "a tenant that has fewer requests waiting" in str(refused)
        assert refused.retry_after_s == pytest.approx(5 * RUN_MS / 1e3, rel=0.5)
        await asyncio.gather(*tasks)

    simulate(body, options={"ms_per_batch": RUN_MS}, bound=5)


def test_a_lower_priority_gives_up_first_and_there_whoever_has_most() -> None:
    async def body(load: Load) -> None:
        low = await filled(load, "bbba", priority=-1)
        high = [load.start(tenant="a") for _ in range(2)]
        await asyncio.sleep(0.001)
        assert await asks(load, "c", priority=-1) == "Overloaded", "two of the class wait, each has its share"
        assert [task.done() for task in low] == [False, True, True, False]
        assert await asks(load, "c") == ""
        assert [task.done() for task in low].count(True) == 3
        assert not any(task.done() for task in high), "as long as there is a lower one"

    simulate(body, options={"ms_per_batch": RUN_MS}, bound=4)


def test_those_who_left_hold_no_place() -> None:
    async def body(load: Load) -> None:
        first = await filled(load, "aaaaaa")
        for task in first[:5]:
            task.cancel()
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)
        second = [load.start(tenant="b") for _ in range(5)]
        await asyncio.sleep(0.001)
        assert load.deployment.waiting == 6
        assert await asks(load, "b") == "Overloaded"
        assert await asks(load, "a") == "", "it has one left, the other five"
        assert [task.done() for task in second].count(True) == 1

    simulate(body, options={"ms_per_batch": RUN_MS}, bound=6)


def test_who_would_be_late_anyway_takes_nobodys_place() -> None:
    async def body(load: Load) -> None:
        for _ in range(8):
            await load.one()
        heavy = await filled(load, "aaaa")
        assert await asks(load, "b", priority=1, budget_s=RUN_MS / 2e3) == "Overloaded"
        assert not any(task.done() for task in heavy)
        assert load.deployment.shed == 0

    simulate(body, options={"ms_per_batch": RUN_MS}, bound=4)


class Party:
    """Several who wait as one."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.job: Any = None
        self.over = False

    def done(self) -> bool:
        return self.over

    def set_result(self, _: None, /) -> None:
        self.over = True

    def unfit(self, _: Any, /) -> None:
        return None

    def split(self, count: int) -> Job:
        other = Party(self.names[count:])
        self.names = self.names[:count]
        request = Request(lambda: 0.0, tenant=self.job.tenant)
        other.job = Job(other.names, 1.0, request, 0.0, other)
        other.job.count, self.job.count = len(other.names), count
        other.job.group = self.job.group
        return other.job  # type: ignore[no-any-return]


def test_of_several_who_wait_as_one_only_as_many_go_as_come() -> None:
    async def body(load: Load) -> None:
        deployment = load.deployment
        load.start()
        await asyncio.sleep(0.001)
        party = Party(["a", "b", "c", "d"])
        job = party.job = Job(
            party.names, 1.0, Request(load.loop.time, tenant="heavy"), load.loop.time(), party
        )
        job.group, job.count = (), 4
        deployment.push(Request(load.loop.time, tenant="heavy"), "s", job)
        for left in (3, 2):
            assert await asks(load, "light") == ""
            assert (party.names, job.count) == (["a", "b", "c", "d"][:left], left)
            assert (deployment.waiting, deployment.shed) == (4, 4 - left)
            assert deployment.queue.at_least(0) == 4
        assert await asks(load, "light") == "Overloaded"
        held = {
            lane.tenant: (lane.count, lane.live)
            for cls in deployment.queue._classes
            for *_, lane in cls.lanes
        }
        assert held == {"heavy": (2, 2), "light": (2, 2)}
        await load.settled()

    simulate(body, options={"ms_per_batch": RUN_MS}, bound=4, max_batch=4)


def test_slots_are_waited_for_fairly_too() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        options = {"ms_per_token": 100.0, "tokens": 1, "slots": 1, "answer": "constant", "value": "word"}
        backend = SyntheticSlotsBackend(ModelSpec("told", options=options))
        deployment = SlotDeployment(backend, label="slots", clock=clock, bound=4)
        await deployment.open()
        ends: list[tuple[str, str]] = []

        async def one(tenant: str) -> None:
            how = "done"
            try:
                async for _ in deployment.stream(Request(clock, tenant=tenant), "s", {"prompt": "x"}):
                    pass
            except Overloaded:
                how = "Overloaded"
            ends.append((tenant, how))

        heavy = [asyncio.ensure_future(one("heavy")) for _ in range(8)]
        await asyncio.sleep(0.01)
        light = [asyncio.ensure_future(one("light")) for _ in range(3)]
        await asyncio.gather(*heavy, *light)
        assert Counter(ends) == {
            ("heavy", "done"): 3,
            ("heavy", "Overloaded"): 5,
            ("light", "done"): 2,
            ("light", "Overloaded"): 1,
        }
        assert (deployment.shed, deployment.rejected, deployment.waiting) == (2, 4, 0)
        await deployment.close()

    run_virtual(main())


class Item:
    """One request; it is its own waiter."""

    cost = 1.0
    count = 1

    def __init__(self, due: float, tenant: str, priority: int) -> None:
        self.due, self.tenant, self.priority = due, tenant, priority
        self.lane: Any = None
        self.gone = False

    @property
    def waiter(self) -> Any:
        return self

    def done(self) -> bool:
        return self.gone


STEP = st.tuples(st.sampled_from("pplo"), st.floats(0, 10), st.integers(-1, 1), st.sampled_from("abc"))


@settings(max_examples=100, deadline=None)
@given(st.lists(STEP, max_size=60), st.integers(1, 12))
def test_places_are_counted_and_shared_whatever_happens(steps: list[Any], bound: int) -> None:
    queue: FairQueue[Any] = FairQueue()
    waiting: list[Item] = []
    for what, due, priority, tenant in steps:
        if what == "o":
            if (taken := queue.pop()) is not None:
                waiting.remove(taken)
        elif what == "l" and waiting:
            leaver = waiting.pop(int(due) % len(waiting))
            leaver.gone = True
            queue.left(leaver)
        elif what == "p":
            if len(waiting) >= bound:
                shed = queue.displaced(priority, tenant)
                if not may_come(waiting, priority, tenant):
                    assert shed is None
                    continue
                assert shed is not None
                assert is_right(shed, waiting, priority)
                shed.gone = True
                queue.left(shed)
                waiting.remove(shed)
            waiting.append(Item(due, tenant, priority))
            queue.push(waiting[-1])
        assert queue.live == len(waiting) <= bound
        lanes = [lane for cls in queue._classes for *_, lane in cls.lanes]
        assert sum(lane.live for lane in lanes) == len(waiting)


def may_come(waiting: list[Item], priority: int, tenant: str) -> bool:
    lowest = min(each.priority for each in waiting)
    if lowest != priority:
        return lowest < priority
    held = Counter(each.tenant for each in waiting if each.priority == priority)
    sharing = len(held | Counter({tenant: 1}))
    return held[tenant] + 1 <= math.floor(held.total() / sharing)


def is_right(shed: Item, waiting: list[Item], priority: int) -> bool:
    """The least urgent of those who hold most of the lowest priority."""
    low = [each for each in waiting if each.priority == min(one.priority for one in waiting)]
    held = Counter(each.tenant for each in low)
    due = max(each.due for each in low if each.tenant == shed.tenant)
    return shed in low and held[shed.tenant] == max(held.values()) and shed.due == due
