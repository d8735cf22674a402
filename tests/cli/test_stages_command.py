"""`tauten bench --stages`: what requests give each model, each model once, its figures kept; processes are told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

import tauten.cli.stages as command
from measuring.kit_told import Told, World
from tauten.cli.explain import measurements_path
from tauten.cli.main import run
from tauten.improve.measuring.stages import PEAKS_FILE, measure_stages
from tauten.plan.hardware import hardware
from tauten.plan.measurements import COMPUTE, Measurements
from tauten.plan.peaks import Bandwidth, MatrixRate, Peaks, Probe

FLOW = """
import tauten as tt
from tauten.describe.stage import Context, Role, stage

@stage(roles={"model": Role("words", ("synthetic",), options={"ms_per_batch": 1.0})}, effects="pure")
async def read(text: str, ctx: Context) -> str:
    return str(await ctx.infer("model", text))

@stage(roles={"judge": Role("judge", ("synthetic",), options={"ms_per_batch": 2.0})}, effects="pure")
async def judge(text: str, ctx: Context) -> bool:
    return str(await ctx.infer("judge", text)) == "never"

@stage(roles={"llm": Role("talk", ("synthetic_slots",), options={"tokens": 4, "ms_per_token": 1.0})}, effects="pure")
async def talk(text: str, ctx: Context) -> str:
    return "".join([chunk.text async for chunk in ctx.stream("llm", {"prompt": text})])

@tt.workflow
def desk(text: str) -> str:
    return tt.when(judge(text), talk(text), read(read(text, name="first")))
"""


class Words(Told):
    """Items are texts: as long as they are."""

    def _open(self, message: dict) -> object:  # type: ignore[type-arg]
        return super()._open({**message, "items": [len(str(item)) for item in message["items"]]})


class Desk(World):
    async def start(self) -> Told:
        await super().start()
        return Words(self)


@pytest.fixture
def flow(tmp_path: Path) -> str:
    (tmp_path / "flow.py").write_text(FLOW)
    return str(tmp_path / "flow.py")


def told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = functools.partial(measure_stages, clock=world.clock, start=world.start, share=lambda: 0.0)
    monkeypatch.setattr(command, "measure_stages", fake)


def test_each_model_is_measured_once_on_what_it_is_given(
    flow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world, out = Desk(), tmp_path / "figures.json"
    told(world, monkeypatch)
    words = [
        "bench",
        flow,
        "text=why?",
        "--stages",
        "--batches",
        "1,2",
        "--threads",
        "1,2",
        "--json",
        str(out),
    ]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert world.alive == 0
    found = json.loads(out.read_text())
    assert (found["schema"], found["workflow"], found["requests"]) == ("tauten.stages/1", "desk", 1)
    assert [(each["model"], each["used_by"], each["items"]) for each in found["models"]] == [
        ("judge", ["judge.judge"], 1),
        ("words", ["first.model", "read.model"], 2),
    ]
    assert found["unheard"] == ["talk.llm"]
    rows = found["models"][1]["rows"]
    assert [(row["threads"], row["batch"], row["n"]) for row in rows] == [
        (1, 1, 9),
        (1, 2, 9),
        (2, 1, 9),
        (2, 2, 9),
    ]
    assert rows[0]["low_ms"] <= rows[0]["mid_ms"] <= rows[0]["high_ms"]
    assert "no request came to talk.llm: not measured" in shown
    assert "judge   synthetic   judge.judge   1 item" in shown
    assert "first.model, read.model   2 items" in shown
    assert max(map(len, shown.splitlines())) <= 96


def test_figures_are_kept_where_estimates_are_read(
    flow: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = Desk()
    told(world, monkeypatch)
    for _ in range(2):
        assert run(["bench", "--stages", flow, "text=why?", "--batches", "1", "--threads", "1"]) == 0
    assert world.asked_for_peaks == 1, "peaks are measured once"
    kept = Measurements.load(measurements_path())
    counts = {key.model: found.n for key in kept.keys() if (found := kept.distribution(key, COMPUTE))}  # noqa: SIM118
    assert counts == {"judge": 18, "words": 18}
    capsys.readouterr()


def test_a_model_that_cannot_be_measured_says_why_and_exits_3(
    flow: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(Desk(shut=frozenset({1})), monkeypatch)
    assert run(["bench", "--stages", flow, "text=why?", "--threads", "1"]) == 3
    assert "1 thread: does not open: E325 it cannot be loaded" in capsys.readouterr().out


def test_one_way_that_fails_is_a_row_with_its_reason(
    flow: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(Desk(fails_at=4), monkeypatch)
    assert run(["bench", "--stages", flow, "text=why?", "--threads", "1", "--batches", "1,4"]) == 0
    assert "E407 too large" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batches", "0,1"], "--batches 0,1"),
        (["--batches", "many"], "cannot read --batches"),
        (["--threads", "-1"], "--threads -1"),
        (["--budget-s", "0"], "--budget-s 0"),
        (["text"], "cannot read the input"),
        (["text=x", "--recording", "kept"], "inputs and a recording"),
        (["--rate", "5"], "No such option"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_runs(
    words: list[str],
    said: str,
    flow: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = Desk()
    told(world, monkeypatch)
    assert run(["bench", "--stages", flow, *words]) == 2
    assert said in capsys.readouterr().err
    assert world.started == 0


def test_a_workflow_without_models_has_nothing_to_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = "import tauten as tt\n\n@tt.stage(pure=True)\ndef up(x: str) -> str:\n    return x.upper()\n\n"
    (tmp_path / "plain.py").write_text(f"{plain}\n@tt.workflow\ndef flow(x: str) -> str:\n    return up(x)\n")
    assert run(["bench", "--stages", str(tmp_path / "plain.py"), "x=a"]) == 2
    assert "no request of flow came to a model" in capsys.readouterr().err


def test_real_processes_measure_told_times(flow: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way, one round, with peaks that are known: they take a minute."""
    rates = (MatrixRate("onnx", "f32", hardware().cores, 2e11),)
    copies = (Bandwidth("memory", hardware().cores, 1e10),)
    measurements_path().parent.mkdir(parents=True)
    known = Peaks(hardware(), rates, copies, probe=Probe(80.0, 8.0))
    known.save(measurements_path().parent / PEAKS_FILE)
    words = [
        "bench",
        "--stages",
        flow,
        "text=why?",
        "--threads",
        "1",
        "--batches",
        "1",
        "--budget-s",
        "0.001",
    ]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "f32 200 Gflop/s" in shown
    assert "memory 10 GB/s" in shown
    assert "words   synthetic" in shown
    assert " of 9 rounds: 0.001 s were over" in shown
