"""What keeps calls to providers from doing harm, each noun alone on a clock that is told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tauten.clock import run_virtual
from tauten.run.remote.allowance import Allowance, span_s
from tauten.run.remote.circuit import FAULTS, FIRST_OPEN_S, LONGEST_OPEN_S, WINDOW_S, Circuit, slow
from tauten.run.remote.hedging import Hedging
from tauten.run.remote.mirror import Mirror
from tauten.run.remote.retrying import RESERVE, ROUNDS, Retrying
from tauten.run.remote.room import LEAST_TOKENS, START_TOKENS, Room
from tauten.run.remote.share import Share


class Now:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


# -- circuit -------------------------------------------------------------------------------------------------


def circuit(now: Now, draw: float = 1.0) -> Circuit:
    return Circuit(now, lambda: draw)


def fail(breaker: Circuit, times: int, fault: bool | None = True) -> None:
    for _ in range(times):
        given_pass = breaker.enter()
        assert given_pass is not None
        breaker.ended(given_pass, fault)


def test_faults_open_it_and_one_probe_closes_it() -> None:
    now = Now()
    breaker = circuit(now)
    fail(breaker, FAULTS - 1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert (breaker.state, breaker.enter(), breaker.opens_in_s) == ("open", None, FIRST_OPEN_S)
    now.at += FIRST_OPEN_S
    probe = breaker.enter()
    assert probe is not None
    assert (breaker.state, breaker.enter()) == ("half-open", None)  # one alone
    breaker.ended(probe, False)
    assert breaker.state == "closed"


def test_each_failed_probe_doubles_the_pause_up_to_a_minute() -> None:
    now = Now()
    breaker = circuit(now)
    fail(breaker, FAULTS)
    pauses = []
    for _ in range(9):
        pauses.append(breaker.opens_in_s)
        now.at += breaker.opens_in_s
        fail(breaker, 1)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(pauses) == LONGEST_OPEN_S


def test_the_pause_is_jittered_downwards_by_half_at_most() -> None:
    now = Now()
    breaker = circuit(now, draw=0.0)
    fail(breaker, FAULTS)
    assert breaker.opens_in_s == FIRST_OPEN_S / 2


def test_limits_and_errors_of_the_caller_say_nothing_of_health() -> None:
    breaker = circuit(Now())
    fail(breaker, 100, None)
    assert breaker.state == "closed"


def test_a_probe_that_meets_a_limit_leaves_the_place_to_the_next() -> None:
    now = Now()
    breaker = circuit(now)
    fail(breaker, FAULTS)
    now.at += FIRST_OPEN_S
    fail(breaker, 1, None)
    assert breaker.state == "half-open"
    assert breaker.lets


def test_half_the_calls_must_fail_and_old_ones_do_not_count() -> None:
    now = Now()
    breaker = circuit(now)
    fail(breaker, FAULTS + 3, False)
    fail(breaker, FAULTS)
    assert breaker.state == "closed"  # 5 of 13
    now.at += WINDOW_S + 1
    fail(breaker, FAULTS - 1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"


def test_calls_from_before_it_opened_decide_nothing_after() -> None:
    now = Now()
    breaker = circuit(now)
    early = [breaker.enter() for _ in range(FAULTS)]
    fail(breaker, FAULTS)
    now.at += FIRST_OPEN_S
    fail(breaker, 1, False)  # the probe: it is back
    for each in early:
        assert each is not None
        breaker.ended(each, True)
    assert breaker.state == "closed"


def test_slow_is_relative_to_what_the_call_has() -> None:
    assert slow(0.6, 1.0)
    assert not slow(0.6, 10.0)
    assert not slow(1e6, math.inf)


def test_a_clock_that_jumps_back_leaves_it_open_no_longer_than_it_says() -> None:
    now = Now()
    breaker = circuit(now)
    fail(breaker, FAULTS)
    now.at -= 500
    assert breaker.state == "open"
    now.at += 501
    assert breaker.state == "half-open"


# -- retries -------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=300))
def test_retries_are_a_tenth_of_the_traffic_and_the_reserve(failing: list[bool]) -> None:
    retrying = Retrying(lambda: 0.5)
    paid = 0
    for fails in failing:
        retrying.came()
        tried = 1
        while fails and retrying.wait_s(tried, 0.0, math.inf) is not None:
            paid += 1
            tried += 1
    assert paid <= 0.1 * len(failing) + RESERVE


def test_an_outage_after_quiet_days_is_not_met_with_all_that_was_saved() -> None:
    retrying = Retrying(lambda: 0.5)
    for _ in range(100_000):
        retrying.came()
    assert sum(retrying.wait_s(1, 0.0, math.inf) is not None for _ in range(1000)) == 20


def test_no_retry_after_the_deadline_nor_beyond_its_rounds() -> None:
    retrying = Retrying(lambda: 0.5)
    assert retrying.wait_s(1, 5.0, 5.0) is None
    assert retrying.wait_s(ROUNDS, 0.0, math.inf) is None
    assert retrying.wait_s(1, 0.0, 0.05) is None  # the pause would be 0.1
    assert retrying.wait_s(1, 5.0, 6.0) == pytest.approx(5.0 * 1.125)


@given(st.integers(1, ROUNDS - 1), st.floats(0.001, 60), st.floats(0, 0.999))
def test_what_they_asked_for_is_waited_for(tried: int, asked_s: float, drawn: float) -> None:
    wait_s = Retrying(lambda: drawn).wait_s(tried, asked_s, math.inf)
    assert wait_s is not None
    assert asked_s <= wait_s <= asked_s * 1.25


# -- shares, mirrors -----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=100))
def test_a_share_never_gives_more_than_it_earned(steps: list[tuple[float, float]]) -> None:
    share = Share(0.05, reserve=1.0, most=50.0)
    earned = spent = 0.0
    for earns, takes in steps:
        share.earn(earns)
        earned += earns
        spent += takes if share.take(takes) else 0.0
        assert spent <= 1.0 + 0.05 * earned + 1e-6
        assert 0.0 <= share.left <= 50.0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 1.0])
def test_a_mirror_takes_its_share_evenly(share: float) -> None:
    mirror = Mirror(share)
    taken = [mirror.takes() for _ in range(1000)]
    assert sum(taken) == round(1000 * share)
    if share == 0.1:
        assert all(sum(taken[at : at + 10]) == 1 for at in range(0, 1000, 10))


# -- hedges --------------------------------------------------------------------------------------------------


def hedging(first_s: float = 0.2, rest_s: float = 0.3, seen: int = 20) -> Hedging:
    hedge = Hedging()
    for _ in range(seen):
        hedge.observe(first_s, rest_s)
    return hedge


def test_nothing_is_hedged_before_anything_is_known_or_without_a_deadline() -> None:
    assert hedging(seen=7).after_s(1.0) is None
    assert hedging().after_s(math.inf) is None


def test_a_hedge_waits_until_little_more_than_a_usual_call_is_left() -> None:
    hedge = hedging()
    assert hedge.after_s(10.0) == pytest.approx(10.0 - 2 * 0.5)
    assert hedge.after_s(0.8) == pytest.approx(0.2)  # the 95th percentile: never earlier
    assert hedge.after_s(0.6) is None  # a second one would be too late as well


def test_a_hedge_begins_after_the_95th_percentile() -> None:
    hedge = Hedging()
    for index in range(64):
        hedge.observe(0.1 if index % 16 else 2.0, 0.0)
    assert hedge.first_s(0.5) == 0.1
    assert hedge.after_s(2.15) == pytest.approx(2.0)


def test_hedges_cost_a_twentieth_of_the_tokens_at_most() -> None:
    hedge = hedging()
    spent = 0.0
    for _ in range(1000):
        hedge.came(1000.0)
        spent += 1000.0 if hedge.takes(1000.0) else 0.0
    assert spent == pytest.approx(50_000.0)


# -- limits --------------------------------------------------------------------------------------------------


def test_a_minutes_requests_may_go_at_once_and_then_one_by_one() -> None:
    now = Now()
    allowance = Allowance(now, requests_per_minute=60)
    assert [allowance.take(0.0) for _ in range(60)] == [0.0] * 60
    assert [allowance.take(0.0) for _ in range(3)] == pytest.approx([1.0, 2.0, 3.0])
    now.at += 3.0
    assert allowance.wait_s(0.0) == pytest.approx(1.0)


def test_tokens_are_reserved_and_settled() -> None:
    now = Now()
    allowance = Allowance(now, tokens_per_minute=6000)
    assert allowance.take(5000.0) == 0.0
    assert allowance.wait_s(2000.0) == pytest.approx(10.0)
    allowance.settle(5000.0, 1000.0)
    assert allowance.wait_s(2000.0) == 0.0
    allowance.give_back(1000.0)
    assert allowance.wait_s(6000.0) == 0.0


def test_a_call_larger_than_the_limit_goes_when_the_bucket_is_full() -> None:
    now = Now()
    allowance = Allowance(now, tokens_per_minute=600)
    assert allowance.take(1000.0) == 0.0
    assert allowance.wait_s(1000.0) == pytest.approx(100.0)


def test_headers_tell_what_is_left_and_when_it_is_back() -> None:
    now = Now()
    allowance = Allowance(now)
    headers = {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "1"}
    allowance.learn({**headers, "x-ratelimit-reset-requests": "49.5s"})
    assert allowance.take(0.0) == 0.0
    assert allowance.take(0.0) == pytest.approx(0.5)  # 99 in 49.5 s
    allowance.learn(headers)  # others use the key, too: they never raise what we hold
    assert allowance.wait_s(0.0) > 0.0


def test_headers_never_raise_a_limit_that_was_configured() -> None:
    now = Now()
    allowance = Allowance(now, requests_per_minute=6)
    allowance.learn({"x-ratelimit-limit-requests": "9999", "x-ratelimit-remaining-requests": "9998"})
    assert [allowance.take(0.0) for _ in range(7)][-1] == pytest.approx(10.0)


def test_a_refusal_shuts_for_as_long_as_it_says_or_ever_longer() -> None:
    now = Now()
    allowance = Allowance(now)
    assert allowance.refused(7.0) == 7.0
    assert allowance.wait_s(0.0) == 7.0
    now.at += 7.0
    assert [allowance.refused(0.0) for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    allowance.answered({})
    assert allowance.refused(0.0) == 1.0


@pytest.mark.parametrize("jump_s", [-1e6, 1e6])
def test_a_clock_that_jumps_gives_a_minutes_worth_at_most(jump_s: float) -> None:
    now = Now()
    allowance = Allowance(now, requests_per_minute=60)
    for _ in range(60):
        allowance.take(0.0)
    now.at += jump_s
    assert allowance.wait_s(0.0) <= 1.0  # a second brings the next, whatever the clock did
    free = sum(allowance.take(0.0) == 0.0 for _ in range(200))
    assert free == (0 if jump_s < 0 else 60)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("9", 9.0), ("", 0.0), ("-1s", 0.0)],
)
def test_spans_are_read_as_providers_write_them(text: str, seconds: float) -> None:
    assert span_s(text) == pytest.approx(seconds)


# -- room ----------------------------------------------------------------------------------------------------


def test_a_room_is_counted_in_tokens_and_entered_in_order() -> None:
    async def scene() -> list[str]:
        room = Room(asyncio.get_running_loop().time, tokens=10_000)
        order: list[str] = []

        async def call(name: str, tokens: float, hold_s: float) -> None:
            entry = await room.enter(tokens)
            order.append(name)
            await asyncio.sleep(hold_s)
            room.leave(entry, first_s=0.1)

        await asyncio.gather(
            call("a", 6000, 2.0), call("b", 4000, 1.0), call("large", 9000, 1.0), call("small", 100, 1.0)
        )
        assert (room.taken, room.waiting) == (0.0, 0)
        return order

    assert run_virtual(scene()) == ["a", "b", "large", "small"]  # the small one does not pass the large one


def test_a_call_larger_than_the_room_enters_alone_and_a_count_bounds_it_too() -> None:
    async def scene() -> None:
        now = asyncio.get_running_loop().time
        entry = await Room(now, tokens=10).enter(1000)
        assert entry.tokens == 1000
        room = Room(now, calls=2)
        await room.enter(1)
        await room.enter(1)
        assert not room.fits(1)

    run_virtual(scene())


def test_who_leaves_the_queue_holds_nobody_up() -> None:
    async def scene() -> None:
        room = Room(asyncio.get_running_loop().time, tokens=100)
        entry = await room.enter(100)
        large = asyncio.create_task(room.enter(90))
        small = asyncio.create_task(room.enter(50))
        await asyncio.sleep(0)
        large.cancel()
        await asyncio.wait([large])
        room.leave(entry)
        late = asyncio.create_task(room.enter(80))
        await asyncio.sleep(0)
        assert small.done()
        room.leave(await small)
        late.cancel()  # its turn came in the same breath: it is passed on
        await asyncio.wait([late])
        assert room.taken == 0.0
        assert room.fits(100)

    run_virtual(scene())


def test_refusals_shrink_it_once_a_round_and_success_lets_it_grow() -> None:
    async def scene() -> list[float]:
        room = Room(asyncio.get_running_loop().time)
        entries = [await room.enter(START_TOKENS / 16) for _ in range(16)]
        limits = []
        await asyncio.sleep(1.0)
        for entry in entries:
            room.leave(entry, refused=True)
        limits.append(room.limit)
        for _ in range(200):
            entries = [await room.enter(room.limit / 5) for _ in range(4)]
            await asyncio.sleep(0.1)
            for entry in entries:
                room.leave(entry, first_s=0.1)
        limits.append(room.limit)
        return limits

    shrunk, grown = run_virtual(scene())
    assert shrunk == pytest.approx(0.7 * START_TOKENS)
    assert grown > START_TOKENS


def test_an_endpoint_that_slows_is_given_less_and_never_less_than_one_call() -> None:
    async def scene() -> list[float]:
        room = Room(asyncio.get_running_loop().time)
        limits = []
        for first_s in [0.1] * 20 + [0.25] + [100.0] * 100:
            entry = await room.enter(1000)
            await asyncio.sleep(1.0)
            room.leave(entry, first_s=first_s)
            limits.append(room.limit)
        return limits

    limits = run_virtual(scene())
    assert limits[19] == START_TOKENS
    assert limits[20] == pytest.approx(0.7 * START_TOKENS)
    assert min(limits) >= LEAST_TOKENS


def test_shares_of_two_rooms_at_one_bottleneck_become_alike() -> None:
    """Additive increase and multiplicative decrease are fair: whoever began with more ends with as much."""

    async def scene() -> tuple[float, float]:
        now = asyncio.get_running_loop().time
        rooms = [Room(now, tokens=60_000), Room(now, tokens=5_000)]
        draw = random.Random(1)
        for _ in range(600):
            full = sum(room.limit for room in rooms) > 80_000
            for room in rooms:
                entry = await room.enter(room.limit)
                await asyncio.sleep(0.1 + draw.random() / 10)
                room.leave(entry, first_s=None if full else 0.1, refused=full)
        return rooms[0].limit, rooms[1].limit

    first, second = run_virtual(scene())
    assert first / second == pytest.approx(1.0, rel=0.2)
