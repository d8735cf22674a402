"""Answers of a search are kept when asked, as they were judged, up to a bound, and named by the evidence."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from improve.kit_labels import served
from tauten.describe.payload import Image, Text
from tauten.errors import Overloaded
from tauten.improve.labels.answers import Answers, paired
from tauten.improve.labels.keeper import Keeper, folder_of
from tauten.improve.optimizer.gate import Gate
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.testbed import Scored
from tauten.improve.quality import Evidence, compare, evidence_path
from tauten.improve.quality import scored as kept_scores
from tauten.plan.plan import Plan

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
OTHER = b"\x89PNG\r\n\x1a\n" + bytes(63) + b"\x01"


def told(keeper: Keeper, word: str, count: int = 4) -> dict[str, Any]:
    return {f"q{n}": keeper.told(served(f"q{n}", Text(f"{word} {n}"), Image(PNG))) for n in range(count)}


def evidence(old: dict[str, Any], new: dict[str, Any]) -> Evidence:
    scores = dict.fromkeys(old, True)
    hashes = {id: tuple("" if each is None else each.content for each in (old[id], new[id])) for id in old}
    return Evidence(
        metric="right",
        confidence=0.95,
        items=kept_scores(scores, scores, hashes=hashes),  # type: ignore[arg-type]
        verdict=compare(scores, scores, 0.1),
        plan_before="naive@1",
        plan_after="optimized@2",
    )


def test_evidence_names_the_answers_that_were_judged(tmp_path: Path) -> None:
    plan = tmp_path / "tuned.plan.toml"
    keeper = Keeper(folder_of(plan))
    old, new = told(keeper, "old"), told(keeper, "new")
    keeper.told(served("q9", Image(OTHER)))  # of a candidate that was not taken
    found = keeper.beside(evidence(old, new), evidence_path(plan), (old, new), "asked")
    path = found.save(evidence_path(plan))
    assert found.answers_after == f"{folder_of(plan).name}/after.jsonl"
    after = Answers.load(path)  # which checks that these are the answers that were judged
    before = Answers.load(path.parent / found.answers_before)
    first, *_ = paired(before, after).values()
    assert [each.text for each in first] == ["old 0", "new 0"]
    assert (before.plan, after.plan, after.recording) == ("naive@1", "optimized@2", "asked")
    assert after.medium(after.by_item["q1"]).data == PNG
    assert len(list((keeper.folder / "media").iterdir())) == 1  # nobody tells of the other any more


def test_an_answer_that_was_changed_later_is_not_taken_for_the_judged_one(tmp_path: Path) -> None:
    plan = tmp_path / "tuned.toml"
    keeper = Keeper(folder_of(plan))
    old, new = told(keeper, "old"), told(keeper, "new")
    path = keeper.beside(evidence(old, new), evidence_path(plan), (old, new), "").save(evidence_path(plan))
    after = keeper.folder / "after.jsonl"
    after.write_text(after.read_text().replace("new 2", "nice 2"))
    with pytest.raises(Exception, match="does not hold the answer to q2 that was judged"):
        Answers.load(path)


def test_beyond_the_bound_none_are_kept(tmp_path: Path) -> None:
    plan = tmp_path / "tuned.toml"
    keeper = Keeper(folder_of(plan), most_bytes=3 * (len(PNG) + 5))
    old, new = told(keeper, "old"), told(keeper, "new")
    assert sum(each is not None for each in [*old.values(), *new.values()]) == 3
    assert keeper.told(served("short", Text("a"))) is None, (
        "full is full: what is kept is no choice by length"
    )
    found = keeper.beside(evidence(old, new), evidence_path(plan), (old, new), "")
    assert (found.answers_before, found.answers_after) == ("", "")
    assert not keeper.folder.exists()


def test_forgetting_leaves_what_others_put_there(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "tuned.answers")
    keeper.forget()  # nothing was ever kept
    told(keeper, "old")
    (keeper.folder / "mine.txt").write_text("a note")
    keeper.forget()
    assert [path.name for path in keeper.folder.iterdir()] == ["mine.txt"]


def test_a_failed_request_is_kept_as_its_error(tmp_path: Path) -> None:
    answer = Keeper(tmp_path / "x.answers").told(
        served("q", Text("half"), error=Overloaded("full", help="later"))
    )
    assert answer is not None
    assert (answer.error, answer.text) == ("E402", "")


class Judging:
    """Keeps what it is asked, and answers it."""

    def __init__(self, keeper: Keeper | None) -> None:
        self.keeper = keeper
        self.judged: list[str] = []

    def alike(self, before: Plan, after: Plan, ids: Any) -> dict[str, bool]:
        return {}

    def scores(self, plan: Plan, ids: Any) -> dict[str, Scored]:
        self.judged += ids
        found = {}
        for id in ids:
            answer = None if self.keeper is None else self.keeper.told(served(id, Text(f"{plan.name} {id}")))
            found[id] = Scored(1.0, "" if answer is None else answer.content, answer)
        return found


def remembered(path: Path, testbed: Judging, answers: str) -> Any:
    from improve.kit_testbed import desk

    assert desk.graph is not None
    return Remembered(testbed, Journal(path), desk.graph, answers)  # type: ignore[arg-type]


def test_a_search_that_goes_on_knows_the_answers_too(tmp_path: Path) -> None:
    path, keeper = tmp_path / "search.jsonl", Keeper(tmp_path / "x.answers")
    ids, before = ["a", "b"], Plan(name="before")
    first = remembered(path, Judging(None), "").scores(before, ids)
    assert [each.told for each in first.values()] == [None, None]
    keeping = Judging(keeper)
    kept = remembered(path, keeping, "x").scores(before, ids)
    assert keeping.judged == ids, "what was judged without its answer is judged again"
    again = Judging(keeper)
    assert remembered(path, again, "x").scores(before, ids) == kept
    assert again.judged == []
    assert kept["a"].told is not None
    assert kept["a"].told.text == "before a"


def test_the_gate_hands_on_what_was_confirmed(tmp_path: Path) -> None:
    ids = [f"item {number}" for number in range(40)]
    keeper = Keeper(tmp_path / "x.answers")
    gate = Gate(Judging(keeper), ids, 0.5)  # type: ignore[arg-type]
    before, after = Plan(name="before"), Plan(name="after")
    gate.before = before
    found = gate.proven(before, [after]).evidence
    assert found is not None
    assert found.verdict.decision == "accept"
    old, new = gate.told
    assert set(old) == set(new) == set(found.items)
    named = keeper.beside(found, tmp_path / "x.evidence.json", gate.told, "")
    assert named.answers_before == "x.answers/before.jsonl"
    assert msgspec.structs.replace(named, answers_before="", answers_after="") == found
