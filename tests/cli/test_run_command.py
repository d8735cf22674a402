"""`tauten run`: inputs, what is printed, and the exit codes of all that can go wrong."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.kit_cli import plan, written
from tauten.cli.main import run

MEDIA = """
import tauten as tt

@tt.stage(pure=True)
def same(picture: tt.Image) -> tt.Image:
    return picture

@tt.workflow
def media(picture: tt.Image) -> tt.Image:
    return same(picture)
"""
TYPED = """
import tauten as tt

@tt.stage(pure=True)
def total(numbers: list[int], more: tt.Json | None) -> dict[str, int]:
    return {"total": sum(numbers) + (more.value["n"] if more else 0)}

@tt.workflow
def typed(numbers: list[int], more: tt.Json | None = None) -> dict[str, int]:
    return total(numbers, more)
"""
HELD = """
import dataclasses
import tauten as tt

class Plain:
    pass

@dataclasses.dataclass
class Held:
    text: tt.Text
    plain: Plain

@tt.stage(pure=True)
def odd(text: str) -> str:
    if len(text) % 2 == 0:
        raise ValueError("even")
    return text

@tt.stage(pure=True)
def hold(texts: list[str]) -> Held:
    return Held(tt.Text(texts[0]), Plain())

@tt.workflow
def held(texts: list[str]) -> Held:
    return hold(texts)

@tt.workflow
def kept(texts: list[str]) -> list[str]:
    return tt.map(odd, texts, errors="keep")
"""
BMP = b"BM" + bytes(64)


def test_a_stream_is_printed_as_it_comes(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(flow), "text=hi"]) == 0
    assert capsys.readouterr() == ("HI hihi \n", "")


def test_json_has_its_schema(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", f"{flow}:talk", "text=hi", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "tauten.run/1"
    assert set(shown) == {"schema", "plan", "request", "wall_ms", "first_output_ms", "output"}
    assert shown["output"] == ["HI ", "hihi "]
    assert 0 < shown["first_output_ms"] <= shown["wall_ms"]


def test_values_for_json_ports_are_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = written(tmp_path, "typed.py", TYPED)
    assert run(["run", str(typed), "numbers=[1, 2]", 'more={"n": 3}']) == 0
    assert json.loads(capsys.readouterr().out) == {"total": 6}


@pytest.mark.parametrize(
    ("inputs", "seen"),
    [
        (["txet=hi"], "did you mean `text`?"),
        (["hello"], "NAME=VALUE"),
        (["text=@gone.txt"], "gone.txt"),
        ([], "text"),
    ],
)
def test_inputs_that_do_not_fit(
    inputs: list[str], seen: str, flow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(flow), *inputs]) == 2
    told = capsys.readouterr().err
    assert seen in told
    assert "help: " in told
    assert not flow.with_name("ran.txt").exists()


def test_standard_input(
    flow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"pipe")))
    assert run(["run", str(flow), "text=@-"]) == 0
    assert capsys.readouterr().out == "PIPE pipepipe \n"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_results_that_json_has_no_word_for_are_shown(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "held.py", HELD)
    assert run(["run", f"{file}:kept", 'texts=["one", "even"]', *more]) == 0
    shown = json.loads(capsys.readouterr().out)
    [values] = shown["output"] if more else [shown]
    assert values[0] == "one"
    assert "raised ValueError: even" in values[1]
    assert run(["run", f"{file}:held", "texts=words", *more]) == 0
    shown = json.loads(capsys.readouterr().out)
    [value] = shown["output"] if more else [shown]
    assert value["text"] == "words"
    assert "Plain object" in value["plain"]


def test_media_are_written_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    media, shot, out = written(tmp_path, "media.py", MEDIA), tmp_path / "a.bmp", tmp_path / "b.bmp"
    shot.write_bytes(BMP)
    assert run(["run", str(media), f"picture=@{shot}", "--out", str(out)]) == 0
    assert out.read_bytes() == BMP
    assert capsys.readouterr() == ("", f"{out}: image/bmp\n")
    assert run(["run", str(media), f"picture=@{shot}"]) == 0
    assert json.loads(capsys.readouterr().out)["size_bytes"] == len(BMP)


def test_outputs_that_cannot_be_written_are_told_before_the_work(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "gone" / "x.txt", tmp_path):
        assert run(["run", str(flow), "text=hi", "--out", str(out)]) == 2
        assert str(out) in capsys.readouterr().err
    assert not flow.with_name("ran.txt").exists()


def test_a_full_device_is_the_machines_fault(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    assert run(["run", str(flow), "text=hi", "--out", "/dev/full"]) == 3
    assert "no room" in capsys.readouterr().err


def test_a_result_without_media_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = written(tmp_path, "typed2.py", TYPED)
    assert run(["run", str(typed), "numbers=[1]", "--out", str(tmp_path / "x")]) == 2
    assert "no media" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("deadline_ms", ["5", "0", "-1", "nan"])
def test_a_passed_deadline_exits_5(deadline_ms: str, slow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", f"{slow}:drawn", "text=x", "--deadline-ms", deadline_ms]) == 5
    assert "deadline" in capsys.readouterr().err


def test_a_stage_that_raises_exits_5(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(flow), "text=bad"]) == 5
    told = capsys.readouterr().err
    assert "stage 'upper' raised ValueError: no bad words" in told
    assert "Traceback" not in told


STAGES = """
import tauten as tt
@tt.stage(pure=True)
def shout(text: tt.Text) -> tt.Text:
    return text
@tt.stage(pure=True)
def look(picture: tt.Image) -> tt.Text:
    return tt.Text("x")
"""


@pytest.mark.parametrize(
    ("name", "body", "seen"),
    [
        ("on_if", "    if shout(x):\n        return x\n    return shout(x)", "on_if.py:12"),
        ("mismatch", "    return look(x)", "mismatch.py:12"),
        ("cycle", "    return knot(x)", "knot"),
        ("equal", "    y = shout(x)\n    return shout(y) if y == x else y", "equal.py:13"),
        ("loop", "    for each in shout(x):\n        return each", "loop.py:12"),
    ],
)
def test_a_workflow_that_cannot_be_drawn_exits_2(
    name: str, body: str, seen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow = "knot" if name == "cycle" else name
    text = f"{STAGES}\n@tt.workflow\ndef {workflow}(x: tt.Text) -> tt.Text:\n{body}\n"
    assert run(["run", str(written(tmp_path, f"{name}.py", text)), "x=1"]) == 2
    told = capsys.readouterr().err
    assert seen in told
    assert "help: " in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("workfow = 'x'", "did you mean `workflow`?"),
        ("[stage.upper]\nthraeds = 2", "thraeds"),
        ("[stage.uper]\nwhy = 'x'", "did you mean `upper`?"),
        ("graph = '0000'", "rebase"),
        ("[stage.upper]\nthreads = 'many'", "threads"),
        ("[stage", "not TOML"),
    ],
)
def test_a_plan_that_does_not_fit_exits_2(
    body: str, seen: str, flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(flow), "text=x", "--plan", str(plan(tmp_path, body))]) == 2
    assert seen in capsys.readouterr().err
    assert not flow.with_name("ran.txt").exists()


def test_a_plan_with_an_unknown_backend_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "import tauten as tt\n@tt.workflow\ndef see(x: tt.Image) -> tt.Labels:\n    return tt.classify(x)\n"
    )
    see = written(tmp_path, "see.py", text)
    chosen = plan(tmp_path, "[stage.classify]\nbackend = 'onxx'")
    shot = tmp_path / "a.bmp"
    shot.write_bytes(BMP)
    for words in (
        ["run", str(see), f"x=@{shot}", "--plan", str(chosen)],
        ["plan", "lint", str(see), str(chosen)],
    ):
        assert run(words) == 2
        assert "did you mean `onnx`?" in capsys.readouterr().err


def test_a_missing_plan_exits_2(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(flow), "text=x", "--plan", "gone.toml"]) == 2
    assert "gone.toml" in capsys.readouterr().err
