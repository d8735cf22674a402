"""The kernel's books: CPU time and memory of processes and of the machine."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tauten.run.kernel import busy_seconds, core_seconds, tree, tree_bytes, tree_seconds, waited_seconds

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the books of a Linux kernel")


def spin(steps: int) -> int:
    return sum(number * number for number in range(steps))


def test_work_of_this_process_counts() -> None:
    before = core_seconds()
    spin(300_000)
    assert core_seconds() > before


@linux
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


@linux
def test_the_kernels_books() -> None:
    assert next(tree(os.getpid())) == os.getpid()
    assert (tree_bytes(os.getpid()) or 0) > 1e6
    assert tree_seconds(os.getpid()) is not None
    assert busy_seconds() is not None
    assert tree_seconds(2**30) is None
    assert tree_bytes(2**30) is None
    waited = waited_seconds()
    assert waited is None or waited >= 0
