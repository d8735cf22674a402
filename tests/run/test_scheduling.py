"""Scheduling decisions as pure functions: release, padding, fairness, estimates."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.run.deploy.estimates import Arrivals, Durations
from tauten.run.deploy.fair_queue import FairQueue
from tauten.run.deploy.scheduling import (
    WAIT_OF_BUDGET,
    WAIT_OF_RUN,
    Forecast,
    Queue,
    fit,
    halves,
    part,
    queue_wait,
    release,
    retry_after,
)

NOBODY = Forecast()


def line(fixed_s: float, item_s: float) -> Any:
    return lambda n: fixed_s + item_s * n


def queue(items: int, most: int = 32, **changes: Any) -> Queue:
    return Queue(items, most, float(items), due=math.inf, budget_s=math.inf, since=0.0)._replace(**changes)


def decide(now: float, waiting: Queue, forecast: Forecast = NOBODY, wait: Any = "slack", **more: Any) -> Any:
    run_s = line(0.003, 0.0002)
    return release(now, waiting, run_s, run_s, forecast, wait, **more)


@given(
    waiting=st.integers(1, 200),
    most=st.integers(1, 64),
    idle=st.integers(1, 9),
    fixed_s=st.floats(0.0, 0.1),
    item_s=st.floats(0.0, 0.01),
)
def test_parts_are_for_idle_replicas_and_end_sooner(
    waiting: int, most: int, idle: int, fixed_s: float, item_s: float
) -> None:
    whole, parts, run_s = float(min(waiting, most)), min(idle, waiting), line(fixed_s, item_s)
    each = part(float(waiting), whole, parts, run_s)
    assert 1.0 <= each <= whole
    if each < whole:
        assert each * parts == pytest.approx(waiting), "each part leaves now"
        assert run_s(each) < 0.8 * run_s(whole)


def test_what_gains_little_stays_together() -> None:
    assert part(32, 32, 2, line(0.002, 0.0005)) == 16
    assert part(40, 32, 2, line(0.002, 0.0005)) == 20, "a full batch, and what would be left of it"
    assert part(64, 32, 2, line(0.002, 0.0005)) == 32, "two full ones"
    assert part(32, 32, 1, line(0.002, 0.0005)) == 32
    assert part(2, 2, 2, line(0.0, 0.010)) == 1
    assert part(32, 32, 2, line(0.020, 0.0001)) == 32, "most of a run is its beginning"
    assert part(32, 32, 2, line(0.0, 0.000001)) == 32, "another thread costs more"
    assert part(32, 32, 2, line(0.0, 0.0)) == 32, "nothing is known yet"


def test_each_reason() -> None:
    soon = Forecast(returning=16, returning_s=0.0003, latest_s=0.0004)
    assert decide(0.0, queue(32), soon)[:2] == (32, "full")
    assert decide(0.0, queue(40), soon)[:2] == (32, "full")
    assert decide(0.0, queue(3), soon, "off")[:2] == (3, "off")
    assert decide(0.0, queue(1))[:2] == (1, "alone")
    assert decide(0.0, queue(4, siblings=4), soon)[:2] == (4, "siblings")
    assert decide(0.0, queue(16), Forecast(16, 0.5, 0.6))[:2] == (16, "gain")
    assert decide(0.0, queue(16, due=0.005), soon)[:2] == (16, "slack")
    held = decide(0.0, queue(16), soon)
    assert (held.members, held.target) == (0, 32)
    assert held.wake_at == pytest.approx(0.0004)
    assert decide(1.0, queue(16), soon)[:2] == (16, "gain"), "its time to wait is over"


def test_a_fixed_wait_waits_just_so_long_and_minds_the_deadline() -> None:
    assert decide(0.0, queue(3), NOBODY, 5.0)[:3] == (0, "fixed", 0.005)
    assert decide(0.005, queue(3), NOBODY, 5.0)[:2] == (3, "fixed")
    assert decide(0.0, queue(3, due=0.006), NOBODY, 5.0).wake_at == pytest.approx(0.006 - 0.0038)
    assert decide(0.003, queue(3, due=0.006), NOBODY, 5.0)[:2] == (3, "slack")


def test_siblings_on_their_way_are_waited_for_only_where_they_come_quickly() -> None:
    assert decide(0.0, queue(2, siblings=2, missing=2, gap_s=0.0003)).target == 4
    assert decide(0.0, queue(2, siblings=2, missing=2, gap_s=0.050))[:2] == (2, "gain")
    assert decide(0.0, queue(2, siblings=2, missing=2))[:2] == (2, "gain"), "unknown: nothing is held"


def test_two_crowds_in_turn_are_one_where_they_are_back_before_a_run_is_saved() -> None:
    """3 ms of each run are its beginning: with two crowds every second one of them is for nothing."""
    for here, away in ((4, 4), (24, 8), (1, 31)):
        for back_s, joined in ((0.0025, True), (0.0029, False)):
            found = decide(0.0, queue(here), Forecast(away, back_s, 2 * back_s))
            assert (found.members == 0) is joined
            assert not joined or (found.target, found.wake_at) == (here + away, pytest.approx(2 * back_s))


def test_whether_clients_would_be_back_is_tried_for_half_of_what_it_may_save() -> None:
    unknown = Forecast(4, None)
    found = decide(0.0, queue(4), unknown)
    assert (found.members, found.target, found.wake_at) == (0, 8, pytest.approx(0.0015))
    assert decide(0.001, queue(4), unknown).wake_at == pytest.approx(0.0015), "however often it is looked at"
    assert decide(0.0015, queue(4), unknown)[:2] == (4, "gain")


def test_other_groups_are_never_kept_waiting() -> None:
    assert decide(0.0, queue(16, others=1), Forecast(16, 0.0004, 0.0004)).members == 16


def test_strangers_are_waited_for_only_when_one_at_a_time_would_not_keep_up() -> None:
    assert decide(0.0, queue(1), Forecast(rate=200.0)).members == 1, "they come slower than it runs"
    assert decide(0.0, queue(1), Forecast(rate=3000.0)).members == 0
    assert decide(0.0, queue(12), Forecast(rate=3000.0)).members == 12, "too many would wait for one more"


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.floats(0.0, 0.02),
    st.floats(0.0, 0.005),
    st.integers(0, 40),
    st.none() | st.floats(0.0, 0.02),
    st.floats(0.0, 0.02),
    st.floats(0.0, 5000.0),
    st.floats(0.0, 0.1),
    st.floats(0.0, 1.0),
    st.floats(0.1, 50.0),
)
def test_a_hold_is_bounded_and_a_release_takes_somebody(
    items: int,
    most: int,
    fixed_s: float,
    item_s: float,
    returning: int,
    returning_s: float | None,
    latest_s: float,
    rate: float,
    now: float,
    budget_s: float,
    each: float,
) -> None:
    run_s = line(fixed_s, item_s)
    weight = items * each
    waiting = Queue(items, most, weight, now + budget_s, budget_s, now)
    found = release(now, waiting, run_s, run_s, Forecast(returning, returning_s, latest_s, rate))
    if found.members:
        assert found.members == min(items, most)
        return
    n = min(items, most)
    assert n < found.target <= most
    assert found.weight == pytest.approx(found.target * each)
    assert now <= found.wake_at <= now + WAIT_OF_RUN * run_s(weight) + 1e-9
    assert found.wake_at <= now + WAIT_OF_BUDGET * budget_s + 1e-9
    in_time_s = now + budget_s + 1e-9
    assert found.wake_at + run_s(found.weight) <= in_time_s, "who was held is in time, whoever came"


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 100),
    st.lists(st.integers(1, 64), min_size=1, unique=True),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_padding_or_trimming_takes_a_size_that_runs(
    items: int, sizes: list[int], fixed_s: float, item_s: float
) -> None:
    run_s = line(fixed_s, item_s)
    take, run = fit(items, sizes, run_s)
    assert 1 <= take <= items
    assert take <= run
    assert run in sizes
    cost = run_s(run) / take
    assert all(
        run_s(size) / min(items, size) >= cost - 1e-12
        for size in ([max(s for s in sizes if s <= items)] if min(sizes) <= items else [])
    )


def test_small_helpers() -> None:
    assert [halves(n) for n in (2, 3, 8)] == [(1, 1), (1, 2), (4, 4)]
    assert queue_wait(20, 8, 2, 0.1, 0.05) == pytest.approx(0.15)
    assert retry_after(0.5, 0.2, 0.1) == pytest.approx(0.3)
    assert retry_after(0.5, 0.45, 0.1) == pytest.approx(0.1), "not before a run has ended"
    assert retry_after(0.5, 0.5) > 0.0


# -- fairness ------------------------------------------------------------------------------------------------


class Item:
    def __init__(self, due: float, priority: int = 0, tenant: str = "", cost: float = 1.0) -> None:
        self.due, self.priority, self.tenant, self.cost = due, priority, tenant, cost
        self.count = 1
        self.waiter: asyncio.Future[None] = asyncio.Future(loop=_LOOP)


_LOOP = asyncio.new_event_loop()  # futures need one; it never runs


@pytest.fixture(scope="module", autouse=True)
def _closed_loop() -> Iterator[None]:
    yield
    _LOOP.close()


def drained(waiting: FairQueue[Item]) -> list[Item]:
    return list(iter(waiting.pop, None))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 10), st.integers(-2, 2), st.sampled_from("abc"), st.booleans(), st.integers(0, 2)
        ),
        max_size=80,
    )
)
def test_everything_pushed_comes_out_once_in_the_order_of_its_lane(steps: list[Any]) -> None:
    waiting: FairQueue[Item] = FairQueue()
    pushed: list[Item] = []
    popped: list[Item] = []
    left: set[Item] = set()
    for due, priority, tenant, leaves, pops in steps:
        item = Item(due, priority, tenant)
        pushed.append(item)
        waiting.push(item)
        if leaves:
            item.waiter.cancel()
            waiting.left(item)
            left.add(item)
        for _ in range(pops):
            head = waiting.head()
            taken = waiting.pop()
            assert head is taken
            if taken is not None:
                popped.append(taken)
        assert waiting.live == len(pushed) - len(left) - len(popped)
    popped += drained(waiting)
    assert sorted(map(id, popped)) == sorted(id(item) for item in pushed if item not in left)
    assert waiting.live == 0


def test_within_a_tenant_the_most_urgent_goes_first() -> None:
    waiting: FairQueue[Item] = FairQueue()
    dues = [random.Random(1).random() for _ in range(200)]
    for due in dues:
        waiting.push(Item(due))
    assert [item.due for item in drained(waiting)] == sorted(dues)


def test_a_light_tenant_is_served_beside_a_heavy_one() -> None:
    waiting: FairQueue[Item] = FairQueue()
    for index in range(1000):
        waiting.push(Item(index, tenant="heavy"))
    for index in range(10):
        waiting.push(Item(2000 + index, tenant="light"))
    first = [waiting.pop() for _ in range(24)]
    assert sum(item is not None and item.tenant == "light" for item in first) == 10
    assert waiting.ahead(0, "light") == 1, "a tenant that comes anew waits for one of each other"
    assert waiting.ahead(0, "heavy") == 986


def test_shares_are_of_cost_not_of_number() -> None:
    waiting: FairQueue[Item] = FairQueue()
    for index in range(300):
        waiting.push(Item(index, tenant="big", cost=4.0))
        waiting.push(Item(index, tenant="small", cost=1.0))
    first = Counter(item.tenant for _ in range(100) if (item := waiting.pop()) is not None)
    assert first["small"] == pytest.approx(80, abs=3)


def test_tenants_that_are_about_even_go_by_urgency() -> None:
    waiting: FairQueue[Item] = FairQueue()
    waiting.quantum = 8.0
    for index in range(8):
        waiting.push(Item(10 + index, tenant="a"))
        waiting.push(Item(index, tenant="b"))
    assert [item.tenant for item in drained(waiting)][:8] == ["b"] * 8


def test_priorities_are_nearly_strict_and_nobody_starves() -> None:
    waiting: FairQueue[Item] = FairQueue()
    for index in range(2000):
        waiting.push(Item(index, priority=1))
        waiting.push(Item(index, priority=0))
    first = Counter(item.priority for _ in range(1700) if (item := waiting.pop()) is not None)
    assert first[0] == pytest.approx(100, abs=3)
    lowest = waiting.displaced(1, "")
    assert lowest is not None
    assert (lowest.priority, lowest.due) == (0, 1999)


def test_a_trickle_of_a_lower_priority_gets_no_more_than_its_share() -> None:
    waiting: FairQueue[Item] = FairQueue()
    for index in range(1000):
        waiting.push(Item(index, priority=1))
    low = 0
    waiting.push(Item(0, priority=0))
    for _ in range(340):
        item = waiting.pop()
        if item is not None and item.priority == 0:
            low += 1
            waiting.push(Item(0, priority=0))
    assert 15 <= low <= 25


def test_what_is_put_back_costs_nothing() -> None:
    waiting: FairQueue[Item] = FairQueue()
    for index in range(10):
        waiting.push(Item(index, tenant="a"))
        waiting.push(Item(index, tenant="b"))
    for _ in range(20):
        item = waiting.pop()
        assert item is not None
        waiting.restore(item)
    first = Counter(item.tenant for _ in range(10) if (item := waiting.pop()) is not None)
    assert abs(first["a"] - first["b"]) <= 1


def test_who_has_one_item_does_not_wait_for_another_of_whom_many_were_put_back() -> None:
    waiting: FairQueue[Item] = FairQueue()
    waiting.push(Item(0.0, tenant="leaves"))
    for index in range(30):
        waiting.push(Item(1.0 + index, tenant="many"))
    waiting.push(Item(100.0, tenant="one"))
    passed = [item for item in drained(waiting) if item.tenant != "leaves"]
    for item in passed:
        waiting.restore(item)
    assert "one" in [item.tenant for item in drained(waiting)[:3]]


def test_what_was_taken_is_still_paid_for_when_all_others_were_put_back() -> None:
    waiting: FairQueue[Item] = FairQueue()
    for index in range(8):
        waiting.push(Item(index, tenant="heavy", cost=4.0))
        waiting.push(Item(100.0 + index, tenant="light"))
    first, *passed = drained(waiting)
    assert first.tenant == "heavy"
    for item in passed:
        waiting.restore(item)
    assert [item.tenant for item in drained(waiting)[:3]] == ["light"] * 3


def accounts(waiting: FairQueue[Item]) -> dict[Any, list[float]]:
    """What classes and tenants have had, by what they have waiting."""
    found: dict[Any, list[float]] = {}
    for cls in waiting._classes:
        found[cls.priority] = [cls.time, cls.taken]
        for time, _, lane in cls.lanes:
            own = [time, lane.count, lane.live, lane.taken, lane.since]
            found[cls.priority, lane.tenant] = own
    return found


STEPS = st.tuples(st.sampled_from("ppptl"), st.floats(0, 10), st.integers(-1, 1), st.sampled_from("abc"))


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60), st.integers(1, 60), st.randoms())
def test_who_is_put_back_finds_all_as_it_was(steps: list[Any], count: int, draws: random.Random) -> None:
    waiting: FairQueue[Item] = FairQueue()
    live: list[Item] = []
    for what, due, priority, tenant in steps:
        if what == "p":
            live.append(Item(due, priority, tenant, cost=1.0 + int(due)))
            waiting.push(live[-1])
        elif what == "t" and (taken := waiting.pop()) is not None:
            live.remove(taken)
        elif what == "l" and live:
            leaver = live.pop()
            leaver.waiter.cancel()
            waiting.left(leaver)
    while (head := waiting.head()) is not None and waiting.live < len(waiting):
        live.remove(head)  # until those that left are out of the way
        waiting.pop()
    before, live_before = accounts(waiting), waiting.live
    passed = [item for _ in range(count) if (item := waiting.pop()) is not None]
    draws.shuffle(passed)
    for item in passed:
        waiting.restore(item)
    assert waiting.live == live_before
    if waiting.live:
        after = accounts(waiting)
        assert after.keys() == before.keys()
        for name, each in after.items():
            assert each == pytest.approx(before[name]), name
    assert sorted(map(id, drained(waiting))) == sorted(map(id, live))


# -- estimates -----------------------------------------------------------------------------------------------


def test_durations_find_the_line_and_follow_a_change() -> None:
    durations, draws = Durations(), random.Random(3)
    assert durations.expected(8) == 0.0
    for index in range(400):
        slow = 2.0 if index >= 200 else 1.0
        n = draws.randint(1, 16)
        durations.observe(n, n, slow * (0.010 + 0.001 * n) * draws.uniform(0.9, 1.1), index * 0.01)
    assert durations.expected(1) == pytest.approx(0.022, rel=0.1)
    assert durations.expected(16) == pytest.approx(0.052, rel=0.1)
    assert durations.high_of(16) > durations.expected(16) > durations.low_of(16)
    assert durations.fresh(4.1)
    assert not durations.fresh(60.0), "old estimates refuse nobody"


def test_the_first_runs_of_a_model_are_forgotten() -> None:
    durations = Durations()
    for index, seconds in enumerate((3.0, 0.5, 0.010, 0.010)):
        durations.observe(1, 1.0, seconds, index)
    assert durations.expected(1) == pytest.approx(0.010)


def test_one_weight_alone_says_nothing_of_the_slope() -> None:
    durations = Durations()
    for index in range(50):
        durations.observe(32, 32.0, 0.008, index * 0.01)
    assert durations.expected(32) == pytest.approx(0.008)


def test_returning_clients_are_expected_and_strangers_are_not() -> None:
    closed, open_loop, draws = Arrivals(), Arrivals(), random.Random(5)
    now = 0.0
    for _ in range(50):
        for _ in range(16):
            closed.came(now + draws.uniform(0.0002, 0.0004))
        now += 0.010
        closed.went(now, 16)
    seen = closed.forecast(now)
    assert seen.returning == 16
    assert seen.returning_s is not None
    assert seen.returning_s <= seen.latest_s < 0.0008
    assert closed.forecast(now + 0.005).returning == 0, "who is overdue is not waited for"
    now = 0.0
    for _ in range(500):
        now += draws.expovariate(20.0)
        open_loop.came(now)
        open_loop.went(now + 0.003, 1)
    seen = open_loop.forecast(now + 0.0031)
    assert seen.returning == 0 or (seen.returning_s is not None and seen.returning_s > 0.010)


def test_those_who_came_together_are_one_sample_however_many_they_are() -> None:
    """Of 32 who came in one turn, 31 say nothing of how much the time until all are back varies."""
    arrivals, now = Arrivals(), 0.0
    for back_s in (0.0010, 0.0016) * 20:
        arrivals.went(now, 32)
        arrivals.came(now + back_s, 32)
        now += 0.010
    arrivals.went(now, 32)
    assert arrivals.forecast(now).latest_s > 0.0016


def test_how_soon_clients_would_be_back_if_nothing_ran_is_not_known_from_runs() -> None:
    arrivals, now = Arrivals(), 0.0
    for _ in range(20):  # two crowds in turn: one returns while the other's batch runs
        arrivals.went(now, 4)
        arrivals.busy()
        arrivals.came(now + 0.003, 4)
        now += 0.004
        arrivals.idle(now)
    arrivals.went(now, 4)
    assert (arrivals.forecast(now).returning, arrivals.forecast(now).returning_s) == (4, None)
    for _ in range(2):
        arrivals.came(now + 0.0005, 4)
        now += 0.0005
        arrivals.went(now, 4)
    known = arrivals.forecast(now)
    assert known.returning_s is not None
    assert known.returning_s < 0.001
    for _ in range(66):
        arrivals.busy()
        arrivals.came(now + 0.003, 4)
        now += 0.004
        arrivals.idle(now)
        arrivals.went(now, 4)
    assert arrivals.forecast(now).returning_s is None, "that was long ago"


def test_who_left_for_good_is_missed_once() -> None:
    arrivals, now = Arrivals(), 0.0
    for _ in range(20):
        arrivals.went(now, 8)
        arrivals.came(now + 0.0005, 8)
        now += 0.010
    arrivals.went(now, 8)
    arrivals.came(now + 0.0003, 7)
    assert arrivals.forecast(now + 0.0004).returning == 1
    assert arrivals.forecast(now + 0.005).returning == 0
    now += 0.010
    arrivals.went(now, 7)
    arrivals.came(now + 0.0003, 7)
    assert arrivals.forecast(now + 0.0004).returning == 0


def test_waits_in_vain_make_waits_rarer() -> None:
    arrivals = Arrivals()
    arrivals.held(enough=False)
    assert [arrivals.may_hold() for _ in range(3)] == [False, True, True]
    for _ in range(10):
        arrivals.held(enough=False)
    assert sum(not arrivals.may_hold() for _ in range(200)) == 63
    arrivals.held(enough=True)
    arrivals.held(enough=False)
    assert [arrivals.may_hold() for _ in range(2)] == [False, True]
