"""The gate of a search: a confirmation looks no further than it can prove something."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from tauten.improve.optimizer.gate import PART, Gate
from tauten.improve.optimizer.testbed import Scored
from tauten.plan.plan import Plan

BEFORE = Plan()
AFTER = Plan().edit("reply", settings={"fast": True})
ITEMS = [f"item {number}" for number in range(400)]


class Judging:
    """Every answer is right, but for those that the changed plan gives to some items; a second each, a tenth of one
    under the changed plan."""

    def __init__(self, wrong: Sequence[str] = ()) -> None:
        self.wrong = set(wrong)
        self.now_s = 0.0
        self.judged: dict[bytes, int] = {}

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        changed = plan.content == AFTER.content
        self.now_s += len(ids) * (0.1 if changed else 1.0)
        self.judged[plan.content] = self.judged.get(plan.content, 0) + len(ids)
        return {id: Scored(0.0 if changed and id in self.wrong else 1.0, id) for id in ids}


def gate(testbed: Judging, loss: float = 0.01, **fields: Any) -> Gate:
    found = Gate(cast(Any, testbed), ITEMS, loss, clock=lambda: testbed.now_s, **fields)
    found.before = BEFORE
    return found


def test_without_a_flip_every_item_is_looked_at_and_the_change_accepted() -> None:
    testbed = Judging()
    seen = gate(testbed)
    evidence = seen.confirmed(BEFORE, AFTER, 1)
    assert evidence.verdict.decision == "accept"
    assert len(evidence.items) == len(seen.halves.confirmation) == 300


@pytest.mark.parametrize("place", [0, 30, 299])
def test_a_flip_that_the_rest_cannot_make_good_ends_it(place: int) -> None:
    wrong = gate(Judging()).halves.confirmation[place]
    testbed = Judging([wrong])
    evidence = gate(testbed).confirmed(BEFORE, AFTER, 1)
    assert evidence.verdict.decision == "cannot conclude"
    assert [flip.item for flip in evidence.verdict.bad_flips] == [wrong]
    assert len(evidence.items) == min(300, (place // PART + 1) * PART)


def test_flips_that_a_wider_margin_bears_do_not_end_it() -> None:
    wrong = gate(Judging()).halves.confirmation[:3]
    evidence = gate(Judging(wrong), 0.05).confirmed(BEFORE, AFTER, 1)
    assert evidence.verdict.decision == "accept"
    assert len(evidence.items) == 300


def test_when_the_time_is_over_what_was_seen_proves_too_little() -> None:
    testbed = Judging()
    evidence = gate(testbed, more=lambda: testbed.now_s < 60.0).confirmed(BEFORE, AFTER, 1)
    assert evidence.verdict.decision == "cannot conclude"
    assert len(evidence.items) == 3 * PART


def test_how_long_a_confirmation_takes_is_known_from_what_was_judged() -> None:
    testbed = Judging()
    seen = gate(testbed)
    assert seen.confirmation_s == 0.0  # nothing is known yet
    seen.scores(BEFORE, ITEMS[:10])
    seen.scores(AFTER, ITEMS[:10])
    assert seen.confirmation_s == pytest.approx(300 * 1.1)
