"""A change is judged by the part that it changes: whole are run only the requests in which it shows."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import tauten as tt
from improve.test_gate import AFTER, BEFORE, ITEMS, Judging, gate, proof
from tauten.describe.payload import Text
from tauten.describe.stage import Context, Role, stage
from tauten.describe.turn import Turn
from tauten.improve.labels.keeper import Keeper
from tauten.improve.optimizer.cutout import cutout
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.optimizer.testbed import ALIKE
from tauten.improve.quality import Evidence, Metric
from tauten.improve.recording import Item, Label
from tauten.plan.plan import Plan

worked: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    worked.clear()
    yield
    worked.clear()


@tt.stage(pure=True)
def heard(spoken: Text) -> Text:
    worked["heard"] += 1
    return spoken


@tt.stage(pure=True, turns=(Turn("reduce", {"rows": 1}, "lossy", "reads less"),))
def read(shot: Text | None, *, rows: int = 3) -> Text:
    worked["read"] += 1
    if shot is not None and shot.text == "torn":
        raise ValueError("nobody can read that")
    return Text(" ".join(shot.text.split()[-rows:]) if shot else "")


@tt.stage(pure=True)
def error(page: Text) -> Text:
    """The last word that names an error; what else was read shows no more behind it."""
    worked["error"] += 1
    found = [word for word in page.text.split() if word.endswith("Error")]
    return Text(found[-1] if found else "none")


@stage(roles={"model": Role("m", ("synthetic",))}, effects="pure")
async def answered(question: Text, seen: Text, ctx: Context) -> Text:
    worked["answered"] += 1
    return Text(f"{question.text} {seen.text}")


@tt.workflow
def desk(spoken: Text, shot: Text | None = None) -> Text:
    return answered(heard(spoken), error(read(shot)))


SHORT = Plan().edit("read", settings={"rows": 1})
GIVEN = {
    "same": {"spoken": Text("why"), "shot": Text("line TypeError")},
    "other": {"spoken": Text("why"), "shot": Text("KeyError line")},
    "bare": {"spoken": Text("why")},
}
RECORDED = [Item(id=id, render=lambda inputs=inputs: dict(inputs)) for id, inputs in GIVEN.items()]


def right(answer: Text, label: Label) -> bool:
    return "none" not in answer.text


def live(**fields: Any) -> LiveTestbed:
    return LiveTestbed(desk, RECORDED, Metric(right), **fields)


# -- the part ------------------------------------------------------------------------------------------------


def test_the_part_is_what_was_changed_what_follows_without_a_model_and_all_before() -> None:
    part = cutout(desk, Plan(), SHORT.edit("heard", beside=("read",)))
    assert part is not None
    assert part.stages == {"heard", "read", "error"}
    part = cutout(desk, Plan(), SHORT.edit("answered", beside=("heard",)))
    assert part is not None
    assert part.stages == {"heard", "read", "error", "answered"}
    part = cutout(desk, Plan(), SHORT)
    assert part is not None
    assert part.stages == {"read", "error"}
    assert part.plan(SHORT.edit("read", beside=("heard",)).edit("heard", why="told")).stages.keys() == {
        "read"
    }
    assert part.plan(SHORT.edit("read", beside=("heard",))).stage("read").beside == ()


def test_two_plans_that_do_the_same_have_no_part() -> None:
    assert cutout(desk, SHORT, SHORT) is None


@tt.stage
def sent(words: Text) -> Text:
    return words


@tt.stage(pure=True)
async def told(words: Text) -> tt.Stream[Text]:
    yield words


@tt.workflow
def flows(words: Text) -> tt.Stream[Text]:
    return told(sent(heard(words)))


@tt.workflow
def chosen(words: Text) -> Text | None:
    return tt.when(heard(words), error(words))


@pytest.mark.parametrize(
    ("workflow", "changed", "stages"),
    [
        (flows, "heard", {"heard"}),  # what has effects, and what streams, is not run in vain
        (flows, "sent", None),
        (flows, "told", None),
        (chosen, "heard", {"heard"}),
        (chosen, "error", {"error"}),
    ],
)
def test_only_what_may_be_run_by_itself_is_cut_out(
    workflow: Any, changed: str, stages: set[str] | None
) -> None:
    part = cutout(workflow, Plan(), Plan().edit(changed, why="", threads=1))
    assert (None if part is None else part.stages) == stages


# -- what it gives -------------------------------------------------------------------------------------------


def test_what_goes_on_into_the_rest_is_compared() -> None:
    testbed = live()
    assert testbed.alike(Plan(), SHORT, list(GIVEN)) == {"same": True, "other": False, "bare": True}
    assert worked["answered"] == worked["heard"] == 0
    assert worked["read"] == 2 * len(GIVEN)
    assert testbed.alike(Plan(), SHORT, ["other"]) == {"other": False}
    assert worked["read"] == 2 * len(GIVEN)  # it is known


def test_two_parts_of_plans_that_say_the_same_of_them_are_two() -> None:
    """Of a plan that says nothing both parts have the same settings: none."""
    testbed = live()
    testbed.alike(Plan(), SHORT, ["same"])
    beside = Plan().edit("heard", threads=1)
    assert testbed.alike(Plan(), beside, ["same"]) == {"same": True}
    assert worked["heard"] == 1  # the second time it gives what it gave


def test_who_keeps_answers_has_all_of_them_run(tmp_path: Path) -> None:
    assert live(keeper=Keeper(tmp_path)).alike(Plan(), SHORT, list(GIVEN)) == {}
    assert not worked


def test_a_request_that_fails_there_is_run_whole() -> None:
    broken = Item(id="broken", render=lambda: {"spoken": Text("why"), "shot": Text("torn")})
    testbed = LiveTestbed(desk, [broken], Metric(right))
    assert testbed.alike(Plan(), SHORT, ["broken"]) == {"broken": False}


def test_a_journal_remembers_what_was_told() -> None:
    assert desk.graph is not None
    journal, testbed = Journal(None), live()
    remembered = Remembered(cast(Any, testbed), journal, desk.graph)
    first = remembered.alike(Plan(), SHORT, ["same", "other"])
    before = worked["read"]
    again = Remembered(cast(Any, live()), journal, desk.graph)
    assert again.alike(Plan(), SHORT, ["same", "other"]) == first == {"same": True, "other": False}
    assert worked["read"] == before


# -- the gate ------------------------------------------------------------------------------------------------


class Seeing(Judging):
    """Knows of most items that a change does not show in them; a hundredth of a second each."""

    def __init__(self, shows: Sequence[str], wrong: Sequence[str] = ()) -> None:
        super().__init__(wrong)
        self.shows = set(shows)

    def alike(self, before: Plan, after: Plan, ids: Sequence[str]) -> dict[str, bool]:
        self.now_s += 0.01 * len(ids)
        return {id: id not in self.shows for id in ids}


def test_only_those_in_which_it_shows_are_run_and_all_count(tmp_path: Path) -> None:
    confirmation = gate(Seeing([])).halves.confirmation
    testbed = Seeing(confirmation[:7])
    seen = gate(testbed)
    found, evidence = proof(seen)
    assert found.changes == 1
    assert (evidence.verdict.decision, evidence.verdict.n) == ("accept", len(confirmation))
    assert testbed.judged == {BEFORE.content: 7, AFTER.content: 7}
    assert sum(each.alike for each in evidence.items.values()) == len(confirmation) - 7
    assert evidence.means == (None, None)  # of those in which it shows they would say nothing of all
    assert Evidence.load(evidence.save(tmp_path / "plan.evidence.json")).items == evidence.items


def test_one_in_which_it_shows_and_that_is_lost_counts_as_ever() -> None:
    confirmation = gate(Seeing([])).halves.confirmation
    found = gate(Seeing(confirmation[:7], wrong=confirmation[3:4])).proven(BEFORE, [AFTER])
    assert found.changes == 0
    assert "cannot conclude" in found.why


def test_how_long_a_proof_takes_is_foreseen_by_what_looking_took() -> None:
    testbed = Seeing(ITEMS[::4])
    seen = gate(testbed)
    seen.allowed_loss = 0.05
    looked = seen.halves.selection[:40]
    seen._judged(BEFORE, AFTER, looked)
    shown = sum(id in testbed.shows for id in looked) / len(looked)
    each_s = 0.01 + shown * (1.0 + 0.1)
    assert seen.confirmation_s(1) == pytest.approx(59 * each_s, rel=1e-6)


def test_what_stands_for_a_score_is_no_flip() -> None:
    assert ALIKE.score == 1.0
