"""Recorded choices under another policy: what is known, what is only foreseen, and what nobody can say."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.stages import wait
from kit.virtual import virtual
from tauten.errors import InputError, PlanError
from tauten.improve.routing import decisions_of, load, replayed, save
from tauten.run.contracts import Ask, Candidate, Outcome
from tauten.run.engine import Engine
from tauten.run.routing.decision import Decision

NEAR = Candidate("near", wait_s=0.5, first_s=0.1, total_s=1.0, cost_per_token=0.1, load=2.0)
FAR = Candidate("far", first_s=0.2, total_s=2.0, cost_per_token=1.0, local=False)


def decision(at: float = 0.0, **outcomes: Outcome) -> Decision:
    return Decision(
        step="choose",
        policy="latency",
        ask=Ask(at=at),
        candidates=(NEAR, FAR),
        order=tuple(outcomes),
        why="told",
        chosen=next(reversed(outcomes)),
        outcomes=outcomes,
    )


FAST = decision(far=Outcome(1.5, 0.3, tokens=10.0))


def test_a_choice_that_is_made_again_has_its_known_outcome() -> None:
    found = replayed([FAST] * 4, "hybrid", {"latency": 1.0, "cost": 0.0, "load": 5.0})
    assert (found.same, found.known, found.foreseen) == (4, 4, 0)
    assert found.recorded.p50_ms == found.replayed.p50_ms == pytest.approx(1500)
    assert found.replayed.chosen == {"far": 4}
    assert found.replayed.cents == pytest.approx(40)


def test_another_choice_has_what_was_foreseen_and_it_is_said() -> None:
    found = replayed([FAST] * 4, "cost")
    assert (found.same, found.known, found.foreseen) == (0, 0, 4)
    assert found.replayed.p50_ms == pytest.approx(1500)
    assert found.replayed.first_p50_ms == pytest.approx(600)
    assert found.replayed.cents == pytest.approx(4)  # as many tokens as were seen elsewhere
    assert "4 of 4 stand on what was foreseen" in found.notes[1]


def test_an_unknown_price_makes_the_sum_unknown() -> None:
    unknown = Decision(
        step="choose",
        policy="latency",
        ask=Ask(),
        candidates=(Candidate("near", total_s=1.0),),
        order=("near",),
        why="told",
        chosen="near",
        outcomes={"near": Outcome(1.0, tokens=10.0)},
    )
    assert replayed([FAST, unknown], "latency").replayed.cents is None


def cascaded(score: float, accepted: bool) -> Decision:
    outcomes = {"near": Outcome(0.4, score=score, accepted=accepted)}
    return decision(**outcomes, **({} if accepted else {"far": Outcome(2.0)}))


def test_a_cascade_is_replayed_at_another_threshold_where_scores_are_known() -> None:
    kept = [cascaded(0.9, True), cascaded(0.6, False), cascaded(0.2, False)]
    same = replayed(kept, "cascade", threshold=0.8)
    assert (same.same, same.known, same.unknown) == (3, 3, 0)
    looser = replayed(kept, "cascade", threshold=0.5)
    assert looser.replayed.chosen == {"near": 2, "far": 1}
    assert (looser.same, looser.known, looser.foreseen) == (2, 3, 0)
    stricter = replayed(kept, "cascade", threshold=0.95)
    assert stricter.replayed.chosen == {"far": 3}
    assert stricter.foreseen == 1  # what the large one would have said after the first is not known
    assert stricter.replayed.p95_ms == pytest.approx(2400)


def test_without_scores_a_judging_policy_says_nothing() -> None:
    found = replayed([FAST, cascaded(0.9, True)], "cascade", threshold=0.5)
    assert (found.unknown, found.known) == (1, 1)
    assert any("no score" in note for note in found.notes)


def test_a_request_that_left_is_left_out() -> None:
    gone = Decision(
        step="choose",
        policy="latency",
        ask=Ask(),
        candidates=(NEAR,),
        order=("near",),
        why="told",
        chosen="",
        outcomes={},
    )
    found = replayed([FAST, gone], "latency")
    assert found.decisions == 2
    assert found.known + found.foreseen == 1
    assert any("1 are left out" in note for note in found.notes)


def test_the_policy_learns_as_it_goes() -> None:
    """A place that turned out slow is left, though what was foreseen of it stays good."""
    slow = [decision(at=float(step), near=Outcome(9.0)) for step in range(20)]
    found = replayed(slow, "latency")
    assert found.replayed.chosen["far"] > 10


def test_decisions_survive_a_file(tmp_path: Path) -> None:
    kept = [FAST, cascaded(0.6, False)]
    save(tmp_path / "a.routes", kept)
    again = load(tmp_path / "a.routes")
    assert again == kept
    assert again[0].ask.left_s == math.inf


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.routes"
    with pytest.raises(InputError, match="E293"):
        load(path)
    save(path, [FAST, FAST])
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:2]))
    with pytest.raises(InputError, match="its header says 2"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="E293"):
        load(path)


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match="no decisions"):
        replayed([], "latency")
    with pytest.raises(PlanError, match="no setting"):
        replayed([FAST], "latency", {"decay": 1.0})


def test_decisions_come_from_traces_in_the_order_in_which_they_were_made() -> None:
    @tt.workflow
    def twice(question: str) -> str:
        first = tt.choose(
            wait(question, name="a"), wait(question, s=0.1, name="b"), policy="latency", name="one"
        )
        return tt.choose(wait(first, name="c"), wait(first, s=0.1, name="d"), policy="usage", name="two")  # type: ignore[no-any-return]

    async def body(engine: Engine) -> list[Any]:
        await engine.open(twice)
        return [(await engine.run(twice.bind("q"))).trace for _ in range(3)]

    found = decisions_of(virtual(body))
    assert [each.step for each in found] == ["one", "two"] * 3
    assert [each.ask.at for each in found] == sorted(each.ask.at for each in found)
    assert replayed(found[::2], "usage").decisions == 3
