"""The search takes what gains, comes back to what did not, and spends answers only where it must."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tauten.describe.slo import Slo
from tauten.describe.turn import Answers
from tauten.improve.optimizer.search import Figures, Found, Search
from tauten.improve.situation import Proposal, Refusal
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
