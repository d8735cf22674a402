"""Halves to choose and to confirm on; several candidates judged on the same items."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from tauten.errors import InputError
from tauten.improve.quality import compare, compare_many, decide, split
from tauten.statistics import holm

ITEMS = [f"q{i}" for i in range(200)]


def scores(wrong: int) -> dict[str, bool]:
    return {item: place >= wrong for place, item in enumerate(ITEMS)}


def test_halves_share_nothing_and_lack_nothing() -> None:
    halves = split(ITEMS, seed=3)
    assert sorted(halves.selection + halves.confirmation) == sorted(ITEMS)
    assert not set(halves.selection) & set(halves.confirmation)
    assert 70 < len(halves.selection) < 130
    assert halves == split(ITEMS, seed=3)
    assert halves != split(ITEMS, seed=4)
    assert len(split(ITEMS, share=0.1).selection) < 40


def test_an_item_stays_in_its_half_when_others_come() -> None:
    first, later = split(ITEMS[:50]), split(ITEMS)
    assert set(first.selection) <= set(later.selection)
    assert set(first.confirmation) <= set(later.confirmation)


def test_clusters_are_not_torn() -> None:
    clusters = {item: f"speaker {int(item[1:]) % 9}" for item in ITEMS}
    halves = split(ITEMS, clusters=clusters)
    speakers = [{clusters[item] for item in half} for half in halves]
    assert not speakers[0] & speakers[1]


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_half_is_never_planned_empty(share: float) -> None:
    with pytest.raises(InputError, match="leaves a half empty"):
        split(ITEMS, share=share)


def test_holm_steps_down() -> None:
    p_values = [0.001, 0.04, 0.03, 0.013]
    tried: list[tuple[int, float]] = []

    def passes(which: int, level: float) -> bool:
        tried.append((which, level))
        return p_values[which] <= level

    levels = holm(4, passes, 0.05)
    assert levels == pytest.approx([0.0125, 0.025, 0.025, 0.05 / 3])  # 0.03 misses 0.025, so all ends there
    assert [p <= level for p, level in zip(p_values, levels, strict=True)] == [True, False, False, True]
    assert holm(0, passes) == []
    with pytest.raises(InputError, match="hypotheses"):
        holm(2, passes, 1.5)


def test_each_of_many_candidates_pays_for_the_others() -> None:
    """Two of 200 items wrong prove a loss below 3.2 points alone, but not when five were tried."""
    before = scores(0)
    alone = compare(before, scores(2), 0.032)
    assert alone.decision == "accept"
    found = compare_many(before, {f"c{i}": scores(2) for i in range(5)}, 0.032)
    assert {verdict.decision for verdict in found.values()} == {"cannot conclude"}
    one = found["c0"]
    assert one.confidence == pytest.approx(0.99)
    assert one.method == "exact paired test, Holm over 5"
    assert one.needed is not None
    assert one.loss_high > alone.loss_high


def test_a_corrected_confidence_is_not_rounded_up() -> None:
    """Of ten candidates each is held to 99.5 %, which is not 100."""
    found = compare_many(scores(0), {f"c{i}": scores(2) for i in range(9)} | {"good": scores(0)}, 0.04)
    assert found["good"].decision == "accept"
    assert "(99.5%, n = 200)" in str(found["good"])


def test_a_good_candidate_is_accepted_among_bad_ones_and_lowers_their_bar() -> None:
    found = compare_many(scores(0), {"good": scores(0), "bad": scores(30)}, 0.02)
    assert [verdict.decision for verdict in found.values()] == ["accept", "reject"]
    assert [verdict.confidence for verdict in found.values()] == pytest.approx([0.975, 0.95])


def test_one_candidate_is_judged_as_ever() -> None:
    assert compare_many(scores(0), {"it": scores(1)}, 0.05) == {"it": compare(scores(0), scores(1), 0.05)}
    assert compare_many(scores(0), {}, 0.05) == {}


@pytest.mark.parametrize("wrong", [0, 5, 40])
def test_the_quick_decision_is_the_verdicts(wrong: int) -> None:
    before = scores(0)
    assert decide(before, scores(wrong), 0.05) == compare(before, scores(wrong), 0.05).decision
    halves = {item: score * 0.5 for item, score in scores(wrong).items()}
    assert decide(before, halves, 0.05) == compare(before, halves, 0.05).decision
