"""Predictions wait for what comes of them, and are scored once, where the same was measured."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tauten.improve.whatif.awaited import AWAITED_FILE, Awaited, Foretold, Took, content_hash
from tauten.plan.plan import Plan, StagePlan

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
