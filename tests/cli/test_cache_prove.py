"""`tauten cache prove`: which stage, which pairs, what it says, and that a server opens by it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.likeness import Letters, forget_gates, without_model
from tauten.cli.main import run
from tauten.plan.plan import SemanticPlan
from tauten.run.caching.semantic import embedding
from tauten.run.caching.semantic.opening import gate_of

FLOW = """
import tauten as tt

@tt.stage(pure=True)
async def reply(question: tt.Text) -> str:
    return question.text

@tt.stage(pure=True)
async def title(question: tt.Text) -> str:
    return question.text

@tt.workflow
def desk(question: tt.Text) -> str:
    return title(reply(question))
"""
RULES = "epsilon = 0.1, confidence = 0.9"
CACHE = f'cache = {{ tiers = ["memory", "semantic"], semantic = {{ {RULES} }} }}'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "prove_flow.py").write_text(FLOW)
    (tmp_path / "plan.toml").write_text(f'tauten = "plan/1"\n[stage.reply]\n{CACHE}\n')
    monkeypatch.setattr(embedding, "Embedding", Letters)
    with without_model(monkeypatch, tmp_path):
        yield tmp_path
    sys.modules.pop("prove_flow", None)


def pairs(folder: Path, count: int = 60) -> str:
    lines = [
        {
            "kept": f"How do I reset my password {number}?",
            "asked": f"How can I reset my password {number}?",
            "same": True,
            "split": "dev" if number % 2 else "held_out",
        }
        for number in range(count)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder / "pairs.jsonl")


def asked(folder: Path, *more: str, count: int = 60) -> list[str]:
    target, plan = f"{folder / 'prove_flow.py'}:desk", str(folder / "plan.toml")
    return ["cache", "prove", target, "--plan", plan, "--pairs", pairs(folder, count), *more]


def test_pairs_open_the_gate_that_the_plan_asks_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(asked(folder, "--json")) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (said["gate"], said["stage"]) == ("desk.reply", "reply")
    assert (said["proved"]["hits"], said["proved"]["wrong"]) == (30, 0)
    forget_gates(folder)  # as a server that begins now
    assert gate_of("desk", "reply", SemanticPlan(epsilon=0.1, confidence=0.9)).opens()
    assert not gate_of("desk", "title", SemanticPlan(epsilon=0.1, confidence=0.9)).opens()


def test_it_says_what_was_proved_and_stats_show_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(asked(folder)) == 0
    out = capsys.readouterr().out
    assert "30 of these would be hits, 0 wrong" in out
    assert "open from" in out
    assert run(["cache", "stats"]) == 0
    assert "gate desk.reply  *: open from" in capsys.readouterr().out


def test_the_pairs_of_a_tenant_open_the_gate_for_it(folder: Path) -> None:
    assert run(asked(folder, "--tenant", "acme")) == 0
    gate = gate_of("desk", "reply", SemanticPlan(epsilon=0.1, confidence=0.9))
    assert gate.opens("acme")
    assert not gate.opens()


def test_too_few_pairs_and_a_second_try_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(asked(folder, count=20)) == 2
    assert "E292" in capsys.readouterr().err
    assert run(asked(folder)) == 0
    assert run(asked(folder)) == 2
    assert "tries" in capsys.readouterr().err
    assert run(asked(folder, "--again")) == 0


def test_a_plan_must_say_which_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(asked(folder, "--stage", "title")) == 2
    assert "E260" in capsys.readouterr().err
    plan = folder / "plan.toml"
    plan.write_text(f'tauten = "plan/1"\n[stage.reply]\n{CACHE}\n[stage.title]\n{CACHE}\n')
    assert run(asked(folder)) == 2
    assert "2 stages" in capsys.readouterr().err
    assert run(asked(folder, "--stage", "title")) == 0


def test_example_pairs_are_known_by_their_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = asked(folder)
    given[given.index("--pairs") + 1] = "paraphrases"
    assert run([*given, "--json"]) in (0, 4)
    assert json.loads(capsys.readouterr().out)["proved"]["pairs"] >= 320
