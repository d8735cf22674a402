"""One labeller at work: order, sides, blindness, undo, and what several labellers make of one recording."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest

from improve.kit_labels import answered, recorded, served, session, side_of
from tauten.describe.payload import Image, Text
from tauten.errors import InputError, Overloaded
from tauten.improve.labels.answers import Answers, keep_answers
from tauten.improve.labels.judgements import Choice
from tauten.improve.labels.session import Session

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def label_all(work: Session, *choices: Choice) -> list[str]:
    """Give these choices, the last one again and again; the items in the order in which they came."""
    items = []
    while (pair := work.pair()) is not None:
        work.choose(choices[min(len(items), len(choices) - 1)])
        items.append(pair.item)
    return items


def test_only_answers_that_differ_are_shown_each_once(tmp_path: Path) -> None:
    work = session(tmp_path, items=30, differing=10, margin=0.05)
    assert (work.progress.identical, work.progress.left) == (20, 10)
    items = label_all(work, "equal")
    assert sorted(items) == sorted(f"q{i}" for i in range(20, 30))
    assert work.pair() is None
    assert work.progress.left == 0
    assert label_all(session(tmp_path, margin=0.05), "equal") == []  # nor in another session


def test_order_and_sides_are_drawn_by_the_seed(tmp_path: Path) -> None:
    def looks(folder: str, seed: int) -> list[tuple[str, str]]:
        work, found = session(tmp_path / folder, 120, 100, margin=0.01, seed=seed), []
        while (pair := work.pair()) is not None:
            found.append((pair.item, side_of(pair, "new")))
            work.choose("equal")
        return found

    first = looks("a", 1)
    assert first == looks("b", 1)
    assert first != looks("c", 2)
    assert [item for item, _ in first] != sorted(item for item, _ in first)
    assert 30 < sum(side == "left" for _, side in first) < 70


def test_the_same_pair_is_shown_until_it_is_judged(tmp_path: Path) -> None:
    work = session(tmp_path)
    pair = work.pair()
    assert work.pair() is pair
    work.choose("left")
    [said] = work.judgements.read()
    assert pair is not None
    assert (said.item, said.left, said.right) == (pair.item, pair.left.content, pair.right.content)
    assert said.seconds == 2.0
    assert work.pair() is not pair


def test_a_choice_needs_a_pair(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pair is shown"):
        session(tmp_path).choose("left")


def test_neither_labels_nor_what_is_told_says_which_plan_gave_which(tmp_path: Path) -> None:
    """What is told does not depend on whom the choices favour, until a tenth label is in."""
    told = []
    for name, favoured in (("a", "old"), ("b", "new")):
        work = session(tmp_path / name, 60, 60, margin=0.05)
        said = []
        for _ in range(9):
            said.append(work.told())
            pair = work.pair()
            assert pair is not None
            work.choose("left" if side_of(pair, favoured) == "left" else "right")
        told.append(said)
        kept = work.judgements.path.read_text()
        assert "naive" not in kept
        assert "tuned" not in kept
    assert told[0] == told[1]
    assert told[0][0] == "0 labelled, at most 60 to go; about 60 more for a verdict"


def test_undo_shows_the_pair_again(tmp_path: Path) -> None:
    work = session(tmp_path)
    assert not work.undo()
    first = work.pair()
    work.choose("left")
    work.pair()
    assert work.undo()
    assert work.pair() == first
    work.choose("right")
    assert [each.choice for each in work.judgements.read()] == ["right"]
    assert not session(tmp_path, labeller="bob").undo()  # what others said is theirs


def test_undo_after_the_verdict_opens_it_again(tmp_path: Path) -> None:
    work = session(tmp_path, 60, 10, margin=0.05)
    label_all(work, "equal")
    assert work.progress.decision == "accept"
    assert work.undo()
    assert work.pair() is not None


def test_labels_hold_for_these_answers_only(tmp_path: Path) -> None:
    work = session(tmp_path, 30, 10)
    label_all(work, "equal")
    other = keep_answers(
        tmp_path / "other.jsonl", [served(f"q{i}", Text(f"third answer {i}")) for i in range(30)]
    )
    again = Session(
        tmp_path / "asked.rec", Answers.load(tmp_path / "before.jsonl"), other, labeller="ada", margin=0.1
    )
    assert again.progress.labelled == 0
    assert not again.undo()  # the last label was about other answers
    swapped = Session(
        tmp_path / "asked.rec",
        Answers.load(tmp_path / "after.jsonl"),
        Answers.load(tmp_path / "before.jsonl"),
        labeller="ada",
        margin=0.1,
    )
    assert swapped.progress.labelled == work.progress.labelled


def test_a_second_labeller_gets_new_pairs_first_then_disputed_ones(tmp_path: Path) -> None:
    ada = session(tmp_path, 40, 12, margin=0.01)
    seen = []
    for _ in range(8):
        pair = ada.pair()
        assert pair is not None
        seen.append(pair.item)
        ada.choose("equal")
    bob = session(tmp_path, labeller="bob", margin=0.01)
    fresh = []
    for _ in range(4):
        pair = bob.pair()
        assert pair is not None
        fresh.append(pair.item)
        bob.choose("equal")
    assert not set(fresh) & set(seen)
    third = bob.pair()
    assert third is not None
    assert third.item in seen
    bob.choose("left")  # which disputes it
    carl = session(tmp_path, labeller="carl", margin=0.01)
    assert carl.progress.comparison.disputed() == [third.item]
    first = carl.pair()
    assert first is not None
    assert first.item == third.item


def test_most_labellers_win_and_a_draw_is_no_loss(tmp_path: Path) -> None:
    for who, favoured in (("ada", "old"), ("bob", "new"), ("carl", "old")):
        work = session(tmp_path, 1, 1, labeller=who, margin=0.5)
        pair = work.pair()
        assert pair is not None
        work.choose("left" if side_of(pair, favoured) == "left" else "right")
        work = session(tmp_path, labeller=who, margin=0.5)
        assert work.progress.settled == {"q0": {"ada": 1, "bob": 0, "carl": 1}[who]}


def test_media_and_failures_are_shown_without_a_hint(tmp_path: Path) -> None:
    recorded(tmp_path / "asked.rec", 2)
    before = keep_answers(tmp_path / "naive" / "a.jsonl", [served("q0", Image(PNG)), served("q1", "yes")])
    after = keep_answers(
        tmp_path / "tuned" / "a.jsonl",
        [served("q0", Text("a cat")), served("q1", error=Overloaded("full", help="later"))],
    )
    work = Session(tmp_path / "asked.rec", before, after, labeller="ada", margin=0.1)
    seen = {}
    for _ in range(2):
        pair = work.pair()
        assert pair is not None
        parts = work.parts(pair)
        assert [part.side for part in parts] == ["question", "left", "right"]
        assert str(parts[0].payload) == f"question {pair.item[1:]}?"
        seen[pair.item] = {part.payload.data for part in parts[1:]}
        work.choose("equal")
    assert seen == {"q0": {PNG, b"a cat"}, "q1": {b"yes", b"(no answer: E402)"}}


def test_answers_of_another_recording_are_refused(tmp_path: Path) -> None:
    recorded(tmp_path / "asked.rec", 2)
    sides = [
        Answers.load(answered(tmp_path / f"{after}.jsonl", 3, 1, after=after)) for after in (False, True)
    ]
    with pytest.raises(InputError, match="1 answered items are not in the recording 'asked': q2") as raised:
        Session(tmp_path / "asked.rec", *sides, labeller="ada", margin=0.1)
    assert raised.value.code == "E249"
