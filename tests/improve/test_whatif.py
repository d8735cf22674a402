"""What would help: gains with intervals over schedules, the best few together, and which step is worth work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from simulate.kit_desk import FIRST_MS, HEAR_MS, NAIVE, TOKEN_MS, TOKENS, desk, learned
from tauten.describe.slo import Slo
from tauten.describe.turn import Answers
from tauten.errors import PlanError
from tauten.explain.whatif import Change, Moved, StepWorth
from tauten.improve.optimizer.facts import TapedFacts
from tauten.improve.optimizer.pricing import Pricer
from tauten.improve.optimizer.search import Figures
from tauten.improve.simulate.machine import Shared
from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.strategies.overlap import Overlap
from tauten.improve.whatif.gains import Asked, Gains, moved_by
from tauten.improve.whatif.merge import changed_stages, merged
from tauten.improve.whatif.quicker import Quicker
from tauten.improve.whatif.replays import prices, prices_quicker, working_steps
from tauten.plan.hardware import hardware
from tauten.plan.ledger import Family, Ledger, Row
from tauten.plan.lower import lower
from tauten.plan.plan import ModelChoice, Plan, StagePlan

NOISE = (0.0, 3.0, -2.0, 1.0, -4.0)  # ms, by schedule: common to all plans
OWN = (0.0, 0.5, -0.5, 0.25, -0.25)  # ms, by schedule: of one change


class Setting:
    """A strategy that gives one stage some threads."""

    reason = "for a test"

    def __init__(self, name: str, stage: str, threads: int = 1, answers: Answers = "identical") -> None:
        self.name, self.stage, self.threads, self.answers = name, stage, threads, answers

    def propose(self, seen: Any) -> Iterator[Proposal | Refusal]:
        plan = seen.edit(self.stage, threads=self.threads)
        yield Proposal(self.name, f"{self.stage} on {self.threads}", plan, self.answers)


class Refusing:
    name, reason = "never", "for a test"

    def propose(self, seen: Any) -> Iterator[Proposal | Refusal]:
        yield Refusal(self.name, "anything", "it does not pay")


def told(values: Callable[[frozenset[tuple[str, int]]], float]) -> Callable[[Plan, int], Figures]:
    """Prices by which stages have how many threads; the noise of a schedule is common to all plans."""

    def price(plan: Plan, number: int) -> Figures:
        marks = frozenset((name, stage.threads) for name, stage in plan.stages.items())
        p50 = values(marks) + NOISE[number] + (OWN[number] if marks else 0.0)
        return Figures({"p50_ms": p50, "p95_ms": 2 * p50, "first_output_ms": p50 / 2})

    return price


def additive(**gains: float) -> Callable[[frozenset[tuple[str, int]]], float]:
    return lambda marks: 1000.0 - sum(gains.get(f"{name}{threads}", 0.0) for name, threads in marks)


def asked(strategies: list[Any], values: Any, **more: Any) -> tuple[list[Change], Any, list[Any]]:
    gains = Gains(Asked(Plan(), Slo()), told(values), **more)
    return gains.changes(lambda plan: plan, strategies)  # type: ignore[arg-type, return-value]


def test_gains_have_intervals_of_what_differs_between_schedules() -> None:
    [change], _, _ = asked([Setting("a", "x")], additive(x1=300.0))
    moved = change.moves["p50_ms"]
    assert moved.mid == pytest.approx(-300.0)
    assert moved.half == pytest.approx(2.132 * 0.3953 / 5**0.5, rel=1e-3)  # t of 4 at 95 %, OWN's deviation
    assert change.place == 1
    assert change.steps == ["x"]
    assert change.moves["p95_ms"].mid == pytest.approx(-600.0)
    assert change.moves["first_output_ms"].mid == pytest.approx(-150.0)


def test_at_most_three_and_the_best_of_them_together() -> None:
    strategies = [
        Setting("a", "u"),
        Setting("b", "v"),
        Setting("c", "w"),
        Setting("d", "x"),
        Setting("e", "y"),
    ]
    changes, together, _ = asked(strategies, additive(u1=100.0, v1=300.0, w1=50.0, x1=200.0, y1=-10.0))
    assert [(each.strategy, each.place) for each in changes] == [
        ("b", 1),
        ("d", 2),
        ("a", 3),
        ("c", 0),
        ("e", 0),
    ]
    assert together is not None
    assert together.places == [1, 2, 3]
    assert together.moves["p50_ms"].mid == pytest.approx(-600.0)


def test_together_names_only_those_that_help_one_another() -> None:
    def values(marks: frozenset[tuple[str, int]]) -> float:
        both = {("u", 1), ("v", 1)} <= marks
        return 1000.0 - sum({"u": 300.0, "v": 200.0, "w": 100.0}[name] for name, _ in marks) + 400.0 * both

    _, together, _ = asked([Setting("a", "u"), Setting("b", "v"), Setting("c", "w")], values)
    assert together.places == [1, 3]


def test_two_settings_of_one_thing_are_one_proposal() -> None:
    changes, together, _ = asked([Setting("a", "u", 1), Setting("a", "u", 2)], additive(u1=100.0, u2=200.0))
    assert [(each.change, each.place) for each in changes] == [("u on 2", 1), ("u on 1", 0)]
    assert together is None


def test_what_gains_nothing_for_certain_has_no_line() -> None:
    def values(marks: frozenset[tuple[str, int]]) -> float:
        return 1000.0 - 0.1 * len(marks)

    [change], _, untried = asked([Setting("a", "x"), Refusing()], values)
    assert change.place == 0
    assert [(each.strategy, each.why) for each in untried] == [("never", "it does not pay")]


def test_what_was_never_measured_is_told_as_such() -> None:
    def values(marks: frozenset[tuple[str, int]]) -> float:
        if marks:
            raise PlanError("never seen", help="record it", code="E131")
        return 1000.0

    changes, _, [untried] = asked([Setting("a", "x")], values)
    assert changes == []
    assert "never run here" in untried.why


def test_lossy_changes_make_the_combination_lossy() -> None:
    strategies = [Setting("a", "u"), Setting("b", "v", answers="lossy")]
    _, together, _ = asked(strategies, additive(u1=100.0, v1=300.0))
    assert together.answers == "lossy"


def test_measured_errors_widen_intervals() -> None:
    ledger = Ledger(
        rows=[
            Row(Family("a", hardware="here"), "p50_ms", 100.0, 100.0 * (1.1 if place % 2 else 0.9))
            for place in range(20)
        ]
    )
    [bare], _, _ = asked([Setting("a", "x")], additive(x1=300.0))
    [wide], _, _ = asked([Setting("a", "x")], additive(x1=300.0), ledger=ledger, hardware="here")
    [other], _, _ = asked([Setting("a", "x")], additive(x1=300.0), ledger=ledger, hardware="elsewhere")
    assert wide.scored == 20
    assert wide.moves["p50_ms"].mid == bare.moves["p50_ms"].mid
    assert wide.moves["p50_ms"].half == pytest.approx(70.0, abs=1.0)  # a tenth of 700 ms
    assert wide.moves["p95_ms"] == bare.moves["p95_ms"]  # nobody measured one
    assert other.moves == bare.moves


def test_errors_count_for_the_figure_that_they_are_of() -> None:
    """Twelve predictions of a strategy, four of each figure, are too few for any: those of this machine speak."""
    whats = ("p50_ms", "p95_ms", "first_output_ms")
    few = [Row(Family("a", hardware="here"), what, 100.0, 110.0) for what in whats for _ in range(4)]
    [bare], _, _ = asked([Setting("a", "x")], additive(x1=300.0))
    [same], _, _ = asked([Setting("a", "x")], additive(x1=300.0), ledger=Ledger(rows=few), hardware="here")
    assert (same.moves, same.scored) == (bare.moves, 0)
    more = [
        Row(Family("plan", hardware="here"), "p50_ms", 100.0, 100.0 * (1.1 if place % 2 else 0.9))
        for place in range(20)
    ]
    ledger = Ledger(rows=[*few, *more])
    [wide], _, _ = asked([Setting("a", "x")], additive(x1=300.0), ledger=ledger, hardware="here")
    assert wide.scored == 24
    assert wide.moves["p50_ms"].half > 10 * bare.moves["p50_ms"].half
    assert wide.moves["p95_ms"] == bare.moves["p95_ms"]


def test_measured_errors_widen_those_of_several_changes_too() -> None:
    rows = [
        Row(Family("plan", hardware="here"), "p50_ms", 100.0, 100.0 * (1.1 if place % 2 else 0.9))
        for place in range(20)
    ]
    changes = [Setting("a", "u"), Setting("b", "v")]
    _, bare, _ = asked(changes, additive(u1=100.0, v1=300.0))
    _, wide, _ = asked(changes, additive(u1=100.0, v1=300.0), ledger=Ledger(rows=rows), hardware="here")
    assert wide.moves["p50_ms"].mid == bare.moves["p50_ms"].mid
    assert wide.moves["p50_ms"].half == pytest.approx(60.0, abs=1.0)  # a tenth of 600 ms


def test_what_is_learned_on_the_way_is_told_of_the_present_plan_too() -> None:
    """Runs that a change asks for may say more of what the plan itself costs: both sides are priced by the same."""
    learned: list[Plan] = []

    def price(plan: Plan, number: int) -> Figures:
        p50 = (900.0 if learned else 1000.0) - (50.0 if plan.stages else 0.0)
        return Figures({"p50_ms": p50, "p95_ms": p50, "first_output_ms": p50})

    gains = Gains(Asked(Plan(), Slo()), price, ready=lambda present, wanted: learned.extend(wanted))
    [change], _, _ = gains.changes(lambda plan: plan, [Setting("a", "x")])  # type: ignore[arg-type, return-value]
    assert change.moves["p50_ms"].mid == -50.0
    assert gains.present()["p50_ms"] == 900.0


def test_pairs_of_one_schedule_have_no_interval() -> None:
    assert moved_by([5.0], [3.0]) == Moved(-2.0, -2.0, -2.0)


# -- plans ----------------------------------------------------------------------------------------------------


def test_changes_are_merged_where_they_agree() -> None:
    base = Plan(stages={"a": StagePlan(threads=2, settings={"beams": 1})})
    one = base.edit("a", threads=1).edit("b", beside=("c",))
    two = base.edit("a", settings={"beams": 1, "cap": 64}).edit("b", beside=("d",))
    both = merged(base, [one, two])
    assert both is not None
    assert both.stage("a") == StagePlan(threads=1, settings={"beams": 1, "cap": 64})
    assert both.stage("b").beside == ("c", "d")
    assert merged(base, [one, base.edit("a", threads=4)]) is None
    assert changed_stages(base, one) == ["a", "b", "c"]
    assert changed_stages(base, base) == []


def test_roles_and_removed_settings_are_merged_one_by_one() -> None:
    base = Plan(
        stages={"a": StagePlan(settings={"beams": 1}, roles={"see": ModelChoice(), "read": ModelChoice()})}
    )
    one = base.edit("a", settings={})
    two = base.edit("a", roles={"see": ModelChoice(threads=1), "read": ModelChoice()})
    three = base.edit("a", roles={"see": ModelChoice(threads=2), "read": ModelChoice()})
    both = merged(base, [one, two])
    assert both is not None
    assert both.stage("a").settings == {}
    assert both.stage("a").roles["see"].threads == 1
    assert merged(base, [two, three]) is None


# -- on tapes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pricer() -> Pricer:
    return Pricer(desk, learned(NAIVE), Shared(cores=8), 0.0)


def test_a_quicker_step_takes_that_much_less(pricer: Pricer) -> None:
    price = prices_quicker(pricer, NAIVE)
    now = prices(pricer)(NAIVE, 0).values["p50_ms"]
    assert now - price("hear", 0.5, 0).values["p50_ms"] == pytest.approx(0.5 * (HEAR_MS + 4.0), rel=0.02)
    tell_ms = FIRST_MS + TOKEN_MS * (TOKENS - 1)
    assert now - price("tell", 0.25, 0).values["p50_ms"] == pytest.approx(0.25 * tell_ms, rel=0.1)
    assert price("hear", 0.0, 0).values["p50_ms"] == pytest.approx(now)


def test_the_library_itself_stays_as_it_is(pricer: Pricer) -> None:
    lowered = lower(desk.graph, NAIVE)  # type: ignore[arg-type]
    before = pricer.library.tape("long", lowered)
    quick = Quicker(pricer.library, "hear", 0.5).tape("long", lowered)
    assert pricer.library.tape("long", lowered) == before
    assert quick.visits["hear"] != before.visits["hear"]
    assert {name for name in before.visits if quick.visits[name] != before.visits[name]} == {"hear"}


def test_steps_are_ranked_by_what_they_are_worth(pricer: Pricer) -> None:
    gains = Gains(Asked(NAIVE, Slo(), schedules=2), prices(pricer))
    names = working_steps(pricer, NAIVE)
    assert set(names) >= {"hear", "look", "tell"}
    found: list[StepWorth] = gains.steps(names, prices_quicker(pricer, NAIVE))
    assert [each.step for each in found[:2]] == ["tell", "hear"]
    half = dict(found[1].quicker)[0.5]
    assert half["p50_ms"].mid < dict(found[1].quicker)[0.1]["p50_ms"].mid < 0.0


def test_a_whole_question_on_tapes(pricer: Pricer) -> None:
    def look(plan: Plan) -> Situation:
        assert desk.graph is not None
        lowered = lower(desk.graph, plan)
        return Situation(desk.graph, plan, hardware(), Slo(), 0.0, TapedFacts(pricer.library, lowered))

    gains = Gains(Asked(NAIVE, Slo(), schedules=3), prices(pricer))
    changes, _, untried = gains.changes(look, [Overlap()])
    best = next(each for each in changes if each.place == 1)
    assert best.moves["p50_ms"].clear
    assert best.answers == "identical"
    assert {"hear", "look"} <= set(best.steps)
    assert untried == []
