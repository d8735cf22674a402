"""`tauten optimize`: the screen, the files that it leaves, its exit codes, and what it refuses."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.kit_cli import written
from tauten.cli.main import run
from tauten.cli.optimize import naive_beside
from tauten.cli.target import load_workflow
from tauten.describe.payload import Text
from tauten.improve.labels.answers import Answers
from tauten.improve.labels.keeper import folder_of
from tauten.improve.measuring.stages import PEAKS_FILE
from tauten.improve.optimizer.outcome import from_json
from tauten.improve.quality import Evidence, evidence_path
from tauten.improve.recording import Item, Label, Recording
from tauten.improve.report.summary import about
from tauten.models.store import Store
from tauten.plan.hardware import hardware
from tauten.plan.peaks import Bandwidth, MatrixRate, Peaks, Probe
from tauten.plan.plan import load_plan, parse_plan

WAITING = """
import asyncio
import tauten as tt
from tauten.describe.turn import Turn
from tauten.describe.stage import stage

@stage(effects="pure", turns=(Turn("reduce", {"fast": True}, "lossy", "does not wait"),))
async def upper(text: tt.Text, *, fast: bool = False) -> tt.Text:
    await asyncio.sleep(0.001 if fast else 0.04)
    return tt.Text(text.text.upper())

@stage(effects="pure")
async def twice(text: tt.Text) -> tt.Text:
    await asyncio.sleep(0.03)
    return tt.Text(text.text * 2)

@stage(effects="pure")
async def words(a: tt.Text, b: tt.Text) -> tt.Text:
    return tt.Text(a.text + b.text)

@tt.metric
def metric(answer, label):
    return answer.text == label.answer

@tt.workflow(slo=tt.Slo(p95_ms=60))
def talk(text: tt.Text) -> tt.Text:
    return words(upper(text), twice(text))
"""

QUICK = ["--minutes", "0.2", "--items", "2", "--rate", "5"]
SIMULATED = [
    "--minutes",
    "5",
    "--items",
    "2",
    "--rate",
    "5",
    "--dry-run",
]  # ends when nothing gains, long before


@pytest.fixture(autouse=True)
def known_machine(own_store: None) -> None:
    """Its peaks take a minute to measure."""
    rates = (MatrixRate("onnx", "f32", hardware().cores, 2e11),)
    copies = (Bandwidth("memory", hardware().cores, 1e10),)
    root = Store().root
    root.mkdir(parents=True, exist_ok=True)
    Peaks(hardware(), rates, copies, probe=Probe(80.0, 8.0)).save(root / PEAKS_FILE)


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    return written(tmp_path, "waiting.py", WAITING)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    def item(number: int) -> Item:
        word = f"w{number}"
        label = Label(answer=f"{word.upper()}{word * 2}")
        return Item(id=word, render=lambda: {"text": Text(word)}, label=label)

    return Recording("words", [item(number) for number in range(40)]).save(tmp_path / "words")


def test_a_plan_is_written_with_its_reasons(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tight.toml"
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(out)]
    assert run([*words, *SIMULATED, "--slo", "p95<5000ms"]) == 4  # nothing was measured
    shown = capsys.readouterr().out
    plan = load_plan(out)
    assert plan.stage("upper").beside or plan.stage("twice").beside
    assert "side by side" in plan.stage("upper").why + plan.stage("twice").why
    assert "upper" in shown
    assert str(out) in shown
    assert not evidence_path(out).exists()  # nothing that may alter answers was taken
    assert run(["plan", "lint", str(waiting), str(out)]) == 0


def test_the_finalist_is_measured(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tight.toml"
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(out), *QUICK, "--json"]
    code = run([*words, "--slo", "p95<5000ms"])
    found = from_json(capsys.readouterr().out.encode())
    assert (
        code == {"met": 0, "missed": 1, "cannot conclude": 4}[found.answer]
    )  # a busy machine may prove nothing
    by_name = {each.name: each for each in found.candidates}
    assert by_name["naive"].alone is not None
    assert by_name["chosen"].alone is not None
    assert found.forecasts
    assert load_plan(out).result["answer"] == found.answer


def test_lossy_changes_leave_evidence_and_the_document_holds_all(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 ms cannot be waited for within 36: only the setting that does not wait holds it."""
    out, page = tmp_path / "tight.toml", tmp_path / "report.html"
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(out), "--html", str(page)]
    code = run([*words, *SIMULATED, "--slo", "p95<36ms, quality_loss<20pt", "--json"])
    found = from_json(capsys.readouterr().out.encode())
    assert code in (1, 4)  # nothing was measured
    assert load_plan(out).stage("upper").settings == {"fast": True}
    assert [each.change for each in found.decisions if each.taken and each.answers == "lossy"] == [
        "upper: fast = true"
    ]
    evidence = Evidence.load(evidence_path(out))  # which checks it
    assert evidence.verdict.decision == "accept"
    assert evidence.verdict.flips == []
    assert page.read_text().startswith("<!doctype html>")


def test_evidence_of_an_earlier_plan_does_not_stay_beside_the_next(
    waiting: Path, recorded: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tight.toml"
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(out), *SIMULATED]
    run([*words, "--slo", "p95<36ms, quality_loss<20pt"])
    assert evidence_path(out).exists()
    run([*words, "--slo", "p95<5000ms"])
    assert not load_plan(out).stage("upper").settings
    assert not evidence_path(out).exists()


def test_a_label_that_was_corrected_is_judged_by(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was measured is known still; what was judged by the old labels is not."""
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(tmp_path / "tight.toml")]
    words += [*SIMULATED, "--slo", "p95<36ms, quality_loss<20pt", "--json"]
    run(words)
    assert from_json(capsys.readouterr().out.encode()).verdict is not None
    items = recorded / "items.jsonl"
    items.write_text(items.read_text().replace('"answer":"W', '"answer":"X'))
    run(words)
    found = from_json(capsys.readouterr().out.encode())
    assert all(each.quality in (0.0, None) for each in found.candidates), "no answer is right by these labels"


def test_answers_are_kept_where_it_is_asked_and_can_be_labelled(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tight.toml"
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(out), "--keep-answers"]
    run([*words, *SIMULATED, "--slo", "p95<36ms, quality_loss<20pt"])
    evidence = Evidence.load(evidence_path(out))
    before, after = (out.parent / name for name in (evidence.answers_before, evidence.answers_after))
    found = Answers.load(evidence_path(out))  # which checks that these were judged
    assert (before.parent, after.name) == (folder_of(out), "after.jsonl")
    assert set(found.by_item) == set(evidence.items)
    assert found.by_item[next(iter(evidence.items))].text.startswith("W")
    capsys.readouterr()
    line = [
        "label",
        str(recorded),
        str(before),
        str(evidence_path(out)),
        "--margin",
        "20pt",
        "--labeller",
        "a",
    ]
    assert run([*line, "--json"]) == 0  # no answer differs: nothing is asked
    assert json.loads(capsys.readouterr().out)["identical"] == len(evidence.items)


def test_answers_are_not_kept_by_themselves(waiting: Path, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "tight.toml"
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(out), *SIMULATED]
    run([*words, "--slo", "p95<36ms, quality_loss<20pt"])
    assert Evidence.load(evidence_path(out)).answers_after == ""
    assert not folder_of(out).exists()


def test_where_no_answer_may_have_changed_none_are_kept(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tight.toml"
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(out), *SIMULATED]
    run([*words, "--slo", "p95<5000ms", "--keep-answers"])
    assert "no answers are kept: no change that may alter them was taken" in capsys.readouterr().err
    assert not folder_of(out).exists()


NAIVE_PLAN = """
tauten = "plan/1"
workflow = "waiting.py:{name}"
[stage.upper]
cache = true
why = "as a plain program runs it"
"""


def begun(waiting: Path, recorded: Path, tmp_path: Path, *more: str) -> list[str]:
    words = ["optimize", str(waiting), "--recording", str(recorded), "--out", str(tmp_path / "tight.toml")]
    return [*words, *SIMULATED, "--slo", "p95<5000ms", "--json", *more]


def test_it_begins_with_the_naive_plan_beside_the_workflow(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (waiting.parent / "naive.toml").write_text(NAIVE_PLAN.format(name="talk"))
    run(begun(waiting, recorded, tmp_path))
    shown = capsys.readouterr()
    assert "begins with naive.toml beside the workflow; --plan names another" in shown.err
    found = from_json(shown.out.encode())
    assert found.began == "naive.toml beside it"
    assert "from naive.toml beside it" in about(found)
    naive = parse_plan(next(each.plan for each in found.candidates if each.name == "naive"))
    assert naive.stage("upper").cache is True


def test_a_plan_that_is_named_comes_first(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (waiting.parent / "naive.toml").write_text(NAIVE_PLAN.format(name="talk"))
    own = written(tmp_path, "own.toml", 'tauten = "plan/1"\n')
    run(begun(waiting, recorded, tmp_path, "--plan", str(own)))
    shown = capsys.readouterr()
    assert "begins with" not in shown.err
    found = from_json(shown.out.encode())
    assert found.began == "own.toml"
    assert "cache" not in next(each.plan for each in found.candidates if each.name == "naive")


def test_a_naive_plan_of_another_workflow_is_left_alone(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (waiting.parent / "naive.toml").write_text(NAIVE_PLAN.format(name="other"))
    run(begun(waiting, recorded, tmp_path))
    shown = capsys.readouterr()
    assert "begins with" not in shown.err
    assert from_json(shown.out.encode()).began == ""


@pytest.mark.parametrize(
    "target",
    [
        "tauten.examples.help_desk.desk:help_desk",
        "tauten.examples.document_chat.chat:document_chat",
        "tauten.examples.triage.inbox:triage",
    ],
)
def test_the_examples_bring_their_naive_plans_along(target: str) -> None:
    workflow = load_workflow(target)
    found = naive_beside(workflow)
    assert found is not None
    assert found.name == "naive"
    assert found.stages


def test_the_same_command_goes_on_and_measures_nothing_twice(
    waiting: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["optimize", str(waiting), "--recording", str(recorded), "--json", *SIMULATED]
    words += ["--out", str(tmp_path / "tight.toml")]
    run(words)
    first = json.loads(capsys.readouterr().out)
    [journal] = (Store().root / "searches").iterdir()
    known = journal.read_bytes()
    run(words)
    again = json.loads(capsys.readouterr().out)
    assert journal.read_bytes() == known
    assert again["decisions"] == first["decisions"]
    run([*words, "--fresh"])
    assert journal.read_bytes() != known


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--rate", "0"], "E260"),
        (["--without", "quantise"], "did you mean `quantize`?"),
        (["--slo", "p95<fast"], "E"),
        (["--recording", "nowhere"], "E245"),
        (["--out", "nowhere/plan.toml"], "E261"),
        (["--plan", "nowhere.toml"], "E203"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    waiting: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["optimize", str(waiting), *more]) == 2
    assert told in capsys.readouterr().err
