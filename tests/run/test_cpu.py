"""CPU time of the process tree."""

import subprocess
import sys

import pytest

from tauten.run.cpu import core_seconds


def spin(steps: int) -> int:
    return sum(number * number for number in range(steps))


def test_work_of_this_process_counts() -> None:
    before = core_seconds()
    spin(300_000)
    assert core_seconds() > before


@pytest.mark.skipif(sys.platform != "linux", reason="children are read from /proc")
def test_work_of_a_child_counts_while_it_runs() -> None:
    code = "sum(n * n for n in range(3_000_000)); print('done', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    before = core_seconds()
    assert child.stdout is not None
    child.stdout.readline()
    used = core_seconds() - before
    child.communicate("\n")
    assert used > 0.02  # two ticks: three million steps take far more
