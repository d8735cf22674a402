"""The Makefile where it decides something: a marker that no test carries yet, a browser that is absent."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("status", "good", "said"), [(0, True, False), (1, False, False), (5, True, True)])
def test_no_test_for_a_gpu_is_said_and_no_failure(
    tmp_path: Path, status: int, good: bool, said: bool
) -> None:
    pytest_ended = tmp_path / "python"
    pytest_ended.write_text(f"#!/bin/sh\nexit {status}\n")
    pytest_ended.chmod(0o755)
    words = ["make", "-f", str(MAKEFILE), "-o", "models", f"BIN={tmp_path}", "test-gpu"]
    made = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (made.returncode == 0) is good
    assert ("no test carries the mark gpu" in made.stdout) is said


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("there", "user", "apt_get_ends", "asked", "said"),
    [
        ("chromium", 0, 0, False, ""),
        ("google-chrome", 1000, 0, False, ""),
        ("", 0, 0, True, ""),
        ("", 0, 100, True, "could not be installed"),
        ("", 1000, 0, False, "nobody here may install it"),
        ("", 0, None, False, "nobody here may install it"),
    ],
)
def test_a_browser_is_asked_for_where_there_is_none(
    tmp_path: Path, there: str, user: int, apt_get_ends: int | None, asked: bool, said: str
) -> None:
    """`apt_get_ends` is None where there is no apt-get; all commands are made up, and write what they were asked."""
    commands = {"id": f"echo {user}"}
    if there:
        commands[there] = "true"
    if apt_get_ends is not None:
        commands["apt-get"] = f'echo "$@" >> {tmp_path}/asked; exit {apt_get_ends}'
    for name, text in commands.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "sh").symlink_to("/bin/sh")
    make = str(shutil.which("make"))
    made = subprocess.run(
        [make, "-f", str(MAKEFILE), "browser"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "asked").exists() is asked
    assert said in made.stdout
    assert bool(made.stdout) is bool(said)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("there", "user", "apt_get_ends", "asked", "said"),
    [
        (("initdb", "redis-server"), 0, 0, "", ""),
        (("15/bin/initdb", "redis-server"), 0, 0, "", ""),
        (("redis-server",), 0, 0, "postgresql", ""),
        (("initdb",), 0, 0, "redis-server", ""),
        ((), 0, 0, "postgresql redis-server", ""),
        ((), 0, 100, "postgresql redis-server", "could not be installed"),
        ((), 1000, 0, "", "nobody here may install it"),
        ((), 0, None, "", "nobody here may install it"),
    ],
)
def test_servers_are_asked_for_where_there_are_none(
    tmp_path: Path, there: tuple[str, ...], user: int, apt_get_ends: int | None, asked: str, said: str
) -> None:
    """As with the browser; PostgreSQL may lie where no PATH looks."""
    commands = {"id": f"echo {user}", **dict.fromkeys(there, "true")}
    if apt_get_ends is not None:
        commands["apt-get"] = f'echo "$@" >> {tmp_path}/asked; exit {apt_get_ends}'
    for name, text in commands.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "sh").symlink_to("/bin/sh")
    made = subprocess.run(
        [str(shutil.which("make")), "-f", str(MAKEFILE), f"POSTGRES={tmp_path}", "servers"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    heard = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert bool(heard) is bool(asked)
    assert apt_get_ends != 0 or heard.rstrip().endswith(asked)
    assert said in made.stdout
    assert bool(made.stdout) is bool(said)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_pages_are_run_where_their_models_are() -> None:
    words = ["make", "-n", "-f", str(MAKEFILE), "docs"]
    told = subprocess.run(words, cwd=MAKEFILE.parent, capture_output=True, text=True, check=True).stdout
    assert told.index("tauten model pull") < told.index("pytest -q tests/docs")
