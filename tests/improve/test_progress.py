"""What labels say so far: decided only when no missing label could change it, and how many more it takes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from improve.kit_labels import compared
from tauten.improve.labels.judgements import Choice, Judgement
from tauten.improve.labels.pairs import Comparison
from tauten.improve.labels.progress import Progress
from tauten.improve.quality import compare

CHOICES: dict[int, Choice] = {1: "left", -1: "right", 0: "equal"}


def progress(items: int, differing: int, *opinions: int, margin: float = 0.05) -> Progress:
    """The first differing items labelled so; 1 prefers the answer before, which stood on the left."""
    blank = compared(items, differing)
    said = [
        Judgement(item, *(each.content for each in blank.answers[item]), CHOICES[each], 1.0, "ada", "")
        for item, each in zip(blank.differing, opinions, strict=False)
    ]
    return Progress(Comparison(blank.answers, said), margin)


def test_counts() -> None:
    found = progress(100, 20, 1, 1, -1, 0)
    counts = (found.items, found.identical, found.labelled, found.left, found.bad, found.good)
    assert counts == (100, 80, 4, 16, 2, 1)


def test_identical_answers_prove_by_themselves() -> None:
    found = progress(100, 0)
    assert (found.decision, found.more) == ("accept", 0)
    assert str(found) == "accept: loss below 3.0 points (95%, n = 100)"


def test_the_verdict_is_that_of_all_labels_as_soon_as_they_cannot_change_it() -> None:
    """100 items, 5 points: one answer in a hundred may be worse. Of 20 differing ones 19 are found equal."""
    open_, sure = progress(100, 20, *[0] * 18), progress(100, 20, *[0] * 19)
    assert (open_.decision, open_.more) == ("cannot conclude", 1)
    assert (sure.decision, sure.more) == ("accept", 0)
    assert sure.verdict().loss_high < 0.05
    assert [flip.item for flip in sure.verdict().flips] == ["q19"]  # the missing one, held against the change
    assert compare(*sure.scores(sure.assumed), 0.05) == sure.verdict()


def test_a_change_that_lost_too_much_is_rejected_early() -> None:
    found = progress(100, 30, *[1] * 25)
    assert found.decision == "reject"
    assert found.verdict().exit_code == 1
    assert found.verdict().loss_low > 0.05


def test_while_it_is_open_the_bounds_hold_whatever_is_missing() -> None:
    found = progress(100, 20, 1, 0, 0, 0)
    verdict = found.verdict()
    assert verdict.decision == "cannot conclude"
    for missing in (-1, 0, 1):
        loss = compare(*found.scores(missing), 0.05).loss
        assert verdict.loss_low <= loss <= verdict.loss_high
    assert verdict.loss == pytest.approx(0.01)


def test_how_many_more_follows_what_was_said_so_far() -> None:
    assert progress(100, 40).more == 39  # before the first label the change is taken for harmless
    harmless, harmful = progress(100, 40, *[0] * 10), progress(100, 40, *[1] * 10)
    assert harmless.more == 29
    assert harmful.more is not None
    assert harmful.more < harmless.more
    assert str(harmless) == "cannot conclude yet: about 29 more labels of 30"


def test_too_few_items_are_said_with_how_many_would_do() -> None:
    found = progress(40, 10, *[0] * 10)
    assert found.more is None
    assert str(found) == "cannot conclude with these 40 items, whatever is labelled: n >= 59"
    close = progress(400, 40, *[1] * 20, *[0] * 20)
    assert "too close" in str(close)
