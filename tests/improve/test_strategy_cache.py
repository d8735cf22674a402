"""The strategy `cache`: proposed where a recording repeats itself, simulated with the real cache, refused elsewhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from simulate.kit_desk import ITEMS, NAIVE, desk, learned
from tauten.describe.slo import Slo
from tauten.improve.optimizer import journal
from tauten.improve.optimizer.facts import TapedFacts
from tauten.improve.optimizer.pricing import Pricer
from tauten.improve.optimizer.search import Search
from tauten.improve.simulate.lookups import LOOKUP_S
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulator
from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.strategies.cache import Caching
from tauten.plan.hardware import Hardware
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.caching.holding import NotKept, handed, held
from tauten.run.caching.naming import Nameless, content_name


class Read(msgspec.Struct, frozen=True):
    rows: list[str]
    score: float


AGAIN = [*ITEMS, ("again", {"sound": "d", "photo": "xy"}), ("same", {"sound": "a", "photo": "xy"})]


@pytest.fixture(scope="module")
def library() -> Any:
    return learned(NAIVE, items=AGAIN)


def told(library: Any, plan: Plan = NAIVE) -> tuple[dict[str, Proposal], dict[str, str]]:
    assert desk.graph is not None
    facts = TapedFacts(library, lower(desk.graph, plan))
    seen = Situation(desk.graph, plan, Hardware(2, (), 24), Slo(p95_ms=500.0), 1.0, facts)
    every = list(Caching().propose(seen))
    proposals = {each.change: each for each in every if isinstance(each, Proposal)}
    return proposals, {each.change: each.why for each in every if isinstance(each, Refusal)}


def test_repeats_are_counted_in_the_order_of_the_recording(library: Any) -> None:
    assert desk.graph is not None
    facts = TapedFacts(library, lower(desk.graph, NAIVE))
    assert facts.repeats("hear").share == pytest.approx(1 / 5)
    assert facts.repeats("look").share == pytest.approx(2 / 4), "of the four that bring a photo"
    assert facts.repeats("look").inputs == ("photo",)
    assert facts.repeats("find").share == pytest.approx(1 / 5), "by what the steps before it gave"
    assert facts.repeats("find").inputs == ("sound", "photo")
    assert facts.repeats("nowhere").share == 0.0


def test_what_repeats_is_proposed_with_its_figures(library: Any) -> None:
    proposals, refusals = told(library)
    assert {"hear cached", "look cached", "tell cached", "all of these cached"} <= set(proposals)
    assert proposals["look cached"].plan.stage("look").cache is True
    assert proposals["look cached"].answers == "identical"
    assert "50% of the requests" in proposals["look cached"].why
    assert "reply cached" not in {*proposals, *refusals}, "it reads a stream: it may have no cache"


def test_a_recording_that_never_repeats_itself_is_refused() -> None:
    proposals, refusals = told(learned(NAIVE))
    assert proposals == {}
    assert refusals["look cached"] == (
        "no request that was run repeats another's `photo`: a cache would never hit"
    )


def test_a_step_that_is_quicker_than_looking_is_refused(library: Any) -> None:
    proposals, _ = told(library)
    assert "find cached" not in proposals, "it works for no time"
    assert desk.graph is not None

    class Quick(TapedFacts):
        def work_s(self, step: str) -> float:
            return LOOKUP_S

    seen = Situation(
        desk.graph, NAIVE, Hardware(2, (), 24), Slo(), 1.0, Quick(library, lower(desk.graph, NAIVE))
    )
    every = list(Caching().propose(seen))
    assert {type(each) for each in every} == {Refusal}
    assert any("looking takes 0.025 ms" in each.why for each in every if isinstance(each, Refusal))


def test_what_is_locked_or_cached_already_is_left_alone(library: Any) -> None:
    proposals, refusals = told(library, NAIVE.edit("look", locked=True).edit("hear", cache=True))
    assert not {"look cached", "hear cached"} & {*proposals, *refusals}


def test_the_simulator_runs_the_real_cache_and_a_hit_takes_its_lookup(library: Any) -> None:
    simulator = Simulator(desk, library, Shared(2))
    calls = [(0.0, "short"), (10.0, "again"), (20.0, "deaf")]
    before = simulator.run(NAIVE, calls).done
    after = simulator.run(NAIVE.edit("look", cache=True), calls).done
    assert after[1].seconds < before[1].seconds - 0.03, "its photo was seen before"
    for place in (0, 2):
        assert 0.0 <= after[place].seconds - before[place].seconds < 10 * LOOKUP_S
    assert after[0].seconds > before[0].seconds, "a miss pays for the look"


def test_a_recording_that_begins_anew_is_no_repetition(library: Any) -> None:
    simulator = Simulator(desk, library, Shared(2))
    calls = [(10.0 * place, "short") for place in range(3)]
    done = simulator.run(NAIVE.edit("look", cache=True), calls).done
    assert [round(each.seconds, 3) for each in done] == [round(done[0].seconds, 3)] * 3


def test_a_search_takes_it_where_it_gains(library: Any) -> None:
    price = Pricer(desk, library, Shared(2), 1.0, requests=50)

    def look(plan: Plan) -> Situation:
        assert desk.graph is not None
        facts = TapedFacts(library, lower(desk.graph, plan))
        return Situation(desk.graph, plan, Hardware(2, (), 24), Slo(p50_ms=300.0), 1.0, facts)

    found = Search([Caching()], look, price, Slo(p50_ms=300.0)).run(NAIVE)
    assert any(stage.cache for stage in found.plan.stages.values())
    assert found.figures.values["p50_ms"] <= price(NAIVE).values["p50_ms"]
    assert Search([Caching()], look, price, Slo(p50_ms=300.0)).run(NAIVE).plan == found.plan


def test_a_tape_is_of_the_work_also_under_a_plan_that_caches() -> None:
    plain, cached = learned(NAIVE, items=AGAIN), learned(NAIVE.edit("look", cache=True), items=AGAIN)
    assert desk.graph is not None
    works_s = [TapedFacts(each, lower(desk.graph, NAIVE)).work_s("look") for each in (plain, cached)]
    assert works_s[0] == pytest.approx(works_s[1])


def test_what_a_journal_kept_of_a_value_is_to_a_cache_that_value() -> None:
    def kept(value: Any) -> Any:
        return journal._stand_in(msgspec.json.decode(msgspec.json.encode(journal._value(value))))

    class Odd:
        pass

    one, same, other = kept(Read(["a"], 0.5)), kept(Read(["a"], 0.5)), kept(Read(["b"], 0.5))
    assert content_name(one) == content_name(same) != content_name(other)
    assert held(one)[0] is handed(one) is one
    assert held(one)[1] > held(Read(["a"], 0.5))[1]
    with pytest.raises(Nameless):
        content_name(kept(Odd()))
    with pytest.raises(NotKept):
        held(kept(Odd()))


def test_plans_that_differ_in_a_cache_are_priced_apart() -> None:
    cached = NAIVE.edit("look", cache=True)
    assert cached.content != NAIVE.content
    assert msgspec.to_builtins(cached.stage("look"))["cache"] is True
