"""Predictions wait for what comes of them, and are scored once, where the same was measured."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from improve import kit_report
from tauten.improve.optimizer.outcome import Candidate
from tauten.improve.optimizer.record import Record
from tauten.improve.optimizer.search import Figures
from tauten.improve.whatif.awaited import AWAITED_FILE, Awaited, Foretold, Took, content_hash
from tauten.improve.whatif.scored import LEAST_REQUESTS, Loaded, settle_loads, settle_outcome
from tauten.plan.hardware import Hardware
from tauten.plan.plan import Plan, StagePlan, format_plan
from tauten.statistics import Interval

PLAN = Plan(stages={"a": StagePlan(threads=1)})
TOOK = {"x": Took(100.0, 50.0), "y": Took(200.0, 80.0), "z": Took(900.0, 700.0)}


def foretold(**changes: Any) -> Foretold:
    kept = {
        "workflow": "7c1e",
        "plan": content_hash(PLAN),
        "name": "naive@1234",
        "machine": "2 cores",
        "recording": "desk",
        "rate_per_s": 0.0,
        "items": ("x", "y"),
        "what": "p95_ms",
        "predicted": 180.0,
        "low": 150.0,
        "high": 210.0,
        "strategy": "overlap",
        "at": "2026-11-23",
    }
    return Foretold(**{**kept, **changes})  # type: ignore[arg-type]


UNDER = foretold().under


def test_what_was_measured_is_scored_once(tmp_path: Path) -> None:
    Awaited.load(tmp_path).add([foretold(), foretold(what="first_output_ms", predicted=90.0)])
    found = Awaited.load(tmp_path).settle(UNDER, TOOK)
    assert [(strategy, each.what, each.measured, each.of) for strategy, each in found] == [
        ("overlap", "p95_ms", 200.0, "naive@1234"),
        ("overlap", "first_output_ms", 80.0, "naive@1234"),
    ]
    assert Awaited.load(tmp_path).settle(UNDER, TOOK) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"workflow": "ffff"},
        {"plan": content_hash(Plan())},
        {"machine": "4 cores"},
        {"recording": "other"},
        {"rate_per_s": 1.0},
        {"items": ("x", "gone")},
    ],
)
def test_what_is_not_the_same_waits_on(changes: dict[str, Any]) -> None:
    awaited = Awaited(kept=[foretold(**changes)])
    assert awaited.settle(UNDER, TOOK) == []
    assert len(awaited.kept) == 1


AT_A_RATE = foretold(rate_per_s=2.0).under
FIGURES = {"p50_ms": 90.0, "p95_ms": 190.0, "first_output_ms": math.inf}


def test_a_load_at_the_rate_scores_what_was_said_of_it(tmp_path: Path) -> None:
    """Of all its requests: those of the prediction stand for the recording."""
    said = [
        foretold(rate_per_s=2.0),
        foretold(rate_per_s=2.0, what="first_output_ms"),
        foretold(rate_per_s=3.0),
    ]
    Awaited.load(tmp_path).add(said)
    [(strategy, scored)] = Awaited.load(tmp_path).settle_load(AT_A_RATE, FIGURES)
    assert (strategy, scored.predicted, scored.measured) == ("overlap", 180.0, 190.0)
    waits = Awaited.load(tmp_path).kept.values()
    assert sorted((each.rate_per_s, each.what) for each in waits) == [
        (2.0, "first_output_ms"),
        (3.0, "p95_ms"),
    ]
    assert Awaited.load(tmp_path).settle(AT_A_RATE, {}) == []


def loads(**changes: Any) -> Loaded:
    return Loaded(**{"plan": PLAN, "rate_per_s": 2.0, "figures": Figures(FIGURES), "requests": 40, **changes})


HERE = Hardware(2)


def settled(folder: Path, load: Loaded) -> list[tuple[str, float, float]]:
    Awaited.load(folder).add([foretold(rate_per_s=2.0, machine=str(HERE))])
    settle_loads(folder, HERE, "7c1e", "desk", [load])
    return [(row.what, row.predicted, row.measured) for row in Record.load(folder, HERE).ledger.rows]


def test_what_a_load_scored_is_in_the_ledger(tmp_path: Path) -> None:
    assert settled(tmp_path, loads()) == [("p95_ms", 180.0, 190.0)]
    assert Awaited.load(tmp_path).kept == {}


@pytest.mark.parametrize(
    "load",
    [
        loads(requests=LEAST_REQUESTS - 1),
        loads(figures=Figures(FIGURES, failed=0.01)),
        loads(rate_per_s=2.5),
        loads(plan=Plan()),
    ],
    ids=["few", "refusing", "another rate", "another plan"],
)
def test_a_load_that_says_nothing_of_it_scores_nothing(tmp_path: Path, load: Loaded) -> None:
    assert settled(tmp_path, load) == []
    assert len(Awaited.load(tmp_path).kept) == 1


def test_the_finals_of_an_optimisation_score_it_too(tmp_path: Path) -> None:
    Awaited.load(tmp_path).add([foretold(rate_per_s=2.0, machine=str(HERE))])
    chosen = Candidate(
        name="chosen",
        plan=format_plan(PLAN),
        simulated=Figures({}),
        measured=Figures(FIGURES),
        intervals={"p95_ms": Interval(150.0, 190.0, 220.0, 40)},
    )
    found = msgspec.structs.replace(kit_report.met(), rate_per_s=2.0, candidates=[chosen])
    settle_outcome(tmp_path, HERE, "7c1e", "desk", found)
    assert [row.measured for row in Record.load(tmp_path, HERE).ledger.rows] == [190.0]


def test_a_newer_prediction_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    awaited = Awaited.load(tmp_path)
    awaited.add([foretold(predicted=500.0)])
    awaited.add([foretold()])
    [(_, scored)] = Awaited.load(tmp_path).settle(UNDER, TOOK)
    assert scored.predicted == 180.0


def test_a_plan_is_the_same_whatever_it_is_called() -> None:
    assert content_hash(PLAN) == content_hash(Plan(name="other", graph="7c1e", stages=PLAN.stages))
    assert content_hash(PLAN) != content_hash(Plan())


def test_a_damaged_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / AWAITED_FILE).write_text("[{")
    assert Awaited.load(tmp_path).kept == {}
