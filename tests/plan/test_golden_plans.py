"""What the plans of the help desk lower to, as text: a change of lowering is seen here.

`TAUTEN_UPDATE_GOLDEN=1 pytest tests/plan/test_golden_plans.py` writes the files anew.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tauten.cli.main import run
from tauten.examples.help_desk import desk
from tauten.examples.help_desk.tour import HERE, differences, plans
from tauten.explain.planned import planned_text
from tauten.plan.lower import lower
from tauten.plan.plan import load_plan

GOLDEN = Path(__file__).with_name("golden")
PLANS = ("naive", "tuned")


def compared(name: str, text: str) -> None:
    path = GOLDEN / name
    text = normal(text)
    if os.environ.get("TAUTEN_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def normal(text: str) -> str:
    """Without the folders that lead to a file of this checkout."""
    return re.sub(r"[^\s\"']*/(?=[^/\s\"']+\.(?:md|py|toml)\b)", "", text)


@pytest.mark.parametrize("name", PLANS)
def test_what_would_run(name: str) -> None:
    assert desk.help_desk.graph is not None
    lowered = lower(desk.help_desk.graph, load_plan(HERE / f"{name}.toml"))
    compared(f"help_desk_{name}.explain.txt", planned_text("help_desk", lowered, {}))


@pytest.mark.parametrize("name", PLANS)
def test_what_is_in_force(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "show", "tauten.examples.help_desk.desk:help_desk", "--full"]
    assert run([*words, "--plan", str(HERE / f"{name}.toml")]) == 0
    compared(f"help_desk_{name}.full.txt", capsys.readouterr().out)


def test_a_change_of_a_plan_changes_its_text() -> None:
    assert desk.help_desk.graph is not None
    plan = load_plan(HERE / "tuned.toml").edit("classify", backend="onnx")
    text = planned_text("help_desk", lower(desk.help_desk.graph, plan), {})
    assert normal(text) != (GOLDEN / "help_desk_tuned.explain.txt").read_text()


def test_an_ablation_puts_a_stage_back_to_the_naive_plan() -> None:
    naive, tuned = plans()
    without = differences(naive, tuned)
    (label,) = (label for label in without if label.startswith("generate:"))
    assert without[label].stages["generate"].settings == naive.stages["generate"].settings
    assert "max_batched_tokens" in label  # a difference, though only the naive plan says it
