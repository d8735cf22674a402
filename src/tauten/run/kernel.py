"""The books of a Linux kernel: what processes and the machine have used. Elsewhere nobody can tell: None."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def core_seconds() -> float:
    """Seconds of CPU that this process and all below it have used; without those below it off Linux.

    Those below count in steps of the kernel's tick (10 ms).
    """
    own = time.process_time()
    _, *below = tree(os.getpid())
    return own + _sum(below, _ticks) / _TICKS


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # the thread ended
            continue
        for child in children:
            yield from tree(int(child))


def tree_seconds(pid: int) -> float | None:
    """CPU seconds of a process and all below it, in steps of 10 ms; None when it is not there."""
    return _sum(tree(pid), _ticks) / _TICKS if _is_there(pid) else None


def process_seconds(pid: int) -> float | None:
    """CPU seconds of one process with its threads, in steps of 10 ms; a read of 20 µs. None when it is not there."""
    try:
        return _ticks(pid) / _TICKS
    except OSError:
        return None


def tree_bytes(pid: int) -> int | None:
    """Resident bytes of a process and all below it; what they share counts for each."""
    return _sum(tree(pid), _pages) * _PAGE if _is_there(pid) else None


def busy_seconds() -> float | None:
    """Seconds that all cores of the machine have worked since it started."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:  # not Linux
        return None
    user, nice, system, _idle, _wait, irq, soft = (int(field) for field in first[1:8])
    return (user + nice + system + irq + soft) / _TICKS


def waited_seconds() -> float | None:
    """Seconds that this thread was ready to run and had no core; None where the kernel does not say."""
    try:
        fields = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:  # not Linux, or built without it
        return None
    return int(fields[1]) / 1e9


def _is_there(pid: int) -> bool:
    return sys.platform == "linux" and Path(f"/proc/{pid}").exists()


def _sum(pids: Iterable[int], of: Callable[[int], int]) -> int:
    total = 0
    for pid in pids:
        try:
            total += of(pid)
        except OSError:  # it ended meanwhile
            continue
    return total


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime


def _pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
