"""The testbed of this machine tells what models hold and move: from what it has measured anyway, else measured once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from improve.kit_testbed import ITEMS, NAIVE, desk
from tauten.improve.measuring import graphs
from tauten.improve.measuring.profile import Opening, Profile
from tauten.improve.optimizer import live
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.simulate.costs import STILL, Moving
from tauten.plan.hardware import Hardware
from tauten.plan.peaks import Bandwidth, MatrixRate, Peaks
from tauten.plan.plan import ModelChoice, Plan
from tauten.run.contracts import ModelSpec

CHOICE = ModelChoice(model="product", backend="onnx", threads=1, options={"unbatched": True})
PEAKS = Peaks(Hardware(2), (MatrixRate("onnx", "f32", 1, 1e9),), (Bandwidth("memory", 1, 1e6),))


class Files(LiveTestbed):
    """One whose model is a product in a file, whatever the step."""

    def _choice(self, plan: Plan, step: str, role: str) -> ModelChoice:
        return CHOICE

    def _given(self, plan: Plan, step: str, role: str, items: Any) -> list[Any]:
        return [{"x": np.ones((16, 16), np.float32)}]


@pytest.fixture
def product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The model's file; the list grows by each time that a process would have been opened for its memory."""
    path = graphs.product(tmp_path, 16)
    opened: list[str] = []

    async def files(choice: ModelChoice) -> Mapping[str, Path]:
        return {"model.onnx": path}

    async def memory(choice: ModelChoice, files: Any, items: Any, *, how: Any) -> Any:
        opened.append(choice.model)
        return ((1, 7_000),)

    monkeypatch.setattr(live, "_files", files)
    monkeypatch.setattr(live, "measured_memory", memory)
    return opened


def test_what_holds_no_weights_here_takes_no_memory() -> None:
    testbed = LiveTestbed(desk, [], peaks=PEAKS)
    assert testbed.held(NAIVE, "hear", "model", ITEMS) == ((1, 0),)
    assert testbed.moving(NAIVE, "hear", "model", ITEMS) == STILL


def test_memory_is_measured_once_for_all_numbers_of_threads(product: list[str]) -> None:
    testbed = Files(desk, [])
    for _ in range(2):
        assert testbed.held(NAIVE, "hear", "model", ITEMS) == ((1, 7_000),)
    assert product == ["product"]


def test_what_was_seen_while_runs_were_measured_is_not_measured_again(product: list[str]) -> None:
    testbed = Files(desk, [])
    seen = testbed._how(CHOICE).seen
    assert seen is not None
    seen(Profile("onnx", ModelSpec("product"), openings=[Opening(1, 0.5, 9_000)]))
    assert testbed.held(NAIVE, "hear", "model", ITEMS) == ((1, 9_000),)
    assert product == []


def test_bytes_are_counted_where_the_machine_is_known(product: list[str]) -> None:
    assert desk.graph is not None
    journal = Journal()
    unknown = Remembered(Files(desk, []), journal, desk.graph)
    assert unknown.moving(NAIVE, "hear", "model", ITEMS) == STILL
    assert journal.known == {}, "the machine may be known the next time"
    known = Remembered(Files(desk, [], peaks=PEAKS), journal, desk.graph)
    moved = 16 * 16 * 4 * 3
    assert known.moving(NAIVE, "hear", "model", ITEMS) == Moving(256.0, pytest.approx(moved / 1e6))
    assert unknown.moving(NAIVE, "hear", "model", ITEMS).seconds == pytest.approx(moved / 1e6)
    assert product == []
