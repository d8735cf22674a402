"""What is told as taken is what is in the plan: a change that a later one has undone is not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from tauten.describe.slo import Slo
from tauten.improve.optimizer.search import Figures, Search, Taken, Tried
from tauten.improve.optimizer.undo import ablations, overridden, standing, undone
from tauten.improve.optimizer.written import why_of
from tauten.improve.situation import Proposal
from tauten.plan.plan import Batch, ModelChoice, Plan

NAIVE = Plan()


def changed(before: Plan, change: str, after: Plan, strategy: str = "batch") -> Taken:
    return Taken(Tried(strategy, change, "identical", True, "it gains"), before, after)


def chain(*steps: tuple[str, Plan]) -> tuple[Plan, list[Taken]]:
    """The last plan of a chain of changes, and the changes."""
    plan, taken = NAIVE, []
    for change, after in steps:
        taken.append(changed(plan, change, after))
        plan = after
    return plan, taken


TWO = NAIVE.edit("ocr", threads=2)


def test_a_setting_belongs_to_the_change_that_set_it_last() -> None:
    plan, taken = chain(("two", TWO), ("one", TWO.edit("ocr", threads=1)), ("again", TWO))
    assert standing(plan, taken, NAIVE) == [set(), set(), {("ocr", "threads", "")}]
    told = overridden(plan, taken, NAIVE)
    assert set(told) == {0, 1}
    assert "batch: again has set it otherwise since" in told[0]


def test_what_is_as_it_was_in_the_beginning_was_not_changed() -> None:
    plan, taken = chain(("two", TWO), ("back", NAIVE.edit("ocr", threads=0)))
    assert standing(plan, taken, NAIVE) == [set(), set()]
    assert set(overridden(plan, taken, NAIVE)) == {0, 1}


def test_of_tables_and_lists_each_member_is_looked_at() -> None:
    batched = NAIVE.edit("ocr", batch=Batch(max=8, wait="off"))
    smaller = batched.edit("ocr", batch=Batch(max=4, wait="off"))
    plan, taken = chain(("eight at once", batched), ("four", smaller))
    assert standing(plan, taken, NAIVE) == [{("ocr", "batch", "wait")}, {("ocr", "batch", "max")}]
    beside = smaller.edit("ocr", beside=("hear",))
    wider = beside.edit("ocr", beside=("hear", "see"))
    plan, taken = chain(("hear beside it", beside), ("see too", wider))
    assert [len(each) for each in standing(plan, taken, NAIVE)] == [3, 1]
    roles = NAIVE.edit("ocr", roles={"read": ModelChoice(threads=1), "find": ModelChoice(threads=1)})
    fewer = roles.edit("ocr", roles={"read": ModelChoice(threads=2), "find": ModelChoice(threads=1)})
    plan, taken = chain(("one each", roles), ("two to read", fewer))
    assert standing(plan, taken, NAIVE) == [{("ocr", "find", "threads")}, {("ocr", "read", "threads")}]


def test_reasons_of_a_stage_are_those_of_what_stands_there() -> None:
    both = TWO.edit("hear", threads=2)
    plan, taken = chain(("two for both", both), ("one to read", both.edit("ocr", threads=1)))
    left = standing(plan, taken, NAIVE)
    assert why_of("hear", taken, left) == "batch: two for both"
    assert why_of("ocr", taken, left) == "batch: one to read"


def test_an_ablation_takes_back_what_stands() -> None:
    plan, taken = chain(("two", TWO), ("hear too", TWO.edit("hear", threads=2)))
    assert undone(plan, taken).stage("ocr").threads == 0
    assert set(ablations(taken, plan)) == {"batch"}


def test_what_takes_the_place_of_all_that_was_found_leaves_none_of_it_taken() -> None:
    class Once:
        name, reason = "overlap", "for a test"

        def propose(self, seen: Any) -> Any:
            if not seen.stages:
                yield Proposal("overlap", "side by side", seen.edit("ocr", beside=("hear",)), "identical")

    def price(plan: Plan) -> Figures:
        return Figures({"p95_ms": 900.0 if not plan.stages else 500.0 if plan.stage("ocr").beside else 300.0})

    search = Search([Once()], lambda plan: plan, price, Slo(p95_ms=100.0))  # type: ignore[list-item, arg-type, return-value]
    kept = search.improve(NAIVE, lossy=False)
    assert [each.taken for each in search.tried if each.strategy == "overlap"] == [True]
    easy = NAIVE.edit("ocr", backend="openvino")
    found = search.instead(kept.plan, Proposal("zero-effort", "one engine for all", easy, "equivalent"))
    assert found.plan == easy
    [overlap] = [each for each in search.tried if each.strategy == "overlap"]
    assert not overlap.taken
    assert "zero-effort: one engine for all took its place" in overlap.why
    assert standing(found.plan, search.taken, NAIVE) == [{("ocr", "backend", "")}]
    assert search.taken[0].tried.strategy == "zero-effort"
