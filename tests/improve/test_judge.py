"""A model as a judge: asked in both orders, held against people, and refused with the reason."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from improve.kit_labels import compared, recorded
from tauten.errors import InputError
from tauten.improve.labels.answers import Answer
from tauten.improve.labels.judge import ask, ask_all, calibrate, judged_verdict
from tauten.improve.labels.judgements import Choice, Judgement
from tauten.improve.labels.pairs import Comparison
from tauten.improve.recording import Inputs, Recording

OLD, NEW = Answer("q", "old"), Answer("q", "new")
CHOICES: dict[int, Choice] = {1: "left", -1: "right", 0: "equal"}


def prefers(word: str) -> Any:
    """A judge that wants this answer, wherever it stands."""

    def judge(question: Inputs, left: Answer, right: Answer) -> Choice:
        return "left" if left.text == word else "right" if right.text == word else "both bad"

    return judge


def test_it_is_asked_in_both_orders() -> None:
    assert ask(prefers("old"), {}, OLD, NEW) == 1
    assert ask(prefers("new"), {}, OLD, NEW) == -1
    assert ask(prefers("other"), {}, OLD, NEW) == 0


def test_a_liking_for_one_side_is_no_opinion() -> None:
    assert ask(lambda question, left, right: "left", {}, OLD, NEW) is None
    assert ask(lambda question, left, right: "equal", {}, OLD, NEW) == 0


def test_it_must_choose() -> None:
    with pytest.raises(InputError, match="the judge said 'A'") as raised:
        ask(lambda question, left, right: "A", {}, OLD, NEW)  # type: ignore[arg-type,return-value]
    assert raised.value.code == "E259"


def test_it_sees_the_question_and_every_pair_that_differs(tmp_path: Path) -> None:
    asked: list[str] = []

    def judge(question: Inputs, left: Answer, right: Answer) -> Choice:
        asked.append(str(question["question"]))
        return "equal"

    recording = Recording.load(recorded(tmp_path / "rec", 5))
    assert ask_all(judge, recording, compared(5, 2)) == {"q0": 0, "q1": 0}
    assert asked == ["question 0?"] * 2 + ["question 1?"] * 2


def world(
    labels: int, *, items: int = 1000, differing: int = 200, bad: float = 0.3, seed: int = 1
) -> tuple[Comparison, dict[str, int]]:
    """What people would say of all pairs, and a comparison in which they said it of some."""
    draw, blank = random.Random(seed), compared(items, differing)
    truth = {item: draw.choices([1, -1, 0], [bad, 0.3, 0.7 - bad])[0] for item in blank.differing}
    said = [
        Judgement(item, *(each.content for each in blank.answers[item]), CHOICES[truth[item]], 1.0, "ada", "")
        for item in list(truth)[:labels]
    ]
    return Comparison(blank.answers, said), truth


def noisy(truth: dict[str, int], right: float, seed: int = 2) -> dict[str, int | None]:
    draw = random.Random(seed)
    return {item: said if draw.random() < right else None for item, said in truth.items()}


def test_a_good_judge_is_worth_labels() -> None:
    comparison, truth = world(60)
    found = calibrate(comparison, noisy(truth, 0.95), 0.05)
    assert found.usable, found.reason
    assert found.n == 60
    assert found.agreement.low < 0.95 < found.agreement.high
    assert found.effective > 100
    assert found.contradicted == sum(each is None for each in noisy(truth, 0.95).values())
    assert "worth" in str(found)
    verdict = judged_verdict(comparison, noisy(truth, 0.95), 0.05)
    assert verdict.decision == "accept"
    assert verdict.loss_low < verdict.loss < verdict.loss_high < 0.05
    assert verdict.method == "prediction-powered, 60 labels of people"
    assert {flip.bad for flip in verdict.flips} == {True, False}


def test_a_harmful_change_is_rejected() -> None:
    comparison, truth = world(100, items=300, bad=0.65)
    verdict = judged_verdict(comparison, noisy(truth, 0.95), 0.04)
    assert verdict.decision == "reject"
    assert verdict.exit_code == 1


def test_too_few_labels_are_refused_with_how_many_would_do() -> None:
    comparison, truth = world(5)
    found = calibrate(comparison, dict(truth), 0.05)
    assert not found.usable
    assert found.reason.startswith("5 labels of people are too few")
    needed = int(found.reason.rpartition(">= ")[2])
    assert 5 < needed < 60
    with pytest.raises(InputError, match="the judge is not used: 5 labels") as raised:
        judged_verdict(comparison, dict(truth), 0.05)
    assert raised.value.code == "E259"
    hopeless = calibrate(world(5, items=210)[0], dict(truth), 0.001)
    assert "nor with all 200" in hopeless.reason


def test_a_judge_that_guesses_is_refused() -> None:
    comparison, truth = world(60)
    draw = random.Random(3)
    guesses: dict[str, int | None] = {item: draw.choice([1, -1, 0]) for item in truth}
    assert "no better than" in calibrate(comparison, guesses, 0.05).reason
    assert "no better than" in calibrate(comparison, dict.fromkeys(truth, 1), 0.05).reason


def test_a_judge_that_adds_nothing_is_refused() -> None:
    comparison, truth = world(190)
    draw = random.Random(4)
    contrary: dict[str, int | None] = {
        item: said if draw.random() < 0.75 else -said for item, said in truth.items()
    }
    assert "use theirs alone" in calibrate(comparison, contrary, 0.05).reason


def test_it_must_have_judged_all_and_people_some() -> None:
    comparison, truth = world(60)
    with pytest.raises(InputError, match="left out 199 pairs"):
        calibrate(comparison, {"q0": 1}, 0.05)
    with pytest.raises(InputError, match="no pair was labelled"):
        calibrate(world(0)[0], dict(truth), 0.05)
