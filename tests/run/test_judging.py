"""Shortcuts that are judged: what is drawn goes the whole way, scores that say nothing, gates that other processes move."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.virtual import answer, virtual
from tauten.run.engine import Engine
from tauten.run.gating import gates
from tauten.run.gating.gate import Labelled, Terms
from tauten.run.gating.gates import KeptGate
from tauten.run.gating.news import NEWS_S
from tauten.run.routing.scores import told
from tauten.run.trace import VISIT


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path))
    yield
    for path in [each for each in gates._open if tmp_path in each.parents]:
        gates._open.pop(path).flush()


@tt.stage(pure=True)
async def small(question: str) -> str:
    await asyncio.sleep(0.1)
    return f"small {question}"


@tt.stage(pure=True)
async def medium(question: str) -> str:
    await asyncio.sleep(0.3)
    return f"medium {question}"


@tt.stage(pure=True)
async def large(question: str) -> str:
    await asyncio.sleep(1.0)
    return f"large {question}"


def sure(text: Any) -> float:
    return 0.9 if "easy" in str(text) else 0.1


def silent(text: Any) -> None:
    """Says of no answer how sure it is."""


def alike(one: Any, other: Any) -> bool:
    return "wrong" not in str(one)


@tt.workflow
def three(question: str) -> str:
    return tt.choose(  # type: ignore[no-any-return]
        tt.option(small(question), score=sure),
        tt.option(medium(question), score=sure),
        large(question),
        policy="cascade",
        risk_gate="desk",
        same=alike,
    )


@tt.workflow
def mute(question: str) -> str:
    return tt.choose(  # type: ignore[no-any-return]
        tt.option(small(question), score=silent),
        large(question),
        policy="cascade",
        risk_gate="desk",
        same=alike,
    )


def proved(floor: float) -> KeptGate:
    """A gate that lets scores above 0.5 pass."""
    gate = gates.open_gate("desk", Terms(epsilon=0.05, floor=floor))
    gate.certify([Labelled(0.9, True)] * 200, thresholds=[0.5])
    gate.flush()
    return gate


def visited(trace: Any) -> set[str]:
    return {step for step, cause, *_ in trace.rows if cause == VISIT}


def test_a_shortcut_that_is_drawn_goes_the_full_way_whoever_stands_between() -> None:
    gate = proved(floor=0.2)  # half of them are drawn: all are as close to the threshold

    async def body(engine: Engine) -> list[Any]:
        await engine.open(three)
        return [await engine.run(three.bind("easy")) for _ in range(40)]

    answers = virtual(body)
    given = [str(each.value) for each in answers]
    assert set(given) == {"small easy", "large easy"}
    [verdict] = gate.verdicts()
    assert verdict.verified == given.count("large easy") > 10
    assert sum(gate.taken.values()) == given.count("small easy") > 10
    assert not any("medium" in visited(each.trace) for each in answers)
    drawn = next(each.trace for each in answers if str(each.value) == "large easy")
    assert drawn.notes["choose"] == "cascade: option 3 of 3, small is verified: drawn by lot"


def test_who_does_not_stand_is_followed_by_the_next_larger_one() -> None:
    @tt.workflow
    def unsure(question: str) -> str:
        return tt.choose(  # type: ignore[no-any-return]
            tt.option(small(question), score=lambda text: 0.1),
            tt.option(medium(question), score=sure),
            large(question),
            policy="cascade",
            risk_gate="desk",
            same=alike,
        )

    proved(floor=1e-9)
    assert str(answer(unsure, "easy").value) == "medium easy"
    assert str(answer(unsure, "hard").value) == "large hard"


def test_a_gate_that_learned_from_answers_without_a_score_can_be_read_again() -> None:
    gate = gates.open_gate("desk")
    assert str(answer(mute, "q").value) == "large q"
    gate.flush()
    assert KeptGate(gate.path, None).learned == 0


def test_who_is_surer_than_any_number_is_as_sure_as_can_be() -> None:
    assert 1e300 < told("choose", math.inf).score < math.inf
    assert told("choose", None).score == -math.inf


def test_a_choice_hears_within_seconds_what_another_process_closed_or_proved() -> None:
    elsewhere = KeptGate(proved(floor=1e-9).path, None)

    def close() -> None:
        elsewhere.forget()
        elsewhere.flush()

    def certify() -> None:
        elsewhere.certify([Labelled(0.9, True)] * 200, thresholds=[0.5])
        elsewhere.flush()

    async def body(engine: Engine) -> list[str]:
        await engine.open(three)
        given = [str((await engine.run(three.bind("easy"))).value)]
        for news in (close, certify):
            news()
            await asyncio.sleep(NEWS_S)
            given.append(str((await engine.run(three.bind("easy"))).value))
        return given

    assert virtual(body) == ["small easy", "large easy", "small easy"]


def test_a_gate_whose_file_cannot_be_read_any_more_goes_by_what_it_knows() -> None:
    gate = proved(floor=1e-9)

    async def body(engine: Engine) -> list[str]:
        await engine.open(three)
        gate.path.write_bytes(b"not JSON, and longer than nothing")
        return [str((await engine.run(three.bind("easy"))).value) for _ in range(2)]

    assert virtual(body) == ["small easy", "small easy"]
