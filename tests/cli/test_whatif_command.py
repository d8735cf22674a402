"""`tauten explain --what-if`: what would help, in every form; predictions are kept and scored by the next run."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli.kit_cli import plan, written
from tauten.cli.main import run
from tauten.describe.payload import Text
from tauten.explain.whatif import WhatIf
from tauten.improve.recording import Item, Recording
from tauten.plan.plan import parse_plan

WAITING = """
import asyncio
import tauten as tt

@tt.stage(pure=True)
async def upper(text: tt.Text) -> tt.Text:
    await asyncio.sleep(0.006)
    return tt.Text(text.text.upper())

@tt.stage(pure=True)
async def twice(text: tt.Text) -> tt.Text:
    await asyncio.sleep(0.009)
    return tt.Text(text.text * 2)

@tt.stage(pure=True)
async def words(a: tt.Text, b: tt.Text) -> tt.Text:
    return tt.Text(a.text + b.text)

@tt.workflow(slo=tt.Slo(p95_ms=5000))
def talk(text: tt.Text) -> tt.Text:
    return words(upper(text), twice(text))
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    return written(tmp_path, "waiting.py", WAITING)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    def item(word: str) -> Item:
        return Item(id=word, render=lambda: {"text": Text(word)})

    return Recording("words", [item("a"), item("bb")]).save(tmp_path / "words")


def test_what_would_help_is_simulated(waiting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(waiting), "text=hi", "--what-if"]) == 0
    shown = capsys.readouterr().out
    assert "What would help (simulated on the given inputs; nothing has been changed)" in shown
    assert "overlap: all that can be side by side" in shown
    assert "same bytes" in shown
    assert "What each step is worth" in shown
    assert all(len(line) <= 96 for line in shown.splitlines())
    assert run(["explain", str(waiting), "text=hi", "--what-if", "--all"]) == 0
    assert "Not tried" in capsys.readouterr().out


def test_the_document_holds_every_change_and_plans_to_try(
    waiting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = ["explain", str(waiting), "text=hi", "--what-if", "--slo", "p50<60ms"]
    assert run([*words, "--json", "--html", str(page)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "tauten.whatif/1"
    assert (told["rate_per_s"], told["requests"], told["schedules"]) == (0.0, 1, 5)
    best = next(each for each in told["changes"] if each.get("place") == 1)
    assert best["steps"] == ["upper", "twice"]
    assert best["moves"]["p50_ms"]["high"] < 0.0
    assert parse_plan(best["plan"]).stage("upper").beside == ("twice",)
    assert {each["step"] for each in told["steps"]} >= {"upper", "twice"}
    html = page.read_text()
    assert "What would help" in html
    assert "<script" not in html
    assert "http://" not in html.replace("http://www.w3.org/", "")


def test_predictions_are_scored_by_the_next_run_of_the_plan(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--recording", str(recorded)]
    assert run(["explain", str(waiting), "--what-if", *given]) == 0
    assert "no prediction was measured yet" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert run(["explain", str(waiting), "--analyze", *given, "--html", str(page)]) == 0
    assert "3 predictions were measured" in page.read_text()
    beside = plan(tmp_path, "[stage.upper]\nbeside = ['twice']", "beside.toml")
    assert run(["explain", str(waiting), "--analyze", *given, "--plan", str(beside)]) == 0
    assert run(["explain", str(waiting), "--analyze", *given, "--plan", str(beside)]) == 0  # scored once
    capsys.readouterr()
    assert run(["explain", str(waiting), "--what-if", *given, "--html", str(page)]) == 0
    assert "6 predictions" in capsys.readouterr().out
    assert "How good predictions were" in page.read_text()


def test_predictions_at_a_rate_are_scored_by_a_bench_at_that_rate(
    waiting: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--recording", str(recorded)]
    assert run(["explain", str(waiting), "--what-if", "--rate", "20", *given]) == 0
    bench = ["bench", str(waiting), *given, "--requests", "24"]
    run([*bench, "--rate", "10"])  # another rate
    capsys.readouterr()
    assert run(["explain", str(waiting), "--what-if", *given]) == 0
    assert "no prediction was measured yet" in capsys.readouterr().out
    run([*bench, "--rate", "20"])
    run([*bench, "--rate", "20"])  # scored once
    capsys.readouterr()
    assert run(["explain", str(waiting), "--what-if", *given]) == 0
    assert "3 predictions" in capsys.readouterr().out


def test_delays_confirm_it(waiting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(waiting), "text=hi", "--what-if", "--probe", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {(each["step"], each["what"]) for each in told["probed"]} >= {
        ("upper", "p50_ms"),
        ("twice", "p95_ms"),
    }
    for each in told["probed"]:
        assert each["slowed"] + each["plain"] == 120
        assert each["simulated"]["mid"] == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--probe"], "--what-if"),
        (["--what-if", "--analyze"], "two questions"),
        (["--what-if", "--perfetto", "a.json"], "--analyze"),
        (["--what-if", "--rate", "-1"], "--rate -1"),
        (["--what-if", "--rate", "nan"], "--rate nan"),
        (["--what-if", "--minutes", "nan"], "--minutes nan"),
        (["--what-if", "--items", "0"], "--items 0"),
        (["--what-if", "--minutes", "0"], "--minutes 0"),
        (["--what-if", "--slo", "p95<fast"], "p95<fast"),
        (["--what-if"], "brings no recording along"),
        (["text=hi", "--what-if", "--recording", "x"], "give one of them"),
    ],
)
def test_what_cannot_be_asked(
    words: list[str], told: str, waiting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(waiting), *words]) == 2
    assert told in capsys.readouterr().err


def test_programs_are_not_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = WAITING.replace("def talk", "async def talk").replace(
        "return words(upper(text), twice(text))", "return await upper(text)"
    )
    program = written(tmp_path, "program.py", text)
    assert run(["explain", str(program), "text=hi", "--what-if"]) == 2
    assert "E132" in capsys.readouterr().err


def test_the_answer_can_be_read_back(waiting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import msgspec

    assert run(["explain", str(waiting), "text=hi", "--what-if", "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out, type=WhatIf)
    assert [each.place for each in told.best()] == list(range(1, len(told.best()) + 1))


class Probe:
    """A process that gives slices of the probe: this machine is half as fast as it was, always."""

    def __init__(self) -> None:
        self.asked = self.ended = 0

    async def ask(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        self.asked += 1
        return {"compute": 50.0, "memory": 5.0}

    async def end(self) -> None:
        self.ended += 1


def test_what_a_question_runs_is_told_at_the_pace_of_the_searches_that_go_by_it(
    waiting: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Probe] = []

    def opened() -> Probe:
        begun.append(Probe())
        return begun[-1]

    monkeypatch.setattr("tauten.cli.optimize.opened", opened)
    words = ["explain", str(waiting), "--what-if"]
    assert run([*words, "text=hi"]) == 0
    assert begun == [], "what is in no journal is compared with nothing later"
    assert run([*words, "--recording", str(recorded)]) == 0
    assert [each.ended for each in begun] == [1]
    assert begun[0].asked > 16, "beyond the reference: between the requests"
    assert run([*words, "--recording", str(recorded)]) == 0
    assert len(begun) == 1, "all of it was known"
