"""The whole question on a machine of told times: what was run, what is told, what is kept to be scored."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from simulate.kit_desk import ITEMS, NAIVE, desk
from tauten.clock import run_virtual
from tauten.describe.slo import Slo
from tauten.errors import InputError, PlanError
from tauten.improve.optimizer.record import Record
from tauten.improve.simulate.capture import Captured, KeepingEngine, capture
from tauten.improve.simulate.costs import STILL, Moving
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Done
from tauten.improve.situation import Proposal, Situation
from tauten.improve.strategies.overlap import Overlap
from tauten.improve.whatif.question import Question, Terms
from tauten.plan.hardware import hardware
from tauten.plan.ledger import Ledger
from tauten.plan.plan import Plan
from tauten.run.engine import Engine

ROOMY = Shared(cores=8)


class Told:
    """A testbed whose models take told times."""

    def __init__(self) -> None:
        self.captured: list[Plan] = []

    def capture(self, plan: Plan, items: Any, only: Any = ()) -> Captured:
        if plan.stage("hear").model:
            raise PlanError(f"no model {plan.stage('hear').model}", help="name another", code="E120")
        self.captured.append(plan)

        async def main() -> Captured:
            async with KeepingEngine(clock=asyncio.get_running_loop().time) as engine:
                return await capture(engine, desk, plan, items, repeats=1)

        found: Captured = run_virtual(main())
        return found

    def runs(self, plan: Plan, step: str, role: str, items: Any) -> list[tuple[float, float]]:
        raise PlanError("told models are not run by themselves", help="none", code="E131")

    def streams(self, plan: Plan, step: str, role: str, items: Any) -> tuple[tuple[int, float], ...]:
        return ((1, 1.0), (2, 1.0))

    def moving(self, plan: Plan, step: str, role: str, items: Any) -> Moving:
        return STILL

    def held(self, plan: Plan, step: str, role: str, items: Any) -> tuple[tuple[int, int], ...]:
        return ()

    def alike(self, before: Plan, after: Plan, ids: Any) -> dict[str, bool]:
        return {}

    def scores(self, plan: Plan, ids: Any) -> Any:
        raise AssertionError("nobody judges answers here")

    def bench(self, *_: Any) -> Any:
        raise AssertionError("nobody puts load on")


class Unknown:
    """A strategy that wants a model which nobody can run."""

    name, reason = "unknown", "for a test"

    def propose(self, seen: Situation) -> Iterator[Proposal]:
        plan = seen.plan.edit("hear", model="elsewhere")
        yield Proposal(self.name, "hear by another model", plan, "lossy")


def question(rate: float = 0.0, testbed: Told | None = None, **more: Any) -> Question:
    terms = Terms(NAIVE, Slo(p95_ms=250.0), rate, schedules=2, recording="told")
    record = Record(Ledger(), hardware())
    return Question(desk, ITEMS, testbed or Told(), terms, record, here=hardware(), shared=ROOMY, **more)


def test_the_plan_is_run_once_and_all_else_is_simulated() -> None:
    testbed = Told()
    asked = question(testbed=testbed)
    shown = asked.answer([Overlap()])
    assert len(testbed.captured) == 1
    assert (shown.requests, shown.schedules, shown.recording) == (3, 2, "told")
    assert shown.best()[0].strategy == "overlap"
    assert shown.steps[0].step == "tell"
    assert shown.now["p50_ms"] == pytest.approx(308.0, rel=0.05)
    assert "no prediction was measured yet" in shown.record


def test_what_cannot_be_had_is_told_as_untried() -> None:
    shown = question().answer([Unknown()])
    assert shown.changes == []
    assert [each.change for each in shown.untried] == ["hear by another model"]
    assert "hear: no model elsewhere" in shown.failures


def test_without_time_nothing_more_is_run() -> None:
    testbed = Told()
    shown = question(testbed=testbed, more=lambda: False).answer([Unknown(), Overlap()])
    assert len(testbed.captured) == 1
    assert [each.strategy for each in shown.untried] == ["unknown"]
    assert {each.strategy for each in shown.changes} == {"overlap"}


def test_delays_at_a_rate_are_measured_and_simulated_on_the_same_schedule() -> None:
    asked = question(rate=2.0)
    asked.answer([])

    async def main() -> list[Done]:
        async with Engine(clock=asyncio.get_running_loop().time) as engine:
            return await asked.delayed(engine, rounds=20)

    measured = run_virtual(main())
    assert len(measured) == 60
    told = asked.probed(measured)
    assert {each.step for each in told} >= {"hear", "look", "tell"}
    for each in told:
        assert each.delay_ms == pytest.approx(0.05 * asked.gains.present()["p50_ms"], abs=1.0)
    tell = next(each for each in told if each.step == "tell" and each.what == "p50_ms")
    assert tell.simulated.mid > 0.7  # it is on the path; queues may add to it


def test_all_that_was_predicted_can_be_scored() -> None:
    asked = question()
    shown = asked.answer([Overlap()])
    kept = asked.foretold()
    assert {each.strategy for each in kept} == {"plan", "overlap"}
    assert len(kept) == 3 * (1 + len(shown.changes))
    for each in kept:
        assert each.low <= each.predicted <= each.high
        assert each.items == ("short", "long", "deaf")


def test_there_must_be_requests() -> None:
    terms = Terms(NAIVE, Slo())
    with pytest.raises(InputError) as refused:
        Question(desk, [], Told(), terms, Record(Ledger(), hardware()), here=hardware())
    assert refused.value.code == "E245"
