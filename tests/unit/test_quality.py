"""The quality gate: metrics, verdicts and summaries."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.errors import InputError
from tauten.improve.quality import Metric, Outcome, compare, metric, summarize


def pairs(same: int, bad: int = 0, good: int = 0) -> tuple[dict[str, bool], dict[str, bool]]:
    before = [True] * (same + bad) + [False] * good
    after = [True] * same + [False] * bad + [True] * good
    names = [f"q{i}" for i in range(len(before))]
    return dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True))


def test_a_flawless_change_is_accepted_once_there_are_enough_items() -> None:
    verdict = compare(*pairs(299), margin=0.01)
    assert (verdict.decision, verdict.exit_code, verdict.flips, verdict.needed) == ("accept", 0, [], None)
    assert str(verdict) == "accept: loss below 1.0 points (95%, n = 299)"
    short = compare(*pairs(60), margin=0.01)
    assert (short.decision, short.exit_code, short.needed) == ("cannot conclude", 4, 299)
    assert str(short) == "cannot conclude, n >= 299 (now 60)"
    assert compare(*pairs(60), margin=0.05).decision == "accept"


def test_a_bad_change_is_rejected_with_its_flips() -> None:
    verdict = compare(*pairs(50, bad=9, good=1), margin=0.01)
    assert (verdict.decision, verdict.exit_code) == ("reject", 1)
    assert [flip.item for flip in verdict.bad_flips] == [f"q{i}" for i in range(50, 59)]
    assert [flip.item for flip in verdict.good_flips] == ["q59"]
    assert verdict.loss == pytest.approx(8 / 60)
    assert verdict.loss_low > 0.01
    assert str(verdict).startswith("reject: loss above")


def test_a_few_flips_ask_for_more_items() -> None:
    verdict = compare(*pairs(57, bad=2, good=1), margin=0.02)
    assert verdict.decision == "cannot conclude"
    assert verdict.needed is not None
    assert verdict.needed > 60
    assert verdict.loss_low < 0.02 < verdict.loss_high


def test_a_loss_equal_to_the_margin_never_concludes() -> None:
    verdict = compare(*pairs(980, bad=20), margin=0.02)
    assert (verdict.decision, verdict.needed) == ("cannot conclude", None)
    assert "too close" in str(verdict)


@given(st.integers(1, 40), st.integers(0, 8), st.integers(0, 8), st.sampled_from([0.02, 0.1, 0.2]))
@settings(max_examples=10, deadline=None)
def test_verdicts_agree_with_their_numbers(same: int, bad: int, good: int, margin: float) -> None:
    verdict = compare(*pairs(same, bad, good), margin=margin)
    assert verdict.loss_low <= verdict.loss <= verdict.loss_high
    assert len(verdict.bad_flips) == bad
    assert len(verdict.good_flips) == good
    assert (verdict.needed is not None) <= (verdict.decision == "cannot conclude")
    if verdict.decision == "accept":
        assert verdict.loss < margin
    if verdict.decision == "reject":
        assert verdict.loss > margin


def scored(draw: random.Random, n: int, shift: float) -> tuple[dict[str, float], dict[str, float]]:
    before = {f"q{i}": draw.uniform(0.4, 0.9) for i in range(n)}
    after = {item: min(1.0, max(0.0, score - shift + draw.gauss(0, 0.05))) for item, score in before.items()}
    return before, after


def test_scores_are_judged_by_bootstrap() -> None:
    draw = random.Random(1)
    assert compare(*scored(draw, 200, 0.0), margin=0.02).decision == "accept"
    rejected = compare(*scored(draw, 200, 0.1), margin=0.02)
    assert (rejected.decision, rejected.method, rejected.p_value) == ("reject", "BCa bootstrap", None)
    unsure = compare(*scored(draw, 15, 0.02), margin=0.02)
    assert unsure.decision == "cannot conclude"


def test_false_accepts_of_scores_in_simulation() -> None:
    draw, runs, accepted = random.Random(8), 30, 0
    for _ in range(runs):
        accepted += compare(*scored(draw, 60, 0.03), margin=0.03).decision == "accept"
    assert accepted / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_equal_scores_are_no_proof_by_themselves() -> None:
    before = {f"q{i}": 0.7 for i in range(10)}
    verdict = compare(before, before, margin=0.02)
    assert verdict.decision == "cannot conclude"
    assert verdict.loss_high == pytest.approx(1 - 0.05 ** (1 / 10))


def test_clusters_count_instead_of_items() -> None:
    before, after = pairs(300)
    clusters = {item: f"template {int(item[1:]) % 10}" for item in before}
    assert compare(before, after, margin=0.01).decision == "accept"
    clustered = compare(before, after, margin=0.01, clusters=clusters)
    assert clustered.decision == "cannot conclude"
    assert clustered.loss_high == pytest.approx(1 - 0.05 ** (1 / 10))


def test_so_many_items_are_needed_as_make_enough_clusters() -> None:
    """299 clusters without a flip prove a loss below one point; 301 items in ten of them prove no more than 300."""
    before, after = pairs(300)
    clusters = {item: f"template {int(item[1:]) % 10}" for item in before}
    short = compare(before, after, margin=0.01, clusters=clusters)
    assert short.needed == 299 * 30
    before, after = pairs(short.needed)
    clusters = {item: f"template {int(item[1:]) // 30}" for item in before}
    assert compare(before, after, margin=0.01, clusters=clusters).decision == "accept"


def test_a_few_scores_that_fell_ask_for_as_many_items_as_flips_would() -> None:
    """The exact bounds hold both open, and know nothing of how far a score fell."""
    before, after = pairs(57, bad=2, good=1)
    fell = {item: 0.9 if before[item] and not right else float(right) for item, right in after.items()}
    scores, flips = compare(before, fell, margin=0.05), compare(before, after, margin=0.05)
    assert (scores.decision, flips.decision) == ("cannot conclude", "cannot conclude")
    assert scores.needed == flips.needed


def test_items_without_a_partner_are_named() -> None:
    with pytest.raises(InputError, match="2 items lack a partner: a, c"):
        compare({"a": True, "b": True}, {"b": True, "c": True}, margin=0.1)
    with pytest.raises(InputError, match="no items"):
        compare({}, {}, margin=0.1)
    with pytest.raises(InputError, match="cannot be proved"):
        compare({"a": True}, {"a": True}, margin=0.0)


def test_metric_says_what_good_means() -> None:
    @metric
    def exact(answer: str, label: str) -> bool:
        """Right when the words agree."""
        return answer == label

    assert isinstance(exact, Metric)
    assert (exact.name, exact.description) == ("exact", "Right when the words agree.")
    assert (exact("a", "a"), exact("a", "b")) == (1.0, 0.0)
    assert metric(name="other")(lambda answer, label: 0.5)(1, 2) == 0.5


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan"), "good", None])
def test_a_metric_outside_its_range_is_refused(score: object) -> None:
    with pytest.raises(InputError, match="expected True, False or a number"):
        Metric(lambda answer, label: score, "odd")(1, 1)


def test_summary_counts_each_rate_over_its_own_items() -> None:
    outcomes = [
        Outcome("a", correct=True, rank=1),
        Outcome("b", correct=False, rank=3),
        Outcome("c", correct=False, refused=True),
        Outcome("d", correct=True, answerable=False, refused=True),
        Outcome("e", correct=False, answerable=False, rank=1),
    ]
    found = summarize(outcomes)
    assert found.n == 5
    rates = (found.hit_at_1, found.hit_at_3, found.correct, found.answered_right, found.refused_right)
    assert [(rate.right, rate.n) for rate in rates] == [(1, 3), (2, 3), (2, 5), (1, 3), (1, 2)]
    assert all(rate.value is not None and rate.low <= rate.value <= rate.high for rate in rates)
    assert str(summarize([Outcome("x", correct=True)] * 52 + [Outcome("y", correct=False)] * 8).correct) == (
        "52 of 60 (0.76-0.93)"
    )


def test_nothing_to_count_is_said() -> None:
    empty = summarize([])
    assert empty.n == 0
    assert empty.correct.value is None
    assert str(empty.refused_right) == "none"
