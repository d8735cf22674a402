"""The search takes what gains, comes back to what did not, and spends answers only where it must."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from improve.kit_golden import Case, ToldFacts, ToldForms, cases, situation
from tauten.describe.slo import Slo
from tauten.describe.turn import Answers
from tauten.errors import InputError
from tauten.improve.optimizer.order import ORDER, ordered
from tauten.improve.optimizer.search import Figures, Found, Search
from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.plan.plan import Plan

Prices = Callable[[frozenset[str]], float]


class Turning:
    """A strategy that sets one mark."""

    reason = "for a test"

    def __init__(self, name: str, answers: Answers = "identical") -> None:
        self.name = name
        self.answers = answers
        self.asked = 0

    def propose(self, seen: Any) -> Iterator[Proposal | Refusal]:
        self.asked += 1
        if self.name in marks(seen):
            yield Refusal(self.name, self.name, "it is set")
        else:
            yield Proposal(self.name, self.name, seen.edit(self.name, why="", threads=1), self.answers)


def marks(plan: Plan) -> frozenset[str]:
    return frozenset(plan.stages)


def searched(strategies: list[Turning], prices: Prices, slo: Slo = Slo(), **more: Any) -> Found:
    def price(plan: Plan) -> Figures:
        return Figures({"p95_ms": prices(marks(plan)), "p50_ms": prices(marks(plan)) / 2})

    search = Search(strategies, lambda plan: plan, price, slo, **more)  # type: ignore[arg-type, return-value]
    return search.run(Plan())


def additive(**gains: float) -> Prices:
    return lambda found: 1000.0 - sum(gains[name] for name in found)


def test_what_gains_is_taken_and_what_does_not_is_said() -> None:
    found = searched([Turning("a"), Turning("b"), Turning("c")], additive(a=300.0, b=0.5, c=-50.0))
    assert marks(found.plan) == {"a"}
    assert found.figures.values["p95_ms"] == 700.0
    taken = {each.change: each.taken for each in found.tried if each.objective is not None}
    assert taken == {"a": True, "b": False, "c": False}
    assert any("not worth a change" in each.why for each in found.tried if each.change == "b")


def test_what_did_not_pay_may_pay_later() -> None:
    def prices(found: frozenset[str]) -> float:
        return {frozenset(): 1000.0, frozenset("a"): 1000.0, frozenset("b"): 800.0}.get(found, 500.0)

    found = searched([Turning("a"), Turning("b")], prices)
    assert marks(found.plan) == {"a", "b"}


def test_what_was_priced_by_less_is_not_compared_with_what_is_priced_by_more() -> None:
    """What is measured for a proposal may tell more of what all plans have in common: then all take longer."""
    times = [1.0]
    gains = additive(a=100.0, b=5.0, c=100.0)

    def ready(present: Plan, wanted: Sequence[Plan]) -> None:
        times[0] = 1.0 + len(asked)
        asked.append([marks(plan) for plan in wanted])

    asked: list[list[frozenset[str]]] = []
    found = searched(
        [Turning("a"), Turning("b"), Turning("c")],
        lambda found: times[0] * gains(found),
        ready=ready,
        known=lambda: int(times[0]),
    )
    assert marks(found.plan) == {"a", "c"}
    for tried in found.tried:
        if tried.figures is not None and tried.before is not None:
            ratio = tried.figures.values["p95_ms"] / tried.before.values["p95_ms"]
            assert ratio == pytest.approx(1.0, abs=0.15), "both by what was known then"
    assert found.figures.values["p95_ms"] == pytest.approx(times[0] * 800.0)


def test_while_the_slo_is_far_a_first_look_leaves_out_what_gains_little() -> None:
    def search(p95_ms: float) -> Search:
        prices = additive(a=200.0, b=15.0)

        def price(plan: Plan) -> Figures:
            return Figures({"p95_ms": prices(marks(plan))})

        turns = [Turning("a"), Turning("b")]
        return Search(turns, lambda plan: plan, price, Slo(p95_ms=p95_ms))  # type: ignore[arg-type, return-value]

    far = search(300.0)
    first = far.improve(Plan(), lossy=False, rounds=1, first=True)
    assert marks(first.plan) == {"a"}
    assert any("not worth a change while the SLO is far" in each.why for each in first.tried)
    assert marks(far.improve(first.plan, lossy=False).plan) == {"a", "b"}, "another look takes it"
    assert marks(search(600.0).improve(Plan(), lossy=False, rounds=1, first=True).plan) == {"a", "b"}


def test_a_limit_that_nothing_is_known_of_is_left_out() -> None:
    """No price tells cents: what is usual is made small, and what gains nothing is not taken for ever."""
    found = searched([Turning("a"), Turning("b")], additive(a=300.0, b=0.0), Slo(cost_cents=0.2))
    assert marks(found.plan) == {"a"}
    assert {each.change for each in found.tried if each.taken} == {"a"}


def test_a_figure_that_is_not_known_of_a_plan_counts_as_its_limit() -> None:
    slo = Slo(p95_ms=1000.0, memory_bytes=100)
    known = Figures({"p95_ms": 500.0, "memory_bytes": 80.0})
    unknown = Figures({"p95_ms": 500.0})
    assert known.objective(slo, known) == pytest.approx((0.5 + 0.8) / 2)
    assert unknown.objective(slo, known) == pytest.approx((0.5 + 1.0) / 2)
    assert unknown.objective(slo, unknown) == pytest.approx(0.5)


def test_nothing_gains_where_nothing_can_be_made_smaller() -> None:
    found = searched([Turning("a")], lambda marks: 0.0)
    assert marks(found.plan) == frozenset()


def test_answers_are_spent_only_while_the_slo_is_missed() -> None:
    strategies = [Turning("exact"), Turning("mild", "lossy"), Turning("strong", "lossy")]
    prices = additive(exact=300.0, mild=200.0, strong=400.0)
    assert marks(searched(strategies, prices, Slo(p95_ms=750.0)).plan) == {"exact"}
    assert marks(searched(strategies, prices, Slo(p95_ms=600.0)).plan) == {"exact", "mild"}
    assert marks(searched(strategies, prices, Slo(p95_ms=200.0)).plan) == {"exact", "mild", "strong"}


def test_what_the_gate_refuses_is_not_taken() -> None:
    found = searched(
        [Turning("a", "lossy"), Turning("b", "lossy")],
        additive(a=400.0, b=100.0),
        Slo(p95_ms=500.0),
        allowed=lambda each: "cannot conclude, n >= 210" if each.change == "a" else "",
    )
    assert marks(found.plan) == {"b"}
    assert any(each.why == "cannot conclude, n >= 210" for each in found.tried)


def test_a_search_without_time_keeps_what_it_has() -> None:
    left = iter([True, True, False])
    found = searched([Turning("a"), Turning("b")], additive(a=100.0, b=100.0), more=lambda: next(left, False))
    assert marks(found.plan) == {"a"}


def test_refused_requests_count_against_a_plan() -> None:
    slo = Slo(p95_ms=500.0)
    calm, crowd = Figures({"p95_ms": 400.0}), Figures({"p95_ms": 300.0}, failed=0.2)
    assert crowd.objective(slo, calm) > calm.objective(slo, calm)
    assert (calm.missed(slo), crowd.missed(slo)) == (0.0, 0.2)
    assert Figures({"p95_ms": 600.0}).missed(slo) == pytest.approx(0.2)


def test_the_same_prices_give_the_same_plan() -> None:
    prices = additive(a=100.0, b=100.0, c=99.0)
    plans = {searched([Turning("a"), Turning("b"), Turning("c")], prices).plan.id for _ in range(3)}
    assert len(plans) == 1


drawn_prices = st.dictionaries(
    st.frozensets(st.sampled_from("abcd")), st.integers(1, 1000).map(float), max_size=16
)


def found_with(prices: dict[frozenset[str], float], stages: Sequence[str] = ()) -> Found:
    """Of a first plan whose stages were written in that order."""
    first = Plan()
    for name in stages:
        first = first.edit(name, why="")
    strategies = [Turning("a"), Turning("b"), Turning("c", "lossy"), Turning("d", "lossy")]

    def price(plan: Plan) -> Figures:
        set_ = frozenset(name for name, stage in plan.stages.items() if stage.threads)
        return Figures({"p95_ms": prices.get(set_, 500.0)})

    return Search(strategies, lambda plan: plan, price, Slo(p95_ms=300.0)).run(first)  # type: ignore[arg-type, return-value]


@settings(deadline=None, max_examples=40)  # a machine may be busy
@given(drawn_prices)
def test_no_search_ends_worse_than_it_began(prices: dict[frozenset[str], float]) -> None:
    found = found_with(prices)
    slo, before = Slo(p95_ms=300.0), Figures({"p95_ms": prices.get(frozenset(), 500.0)})
    assert found.figures.objective(slo, before) <= before.objective(slo, before)
    if not before.missed(slo):
        assert not marks(found.plan) & {"c", "d"}, "no answer is spent where the SLO is met"


@settings(deadline=None, max_examples=40)  # a machine may be busy
@given(drawn_prices, st.permutations(["x", "y", "z"]))
def test_the_order_in_which_a_plan_was_written_decides_nothing(
    prices: dict[frozenset[str], float], stages: list[str]
) -> None:
    one, other = found_with(prices, stages), found_with(dict(reversed(prices.items())), sorted(stages))
    assert one.plan.content == other.plan.content
    assert one.tried == other.tried


def test_a_change_that_made_things_worse_is_said_to() -> None:
    found = searched([Turning("a")], additive(a=-100.0))
    assert [each.why for each in found.tried] == ["loses 10.0 % in simulation: not worth a change"]


def test_the_order_ends_where_it_is_told_to_and_leaves_out_what_it_is_told_to() -> None:
    names = [each.name for each in ORDER]
    assert [each.name for each in ordered()] == names
    assert [each.name for each in ordered(until="batch")] == names[: names.index("batch") + 1]
    assert [each.name for each in ordered(without=["batch", "overlap"])] == [
        name for name in names if name not in ("batch", "overlap")
    ]
    assert names.index("backend") < names.index("batch") < names.index("quantize") < names.index("compact")
    with pytest.raises(InputError) as wrong:
        ordered(without=["quantise"])
    assert "quantize" in wrong.value.help


def test_a_strategy_that_is_left_out_is_never_asked() -> None:
    """An ablation is this: the same search without one."""
    every = [Turning("a"), Turning("b")]
    assert marks(searched(every, additive(a=100.0, b=100.0)).plan) == {"a", "b"}
    assert marks(searched(every[1:], additive(a=100.0, b=100.0)).plan) == {"b"}


def by_name(plan: Plan) -> Figures:
    """A price that hangs on nothing but what the plan would run."""
    return Figures({"p95_ms": 500.0 + int.from_bytes(hashlib.sha256(plan.content).digest()[:2]) / 100.0})


@pytest.mark.parametrize("strategy", ["overlap", "batch", "quantize"])
def test_real_strategies_find_the_same_in_whatever_order_facts_are_told(strategy: str) -> None:
    for case in cases(strategy):
        if case.workflow == "help_desk":
            continue  # the same with more stages
        turned = msgspec.structs.replace(case, steps=dict(reversed(case.steps.items())))
        found = []
        for each in (case, turned):
            first = situation(each)

            def look(plan: Plan, each: Case = each, first: Situation = first) -> Situation:
                facts, forms = ToldFacts(each.steps), ToldForms(each)
                return Situation(first.graph, plan, first.hardware, first.slo, first.rate, facts, forms)

            found.append(Search(ORDER, look, by_name, Slo(p95_ms=400.0)).run(first.plan))
        assert found[0].plan == found[1].plan
        assert found[0].tried == found[1].tried
        assert found[0].tried
