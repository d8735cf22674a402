"""`tauten route`: record, replay, and how gates stand."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tauten.cli.main import run
from tauten.improve.recording import Item, Recording
from tauten.run.gating import gates
from tauten.run.gating.gate import Labelled, Terms

DESK = """
import asyncio
import tauten as tt

@tt.stage(pure=True)
async def small(question: str) -> str:
    return f"small {question}"

@tt.stage(pure=True)
async def large(question: str) -> str:
    await asyncio.sleep(0.001)
    return f"large {question}"

@tt.workflow
def desk(question: str) -> str:
    return tt.choose(
        tt.option(small(question), cents_per_token=0.1), tt.option(large(question), cents_per_token=1.0), POLICY
    )
"""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))
    yield
    for path in [each for each in gates._open if tmp_path in each.parents]:
        gates._open.pop(path).flush()


def desk(tmp_path: Path, policy: str = 'policy="latency"') -> tuple[str, str]:
    """A workflow's target, and a recording of three requests."""
    from tauten.describe.payload import Text

    file = tmp_path / "route_desk.py"
    file.write_text(DESK.replace("POLICY", policy))
    items = [Item(id=str(each), render=lambda each=each: {"question": Text(f"q{each}")}) for each in range(3)]
    Recording("three", items).save(tmp_path / "three.rec")
    return str(file), str(tmp_path / "three.rec")


def test_decisions_are_recorded_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, recording = desk(tmp_path)
    out = str(tmp_path / "desk.routes")
    assert run(["route", "record", target, "--recording", recording, "--out", out]) == 0
    assert "3 decisions of 3 requests" in capsys.readouterr().out
    assert run(["route", "replay", out, "--policy", "cost", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["decisions"]) == ("tauten.route.replay/1", 3)
    assert found["replayed"]["chosen"] == {"small": 3}
    assert run(["route", "replay", out, "--policy", "latency", "--set", "decay_s=2.5"]) == 0
    shown = capsys.readouterr().out
    assert "3 decisions" in shown
    assert "waits and loads are those of the recorded traffic" in shown


def test_a_workflow_without_a_policy_has_nothing_to_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, recording = desk(tmp_path, "")
    assert run(["route", "record", target, "--recording", recording, "--out", str(tmp_path / "x")]) == 2
    assert "E293" in capsys.readouterr().err


def test_bad_settings_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, recording = desk(tmp_path)
    out = str(tmp_path / "desk.routes")
    run(["route", "record", target, "--recording", recording, "--out", out])
    assert run(["route", "replay", out, "--policy", "cost", "--set", "most=much"]) == 2
    assert run(["route", "replay", out, "--policy", "coast"]) == 2
    assert run(["route", "replay", out, "--policy", "cost", "--set", "least=1"]) == 2
    said = capsys.readouterr().err
    assert "E260" in said
    assert "did you mean `cost`" in said
    assert "E140" in said


def test_gates_are_listed_and_certified(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["route", "gates"]) == 0
    assert "no gate yet" in capsys.readouterr().err
    assert run(["route", "certify", "desk"]) == 2
    gate = gates.open_gate("desk", Terms(epsilon=0.05))
    for _ in range(20):
        gate.observe(0.9, True)
    gate.flush()
    assert run(["route", "gates"]) == 0
    assert "20 labelled items of 59 or more" in capsys.readouterr().out
    assert run(["route", "certify", "desk"]) == 4
    gate.forget()
    for _ in range(200):
        gate.observe(0.9, True)
    capsys.readouterr()
    assert run(["route", "certify", "desk", "--json"]) == 0
    [verdict] = json.loads(capsys.readouterr().out)["verdicts"]
    assert verdict["open"]
    assert run(["route", "gates", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gates"]["desk"][0]["open"]


def test_who_comes_second_with_a_certificate_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = gates.open_gate("desk", Terms(epsilon=0.05))
    for _ in range(200):
        gate.observe(0.9, True)
    gate.flush()
    certify = gates.KeptGate.certify

    def second(gate: gates.KeptGate) -> object:
        other = gates.KeptGate(gate.path, None)
        certify(other, [Labelled(0.9, True)] * 300, thresholds=[0.5])
        other.flush()
        return certify(gate)

    monkeypatch.setattr(gates.KeptGate, "certify", second)
    assert run(["route", "certify", "desk"]) == 2
    assert "by another process meanwhile" in capsys.readouterr().err
    run(["route", "gates"])
    assert "open from 0.5: 0 wrong of 300" in capsys.readouterr().out


def test_a_certificate_says_what_was_proved(capsys: pytest.CaptureFixture[str]) -> None:
    gate = gates.open_gate("search", Terms(epsilon=0.02))
    gate.certify([Labelled(0.9, True)] * 300, thresholds=[0.5])
    gate.flush()
    run(["route", "gates"])
    assert "open from 0.5: 0 wrong of 300, at most 1.0% with 95.0% confidence" in capsys.readouterr().out
