"""`tauten` itself: help, version, unknown commands, targets that cannot be loaded, and our own bugs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

import tauten.cli.doctor as doctor
from cli.kit_cli import tauten, written
from tauten.cli import main
from tauten.cli.main import COMMANDS, run
from tauten.version import __version__

ONE = "import tauten as tt\n\n@tt.workflow\ndef {}(x: tt.Text) -> tt.Text:\n    return x\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"\b{name}\b", shown) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"tauten {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"tauten {__version__}\n"


def test_an_unknown_command_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explian"]) == 2
    assert "did you mean `explain`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["run"], ["run", "x.py", "--bogus"], ["plan", "shwo"], ["index", "query", "a"]]
)
def test_usage_errors_exit_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    seen = capsys.readouterr()
    assert (seen.out, "Usage: tauten" in seen.err) == ("", True)


@pytest.mark.parametrize(
    ("name", "text", "seen"),
    [
        ("syntax.py", "import tauten\n\ndef x(:\n", "syntax.py:3"),
        ("missing.py", "\nimport no_such_module_anywhere\n", "missing.py:2"),
        ("raises.py", "def f():\n    raise ValueError('why')\n\nf()\n", "raises.py:2"),
        ("library.py", "import numpy as np\n\nnp.linspace(0, 1, -1)\n", "library.py:3"),
        ("leaves.py", "import sys\nsys.exit('no')\n", "leaves.py:2"),
        ("nothing.py", "x = 1\n", "0 workflows"),
        ("two.py", ONE.format("a") + ONE.format("b"), "2 workflows (a, b)"),
    ],
)
def test_a_file_that_cannot_be_loaded(
    name: str, text: str, seen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(written(tmp_path, name, text))]) == 2
    told = capsys.readouterr().err
    assert seen in told
    assert "help: " in told
    assert "Traceback" not in told


@pytest.mark.parametrize("target", ["gone.py", "gone", "", ":x", ".x", "__main__", "tauten.gone", "json"])
def test_a_target_that_is_not_there(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", target]) == 2
    assert "help: " in capsys.readouterr().err


def test_a_wrong_name_is_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = written(tmp_path, "pair.py", ONE.format("first") + ONE.format("second"))
    assert run(["run", f"{two}:secnod"]) == 2
    assert "did you mean `second`?" in capsys.readouterr().err
    assert run(["run", f"{two}:second", "x=hi"]) == 0
    assert capsys.readouterr().out == "hi\n"


def test_a_module_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, "moduled_flow.py", ONE.format("echo"))
    monkeypatch.syspath_prepend(tmp_path)
    assert run(["run", "moduled_flow:echo", "x=hi"]) == 0
    assert capsys.readouterr().out == "hi\n"


def test_a_file_named_like_a_library_hides_nothing(tmp_path: Path) -> None:
    import random

    assert run(["run", str(written(tmp_path, "random.py", ONE.format("echo"))), "x=hi"]) == 0
    import random as again

    assert random is again


def test_a_bug_of_ours_becomes_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    monkeypatch.setattr(doctor, "hardware", lambda: 1 / 0)
    assert run(["doctor"]) == main.EXIT_BUG == 70
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "Traceback" not in told
    [report] = temporary.iterdir()
    assert str(report) in told
    assert "ZeroDivisionError" in report.read_text()
    report.unlink()


def test_a_bug_without_room_for_its_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "hardware", lambda: 1 / 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert run(["doctor"]) == 70
    assert "had no room" in capsys.readouterr().err


def test_a_process_ends_with_the_code(flow: Path) -> None:
    assert tauten("run", flow, "text=hi") == (0, "HI hihi \n", "")
    refused = tauten("run", flow, "txet=hi")
    assert (refused.code, refused.out) == (2, "")
    assert "did you mean `text`?" in refused.err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor"])
    assert capsys.readouterr().out.splitlines()[-1] == ("ready" if code == 0 else "not ready")


def test_doctor_misses_a_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(doctor.LIBRARIES, "no_such_library", "backend of dreams")
    assert run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "no_such_library: backend of dreams" in shown
    assert "pip install" in shown
