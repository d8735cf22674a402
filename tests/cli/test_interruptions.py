"""A reader that leaves, and Ctrl-C in the middle of a stream: the right code, and nothing is left behind."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from cli.kit_cli import command, nothing_left

WORKFLOWS = ["drawn", "threaded", "observed"]


def started(*words: object) -> subprocess.Popen[str]:
    """A command as a terminal starts it: where the tests run in the background, SIGINT is ignored and inherited."""
    return subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_reader_that_leaves_is_no_failure(workflow: str, slow: Path) -> None:
    with nothing_left(), started("run", f"{slow}:{workflow}", "text=x") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, "")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["model", "list"]])
def test_short_outputs_without_a_reader(words: list[str]) -> None:
    with started(*words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, "")


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_an_interrupt_in_mid_stream(workflow: str, slow: Path) -> None:
    with nothing_left(), started("run", f"{slow}:{workflow}", "text=x") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "tauten: interrupted\n")


SPEAKS = """
import tauten as tt

@tt.workflow
def speaks(question: tt.Text) -> tt.Stream[tt.Text]:
    return tt.generate("speaks.md", question=question, max_tokens=400)
"""


@pytest.mark.models
def test_an_interrupt_of_a_language_model_ends_its_worker(tmp_path: Path) -> None:
    (tmp_path / "speaks.md").write_text("Write a long story about {{ question }}.\n")
    (tmp_path / "speaks.py").write_text(SPEAKS)
    with nothing_left(), started("run", tmp_path / "speaks.py", "question=trains") as process:
        assert process.stdout is not None
        assert process.stdout.read(8)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, "tauten: interrupted\n")
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive
