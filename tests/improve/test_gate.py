"""The gate of a search: changes are proven one after another, and no further than something can be proven."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from tauten.improve.optimizer import gate as gates
from tauten.improve.optimizer.gate import PART, Gate, Proven
from tauten.improve.optimizer.testbed import Scored
from tauten.improve.quality import Evidence
from tauten.improve.situation import Proposal
from tauten.plan.plan import Plan

BEFORE = Plan()
AFTER = Plan().edit("reply", settings={"fast": True})
LATER = Plan().edit("reply", settings={"fast": True, "short": True})
ITEMS = [f"item {number}" for number in range(400)]
FEW = ITEMS[:100]


class Judging:
    """Every answer is right, but for those that changed plans give to some items; a second each, a tenth of one under
    a changed plan."""

    def __init__(self, wrong: Sequence[str] = (), later: Sequence[str] = ()) -> None:
        self.wrong = {BEFORE.content: set[str](), AFTER.content: set(wrong), LATER.content: {*wrong, *later}}
        self.now_s = 0.0
        self.judged: dict[bytes, int] = {}

    def alike(self, before: Plan, after: Plan, ids: Sequence[str]) -> dict[str, bool]:
        return {}

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        self.now_s += len(ids) * (1.0 if plan.content == BEFORE.content else 0.1)
        self.judged[plan.content] = self.judged.get(plan.content, 0) + len(ids)
        return {id: Scored(0.0 if id in self.wrong[plan.content] else 1.0, id) for id in ids}


def gate(testbed: Judging, loss: float = 0.01, items: Sequence[str] = ITEMS, **fields: Any) -> Gate:
    found = Gate(cast(Any, testbed), items, loss, clock=lambda: testbed.now_s, **fields)
    found.before = BEFORE
    return found


def proof(seen: Gate, *afters: Plan) -> tuple[Proven, Evidence]:
    """What is proven, and the evidence, of which there is some."""
    found = seen.proven(BEFORE, afters or (AFTER,))
    assert found.evidence is not None
    return found, found.evidence


def refused(seen: Gate) -> tuple[str, int]:
    """Why the change is not proven, and how many items were looked at for it."""
    found = seen.proven(BEFORE, [AFTER])
    assert (found.changes, found.evidence) == (0, None)
    judging = cast(Judging, seen.testbed)
    return found.why, judging.judged[AFTER.content]


def test_without_a_flip_every_item_is_looked_at_and_the_change_accepted() -> None:
    seen = gate(Judging())
    found, evidence = proof(seen)
    assert found.changes == 1
    assert evidence.verdict.decision == "accept"
    assert len(evidence.items) == len(seen.halves.confirmation) == 300


@pytest.mark.parametrize(("place", "seen"), [(0, PART), (30, 3 * PART), (80, 7 * PART), (299, 300)])
def test_a_flip_that_the_rest_cannot_make_good_ends_it(place: int, seen: int) -> None:
    """Looks lie after 24 items, 48 more, 96 more, and so on."""
    wrong = gate(Judging()).halves.confirmation[place]
    why, looked_at = refused(gate(Judging([wrong])))
    assert "cannot conclude" in why
    assert looked_at == seen


def test_flips_that_a_wider_margin_bears_do_not_end_it() -> None:
    wrong = gate(Judging()).halves.confirmation[:3]
    _, evidence = proof(gate(Judging(wrong), 0.05))
    assert evidence.verdict.decision == "accept"
    assert len(evidence.items) == 300


def test_when_the_time_is_over_what_was_seen_proves_too_little() -> None:
    testbed = Judging()
    why, looked_at = refused(gate(testbed, more=lambda needed_s=0.0: testbed.now_s + needed_s < 60.0))
    assert "cannot conclude" in why
    assert why.endswith("there was no time left to judge more")
    assert looked_at == 3 * PART


def test_a_proof_of_what_was_chosen_may_take_longer_than_there_is_for_anything_else() -> None:
    testbed = Judging()
    seen = gate(testbed, more=lambda needed_s=0.0: testbed.now_s + needed_s < 200.0, grace_s=250.0)
    seen.scores(BEFORE, seen.halves.selection[:10])
    assert seen.provable(1)
    found, evidence = proof(seen)
    assert (found.changes, len(evidence.items)) == (1, 300)
    assert not seen.more()
    assert not seen.provable(1), "another would take too long"


def test_a_topic_that_weighs_more_than_others_proves_less() -> None:
    """A loss is bounded by topics, and the largest of them may be what got worse."""
    items = [f"item {number}" for number in range(400)]
    alone = gate(Judging(), 0.05, items)
    uneven = gate(
        Judging(), 0.05, items, clusters={id: "one" if n < 40 else id for n, id in enumerate(items)}
    )
    assert not alone.hopeless()
    assert uneven.labels.provable_loss > 10 * alone.labels.provable_loss
    assert "cannot conclude" in uneven.hopeless()
    assert uneven.labels.needed > uneven.labels.items
    pairs = {id: str(n // 2) for n, id in enumerate(items)}
    even = gate(Judging(), 0.05, items, clusters=pairs)
    assert not even.hopeless()
    found, evidence = proof(even)
    assert (found.changes, evidence.verdict.decision) == (1, "accept"), (
        "what is said to be provable is proven"
    )


def test_where_there_is_no_time_for_all_items_as_many_as_can_be_enough_are_looked_at() -> None:
    """59 without a flip prove five points; which they are was drawn before anything was seen."""
    testbed = Judging()
    seen = gate(testbed, 0.05, more=lambda needed_s=0.0: testbed.now_s + needed_s < 200.0)
    seen.scores(BEFORE, seen.halves.selection[:10])
    seen.scores(AFTER, seen.halves.selection[:10])
    found, evidence = proof(seen)
    assert found.changes == 1
    assert list(evidence.items) == seen.halves.confirmation[:59]


def test_changes_are_proven_one_after_another_until_one_cannot_be() -> None:
    """Each as if it were the only one: 300 items prove a point once, and with a correction for two not at all."""
    testbed = Judging()
    found, evidence = proof(gate(testbed), AFTER, LATER)
    assert (found.changes, evidence.plan_after) == (2, LATER.id)
    assert testbed.judged[BEFORE.content] == 300, "what they are judged against answers once"
    wrong = gate(Judging()).halves.confirmation[5]
    found, evidence = proof(gate(Judging(later=[wrong])), AFTER, LATER)
    assert (found.changes, evidence.plan_after) == (1, AFTER.id)
    assert evidence.verdict.decision == "accept"
    assert "cannot conclude" in found.why
    assert gate(Judging([wrong])).proven(BEFORE, [AFTER, LATER]).changes == 0, "what follows is not looked at"


def test_one_after_another_accepts_no_more_falsely_than_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both changes lose what the margin allows, the later one more of it: accepting any of them is wrong."""
    monkeypatch.setattr(gates, "PART", 1000)  # to end early accepts nothing, and costs a decision each time
    draw, wrong, draws = np.random.default_rng(7), 0, 80
    for number in range(draws):
        lost = draw.random(len(FEW)) < 0.1
        more = lost | (draw.random(len(FEW)) < 0.02)
        first = [id for id, each in zip(FEW, lost, strict=True) if each]
        later = [id for id, each in zip(FEW, more, strict=True) if each]
        seen = gate(Judging(first, later), 0.1, items=FEW, seed=number)
        wrong += seen.proven(BEFORE, [AFTER, LATER]).changes > 0
    assert wrong / draws < 0.05 + 2.33 * (0.05 * 0.95 / draws) ** 0.5


def test_a_change_that_lost_answers_is_not_judged_again() -> None:
    wrong = gate(Judging()).halves.selection[:3]
    testbed = Judging(wrong)
    seen = gate(testbed)
    change = Proposal("reduce", "reply: fast", AFTER, "lossy", "")
    first = seen.allowed(change)
    assert first.startswith("3 of 24 answers got worse, 0 better (loss 12.5 points)")
    judged = dict(testbed.judged)
    assert seen.allowed(change) == first
    assert testbed.judged == judged


def test_how_long_a_confirmation_takes_is_known_from_what_was_judged() -> None:
    testbed = Judging()
    seen = gate(testbed)
    assert seen.confirmation_s(1) == 0.0  # nothing is known yet
    seen.scores(BEFORE, ITEMS[:10])
    seen.scores(AFTER, ITEMS[:10])
    seen.scores(BEFORE, ITEMS[:10])  # known, so it took no time
    assert seen.confirmation_s(1) == pytest.approx(299 * 1.1)
    assert seen.confirmation_s(3) == pytest.approx(299 * 1.3)
