"""What was answered, or judged, by something else than now is not taken for the answer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from improve.kit_testbed import desk
from tauten.describe.payload import Audio, Text
from tauten.improve.labelled import Mark, marks_of
from tauten.improve.labels.answers import Answer
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.testbed import Scored
from tauten.improve.quality import Metric
from tauten.improve.recording import Item, Label, Recording, evenly, sample
from tauten.plan.plan import Plan

AFTER = Plan(name="after")
WAVE = b"RIFF\x00\x00\x00\x00WAVE"


class Judging:
    """Notes what it is asked; `file` is where an answer's medium lies."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self.judged: list[str] = []
        self.compared: list[str] = []

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        self.judged += ids
        told = Answer("a", file=self.file, type="audio/wav") if self.file else None
        return dict.fromkeys(ids, Scored(1.0, "", told))

    def alike(self, before: Plan, after: Plan, ids: Sequence[str]) -> dict[str, bool]:
        self.compared += ids
        return dict.fromkeys(ids, True)


def asked(journal: Journal, mark: Mark, answers: str = "", file: str = "") -> Judging:
    """What a search that goes on by a journal asks anew for one item."""
    assert desk.graph is not None
    testbed = Judging(file)
    remembered = Remembered(testbed, journal, desk.graph, answers, marks=lambda id: mark)  # type: ignore[arg-type]
    remembered.scores(AFTER, ["a"])
    remembered.alike(Plan(), AFTER, ["a"])
    return testbed


@pytest.mark.parametrize(
    ("mark", "judged", "compared"),
    [
        (Mark("inputs", "label"), [], []),
        (Mark("inputs", "another label"), ["a"], []),
        (Mark("other inputs", "label"), ["a"], ["a"]),
    ],
)
def test_a_search_goes_on_by_what_hangs_on_the_same(
    mark: Mark, judged: list[str], compared: list[str]
) -> None:
    journal = Journal()
    first = asked(journal, Mark("inputs", "label"))
    assert (first.judged, first.compared) == (["a"], ["a"])
    again = asked(journal, mark)
    assert (again.judged, again.compared) == (judged, compared)


def test_an_answer_whose_medium_has_gone_is_made_again(tmp_path: Path) -> None:
    journal, medium = Journal(), tmp_path / "media" / "said.wav"
    medium.parent.mkdir()
    medium.write_bytes(b"RIFF")
    assert asked(journal, Mark(""), str(tmp_path), "media/said.wav").judged == ["a"]
    assert asked(journal, Mark(""), str(tmp_path), "media/said.wav").judged == []
    medium.unlink()
    assert asked(journal, Mark(""), str(tmp_path), "media/said.wav").judged == ["a"]


# -- what items and metrics say of themselves ------------------------------------------------------------------


def item(id: str = "a", text: str = "why?", made_of: str = "", answer: str = "so") -> Item:
    return Item(id=id, render=lambda: {"text": Text(text)}, made_of=made_of, label=Label(answer=answer))


def test_inputs_that_are_others_have_another_revision() -> None:
    assert item().revision == item("b").revision != item(text="how?").revision
    assert item(made_of="x").revision == item(text="how?", made_of="x").revision == "x", "nothing is rendered"


def test_what_is_saved_tells_what_it_is_made_of(tmp_path: Path) -> None:
    def kept(data: bytes, folder: str) -> Item:
        made = Item(id="a", render=lambda: {"sound": Audio(WAVE + data), "text": Text("why?")})
        return Recording("one", [made]).save(tmp_path / folder) and Recording.load(tmp_path / folder)[0]

    assert kept(b"1", "x").revision == kept(b"1", "y").revision != kept(b"2", "z").revision
    assert "inputs" not in vars(kept(b"1", "x")), "no file was opened for it"


def metric(folder: Path, body: str) -> Metric:
    path = folder / "judge.py"
    path.write_text(f"def right(answer, label):\n    return {body}\n")
    spec = importlib.util.spec_from_file_location("judge", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Metric(module.right)


def test_another_label_or_another_metric_is_another_judgement(tmp_path: Path) -> None:
    def mark(*, answer: str = "so", body: str = "True") -> Mark:
        return marks_of([item(answer=answer)], metric(tmp_path, body))("a")

    first = mark()
    assert mark() == first
    assert mark(answer="thus").judged != first.judged != mark(body="False").judged
    assert mark(answer="thus").inputs == first.inputs
    assert metric(tmp_path, "1").revision
    assert Metric(len).revision == "", "it stands in no file"


# -- which are run ---------------------------------------------------------------------------------------------


def test_a_sample_repeats_itself_as_often_as_the_whole() -> None:
    """A hundred and twenty requests, each question asked twice: of twelve, six say what others say."""
    items = [item(str(number), made_of=str(number % 60)) for number in range(120)]
    chosen = sample(items, 12)
    assert len({each.id for each in chosen}) == 12
    assert len({each.made_of for each in chosen}) == 6


def test_one_question_for_all_is_one_in_the_sample() -> None:
    items = [item(str(number), made_of="same") for number in range(50)]
    chosen = sample(items, 12)
    assert len({each.id for each in chosen}) == 12


def test_where_nothing_repeats_it_is_spread_evenly() -> None:
    items = [item(str(number)) for number in range(50)]
    assert sample(items, 12) == evenly(items, 12)
    assert len(sample(items[:5], 12)) == 5
