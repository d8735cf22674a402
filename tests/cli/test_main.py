"""`tauten` itself: help, version, unknown commands, targets that cannot be loaded, and our own bugs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

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
    shown = capsys.readouterr().out
    assert f"tauten {name}" in shown
    assert "completion" not in shown  # it would be that of a program called `tauten NAME`


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


def test_serving_without_its_extra_says_which(flow: Path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from tauten.cli.main import run\n"
        f"sys.exit(run(['serve', {str(flow)!r}, '--port', '0', '--grpc-port', 'off']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "help: pip install 'tauten[serve]'" in done.stderr


def test_what_the_body_of_a_workflow_raises_is_no_bug_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "import tauten as tt\n\n@tt.workflow\nasync def own(text: tt.Text) -> tt.Text:\n    raise KeyError('mine')\n"
    assert run(["run", str(written(tmp_path, "own.py", body)), "text=x"]) == 5
    told = capsys.readouterr().err
    assert "E404 own.py:5: the workflow raised KeyError: 'mine'" in told
    assert "bug" not in told


def test_a_bug_without_room_for_its_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "hardware", lambda: 1 / 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert run(["doctor"]) == 70
    assert "had no room" in capsys.readouterr().err


def test_a_path_that_the_system_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "x" * 300 + ".py"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tauten: E203 cannot use 'xxx")
    assert "help: check the path" in told


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
def test_a_path_that_may_not_be_used_is_no_bug_of_ours(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number), "/srv/models")

    monkeypatch.setattr(doctor, "hardware", refuse)
    assert run(["doctor"]) == 3
    told = capsys.readouterr().err
    assert f"E302 cannot use '/srv/models': {os.strerror(number)}" in told
    assert "help: " in told


def test_an_error_of_the_system_without_a_path_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], temporary: Path
) -> None:
    def refuse() -> None:
        raise OSError(errno.EACCES, "no")

    monkeypatch.setattr(doctor, "hardware", refuse)
    assert run(["doctor"]) == 70
    assert "a bug of ours" in capsys.readouterr().err
    for report in temporary.iterdir():
        report.unlink()


@pytest.mark.parametrize(
    ("name", "extra"), [("httptools.parser", "serve"), ("google.protobuf", "serve"), ("av", "video")]
)
def test_a_package_of_an_extra_that_is_not_here(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(doctor, "hardware", absent)
    assert run(["doctor"]) == 3
    told = capsys.readouterr().err
    assert f"E315 the Python package {name.partition('.')[0]} is not installed" in told
    assert f"help: pip install 'tauten[{extra}]'" in told
    assert "bug" not in told


def test_a_file_may_be_called_like_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["usage", "budgets", "budgets"]) == 2
    assert "budgets is no file of budgets" in capsys.readouterr().err


def test_a_process_ends_with_the_code(flow: Path) -> None:
    assert tauten("run", flow, "text=hi") == (0, "HI hihi \n", "")
    refused = tauten("run", flow, "txet=hi")
    assert (refused.code, refused.out) == (2, "")
    assert "did you mean `text`?" in refused.err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor"])
    assert capsys.readouterr().out.splitlines()[-1] == ("ready" if code == 0 else "not ready")


def test_doctor_looks_at_the_disk_that_the_store_will_be_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked_at: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        looked_at.append(path)
        return SimpleNamespace(free=1_000_000_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "not" / "yet"))
    assert run(["doctor"]) == 1
    assert looked_at == [tmp_path]
    assert "1 GB free: 2 GB are needed" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAUTEN_STORE", "not/yet")
    assert run(["doctor"]) == 1
    assert looked_at == [tmp_path, tmp_path]


def test_doctor_names_what_serving_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "serve", ("no_such_server", "sys"))
    ready = run(["doctor"])
    assert "serve      not without no_such_server: pip install 'tauten[serve]'" in capsys.readouterr().out
    assert run(["doctor", "--json"]) == ready  # models run without it
    assert json.loads(capsys.readouterr().out)["missing_to_serve"] == ["no_such_server"]


def test_doctor_misses_a_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(doctor.LIBRARIES, "no_such_library", "backend of dreams")
    assert run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "no_such_library: backend of dreams" in shown
    assert "pip install" in shown
