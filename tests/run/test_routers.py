"""What each router is for: bounds, affinity, prices, deadlines, and two choices that beat one."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.clock import run_virtual
from tauten.errors import PlanError
from tauten.run.contracts import Ask, Candidate, Evidence, Outcome
from tauten.run.routers.cascade import CascadeRouter
from tauten.run.routers.cost import CostRouter
from tauten.run.routers.hybrid import HybridRouter
from tauten.run.routers.latency import LatencyRouter
from tauten.run.routers.order import OrderRouter
from tauten.run.routers.prefix import PrefixRouter
from tauten.run.routers.retrieval_first import RetrievalFirstRouter
from tauten.run.routers.spill import SpillRouter
from tauten.run.routers.sticky import StickyRouter
from tauten.run.routers.usage import UsageRouter
from tauten.statistics import percentile


def places(count: int, **fields: list[float]) -> list[Candidate]:
    return [
        Candidate(f"n{number}", **{key: values[number] for key, values in fields.items()})
        for number in range(count)
    ]


# -- sticky ----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=300),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.25, 1.0]),
)
def test_no_place_has_more_than_its_bound(keys: list[int], count: int, over: float) -> None:
    router = StickyRouter({"over": over})
    under_way: Counter[str] = Counter()
    for sent, key in enumerate(keys, 1):
        there = [Candidate(f"n{number}", outstanding=under_way[f"n{number}"]) for number in range(count)]
        under_way[router.route(Ask(key=str(key)), there).order[0]] += 1
        assert max(under_way.values()) <= math.ceil((1 + over) * sent / count)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(0, 8), st.integers(0, 5))
def test_only_the_keys_of_a_place_that_leaves_move(count: int, which: int, seed: int) -> None:
    gone = f"n{which % count}"
    all_, rest = places(count), [each for each in places(count) if each.name != gone]
    router = StickyRouter({}, seed=seed)
    for key in range(60):
        before = router.route(Ask(key=str(key)), all_).order[0]
        after = router.route(Ask(key=str(key)), rest).order[0]
        assert after == before or before == gone


def test_keys_spread_over_the_places() -> None:
    router = StickyRouter({})
    homes = Counter(router.route(Ask(key=str(key)), places(5)).order[0] for key in range(5000))
    assert len(homes) == 5
    assert max(homes.values()) < 1.5 * 1000


def test_a_full_place_hands_its_key_to_the_next_and_says_so() -> None:
    router = StickyRouter({})
    home = router.route(Ask(key="ann"), places(3)).order[0]
    there = [Candidate(each.name, outstanding=9 if each.name == home else 0) for each in places(3)]
    route = router.route(Ask(key="ann"), there)
    assert route.order[0] != home
    assert route.order[-1] == home
    assert f"{home} has 9 of" in route.why


# -- prefix ----------------------------------------------------------------------------------------------------


def test_equal_beginnings_share_a_home_until_the_first_output_would_be_late() -> None:
    router = PrefixRouter({"characters": 8})
    ask = Ask(prefix="You are a helpful desk", first_left_s=0.5)
    home = router.route(ask, places(6)).order[0]
    assert router.route(Ask(prefix="You are a pirate", first_left_s=0.5), places(6)).order[0] == home
    busy = [Candidate(each.name, wait_s=0.6 if each.name == home else 0.4) for each in places(6)]
    second = router.route(ask, busy)
    assert second.order[0] != home
    assert "second home" in second.why
    homes = {home, second.order[0]}
    crowded = [Candidate(each.name, wait_s=0.9 if each.name in homes else 0.1) for each in places(6)]
    exile = router.route(ask, crowded)
    assert exile.order[0] not in homes
    assert "would miss 500 ms" in exile.why


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 9), st.integers(0, 8), st.integers(0, 5))
def test_beginnings_move_only_from_a_home_that_leaves(count: int, which: int, seed: int) -> None:
    gone = f"n{which % count}"
    router, rest = PrefixRouter({}, seed=seed), [each for each in places(count) if each.name != gone]
    for number in range(40):
        ask = Ask(prefix=f"prompt {number}")
        before, after = router.route(ask, places(count)).order[0], router.route(ask, rest).order[0]
        assert after == before or before == gone


# -- latency ---------------------------------------------------------------------------------------------------


async def queued(pick: Callable[[list[int]], int], servers: int, rate: float, count: int) -> list[float]:
    """Waits of requests that come at random to servers that each do one after the other, in 1 s on average."""
    draw, loop = random.Random(5), asyncio.get_running_loop()
    locks, lengths, waits = [asyncio.Lock() for _ in range(servers)], [0] * servers, []

    async def one(which: int, takes_s: float) -> None:
        came = loop.time()
        async with locks[which]:
            waits.append(loop.time() - came)
            await asyncio.sleep(takes_s)
        lengths[which] -= 1

    tasks = []
    for _ in range(count):
        await asyncio.sleep(draw.expovariate(rate))
        which = pick(lengths)
        lengths[which] += 1
        tasks.append(asyncio.ensure_future(one(which, draw.expovariate(1.0))))
    await asyncio.gather(*tasks)
    return waits


def test_two_choices_beat_one() -> None:
    """At a load of 0.9 one random choice waits many times as long as the better of two."""
    lot = random.Random(6)
    router = LatencyRouter({}, seed=6)

    def two(lengths: list[int]) -> int:
        there = [
            Candidate(str(number), total_s=1.0, outstanding=length) for number, length in enumerate(lengths)
        ]
        return int(router.route(Ask(), there).order[0])

    one_wait = run_virtual(queued(lambda lengths: lot.randrange(len(lengths)), 20, 18.0, 3000))
    two_wait = run_virtual(queued(two, 20, 18.0, 3000))
    assert percentile(two_wait, 0.95) < percentile(one_wait, 0.95) / 3
    assert sum(two_wait) < sum(one_wait) / 2


def test_a_peak_counts_at_once_and_fades() -> None:
    router = LatencyRouter({"decay_s": 10.0})
    for name in ("a", "b"):
        router.ended(Ask(), name, Outcome(1.0), 0.0)
    there = [Candidate("a"), Candidate("b", outstanding=1)]
    assert router.route(Ask(at=1.0), there).order[0] == "a"
    router.ended(Ask(), "a", Outcome(9.0), 1.0)
    assert router.route(Ask(at=1.0), there).order[0] == "b"
    router.ended(Ask(), "a", Outcome(1.0), 2.0)  # one good answer does not undo it
    assert router.route(Ask(at=2.0), there).order[0] == "b"
    for step in range(8):
        router.ended(Ask(), "a", Outcome(1.0), 10.0 + 5 * step)
    assert router.route(Ask(at=50.0), there).order[0] == "a"


def test_who_fails_at_once_is_not_quick() -> None:
    router = LatencyRouter({})
    router.ended(Ask(), "a", Outcome(0.001, failed=True), 0.0)
    router.ended(Ask(), "b", Outcome(1.0), 0.0)
    assert router.route(Ask(at=0.1), [Candidate("a"), Candidate("b")]).order[0] == "b"


def test_a_peak_fades_where_nobody_is_sent() -> None:
    router = LatencyRouter({"decay_s": 10.0})
    router.ended(Ask(), "a", Outcome(0.1), 0.0)
    router.ended(Ask(), "b", Outcome(0.2), 0.0)
    router.ended(Ask(), "a", Outcome(9.0), 1.0)
    # the prediction remembers the peak, too, as a mean of what was seen does
    there = [Candidate("a", total_s=1.2), Candidate("b", total_s=0.2)]
    assert router.route(Ask(at=1.0), there).order[0] == "b"
    assert router.route(Ask(at=20.0), there).order[0] == "b"
    late = router.route(Ask(at=60.0), there)
    assert late.order[0] == "a"
    assert "a costs 124 ms" in late.why
    soon = [Candidate("a", total_s=0.05), Candidate("b", total_s=0.2)]
    assert "a costs 50 ms" in router.route(Ask(at=600.0), soon).why, "what is foreseen, and no less"


def test_who_failed_once_is_asked_again() -> None:
    router = LatencyRouter({})
    router.ended(Ask(), "a", Outcome(0.001, failed=True), 0.0)
    there = [Candidate("a"), Candidate("b", total_s=1.0)]
    for step in range(60):
        router.ended(Ask(), "b", Outcome(1.0), float(step))
    assert router.route(Ask(at=5.0), there).order[0] == "b"
    assert router.route(Ask(at=60.0), there).order[0] == "a"


# -- usage, cost, hybrid -----------------------------------------------------------------------------------------


def test_use_is_even_and_follows_the_shares() -> None:
    router, sent = UsageRouter({"shares": {"n0": 3.0}}), Counter[str]()
    for step in range(400):
        name = router.route(Ask(at=step * 0.01), places(2)).order[0]
        sent[name] += 1
        router.ended(Ask(), name, Outcome(0.1, tokens=50.0), step * 0.01)
    assert sent["n0"] == pytest.approx(300, abs=8)


@pytest.mark.parametrize("share", [0, 0.0, -1, "2", True, math.inf, math.nan, None, [1]])
def test_a_share_that_is_no_positive_number_is_refused(share: object) -> None:
    with pytest.raises(PlanError, match=r"policy 'usage': shares\.n0 = ") as refused:
        UsageRouter({"shares": {"n0": share, "n1": 1.0}})
    assert refused.value.code == "E140"


@pytest.mark.parametrize("span_s", [0.0, -1.0, math.inf, math.nan])
def test_a_span_in_which_nothing_is_forgotten_or_all_at_once_is_refused(span_s: float) -> None:
    for make in (
        lambda: UsageRouter({"half_life_s": span_s}),
        lambda: LatencyRouter({"decay_s": span_s}),
    ):
        with pytest.raises(PlanError) as refused:
            make()
        assert refused.value.code == "E140"


def test_use_is_forgotten() -> None:
    router = UsageRouter({"half_life_s": 1.0})
    router.ended(Ask(), "n0", Outcome(1.0, tokens=1000.0), 0.0)
    router.ended(Ask(), "n1", Outcome(1.0, tokens=100.0), 10.0)
    assert router.route(Ask(at=10.0), places(2)).order[0] == "n0"


def test_the_cheapest_in_time_and_unknown_prices_last() -> None:
    there = [
        Candidate("dear", total_s=0.1, cost_per_token=0.5),
        Candidate("cheap", total_s=2.0, cost_per_token=0.1),
        Candidate("unknown", total_s=0.1),
    ]
    router = CostRouter({})
    assert router.route(Ask(), there).order == ("cheap", "dear", "unknown")
    assert router.route(Ask(left_s=1.0), there).order == ("dear", "unknown", "cheap")
    late = router.route(Ask(left_s=0.05), there)
    assert late.order[0] in ("dear", "unknown")
    assert "none is in time" in late.why
    assert CostRouter({"most": 0.3}).route(Ask(left_s=1.0), there).order == ("cheap", "dear", "unknown")


def test_weights_decide_and_an_unknown_price_is_no_bargain() -> None:
    there = [
        Candidate("quick", total_s=0.1, cost_per_token=1.0),
        Candidate("cheap", total_s=1.0, cost_per_token=0.1),
    ]
    assert HybridRouter({"latency": 1.0, "cost": 0.1}).route(Ask(), there).order[0] == "quick"
    assert HybridRouter({"latency": 0.1, "cost": 1.0}).route(Ask(), there).order[0] == "cheap"
    unknown = [Candidate("known", total_s=1.0, cost_per_token=0.5), Candidate("unknown", total_s=1.0)]
    assert HybridRouter({}).route(Ask(), unknown).order[0] == "known"
    loaded = [Candidate("full", load=4.0), Candidate("free", load=1.0)]
    assert "load 0.05" in HybridRouter({}).route(Ask(), loaded).why


# -- order ---------------------------------------------------------------------------------------------------------


def test_the_first_that_is_well_is_first() -> None:
    there = [Candidate("a", healthy=False), Candidate("b"), Candidate("c")]
    route = OrderRouter({}).route(Ask(), there)
    assert route.order == ("b", "c", "a")
    assert "passed over a" in route.why
    assert OrderRouter({}).route(Ask(), there[:1]).order == ("a",)


def test_the_late_one_is_passed_over_only_where_it_is_asked_for() -> None:
    there = [Candidate("a", total_s=2.0), Candidate("b", total_s=0.1)]
    assert OrderRouter({}).route(Ask(left_s=1.0), there).order == ("a", "b")
    assert OrderRouter({"skips_late": True}).route(Ask(left_s=1.0), there).order == ("b", "a")
    assert OrderRouter({"skips_late": True}).route(Ask(left_s=0.01), there).order == ("a", "b")
    late = [Candidate("a", wait_s=1.0, first_s=1.0), Candidate("b")]
    assert OrderRouter({"skips_late": True}).route(Ask(first_left_s=1.5), late).order == ("b", "a")


# -- spill -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait_s", "priority", "first"),
    [(0.1, 0, "here"), (0.6, 0, "away"), (0.6, -1, "here"), (1.2, -1, "away"), (0.3, 1, "away")],
)
def test_it_spills_when_a_priority_has_waited_enough(wait_s: float, priority: int, first: str) -> None:
    there = [Candidate("here", wait_s=wait_s), Candidate("away", total_s=1.0, local=False)]
    assert SpillRouter({}).route(Ask(priority=priority), there).order[0] == first


def test_it_spills_what_would_be_late_unless_it_would_be_late_there_too() -> None:
    here, away = Candidate("here", wait_s=0.2, total_s=1.0), Candidate("away", total_s=0.5, local=False)
    route = SpillRouter({}).route(Ask(left_s=1.0), [here, away])
    assert route.order == ("away", "here")
    assert "late here" in route.why
    assert SpillRouter({}).route(Ask(left_s=0.3), [here, away]).order[0] == "here"
    assert "only places here" in SpillRouter({}).route(Ask(), [here]).why


# -- shortcuts ---------------------------------------------------------------------------------------------------


def test_a_cascade_asks_the_large_one_at_once_where_both_would_be_late() -> None:
    there = [Candidate("small", total_s=1.0), Candidate("large", total_s=2.0)]
    router = CascadeRouter({}, allows=lambda score, tenant, category: score > 0.5)
    assert router.route(Ask(left_s=4.0), there).order == ("small", "large")
    assert router.route(Ask(left_s=2.5), there).order == ("large",)
    assert router.route(Ask(left_s=1.5), there).order == ("small", "large")  # late in any case


def test_the_last_option_stays_however_ill_it_is() -> None:
    there = [Candidate("small"), Candidate("large", healthy=False)]
    assert CascadeRouter({}).route(Ask(), there).order == ("small", "large")
    assert RetrievalFirstRouter({}).route(Ask(), there).order == ("small", "large")
    assert CascadeRouter({}).route(Ask(), [Candidate("small", healthy=False), Candidate("large")]).order == (
        "large",
    )


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_cascade_never_takes_what_the_gate_forbids(score: float, least: float, margin: float) -> None:
    def allows(given: float, tenant: str, category: str) -> bool:
        return given >= least

    assert CascadeRouter({}, allows=allows).accepts(Ask(), Evidence(score)).stands == (score >= least)
    stand = RetrievalFirstRouter({"margin": 0.3}, allows=allows).accepts(Ask(), Evidence(score, margin))
    assert stand.stands == (score >= least and margin >= 0.3)
    assert stand.counts == (margin >= 0.3)


def test_the_gate_is_asked_for_the_tenant_and_the_category() -> None:
    asked: list[tuple[str, str]] = []

    def allows(score: float, tenant: str, category: str) -> bool:
        asked.append((tenant, category))
        return True

    CascadeRouter({}, allows=allows).accepts(Ask(tenant="ann", category="billing"), Evidence(0.5))
    assert asked == [("ann", "billing")]
