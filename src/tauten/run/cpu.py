"""CPU time of this process and of the workers below it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def core_seconds() -> float:
    """Seconds of CPU that this process and its running children have used; without children off Linux.

    Children count in steps of the kernel's tick (10 ms).
    """
    own = time.process_time()
    if sys.platform != "linux":
        return own
    return own + sum(_used(pid) for pid in _children())


def _children() -> list[str]:
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += (task / "children").read_text().split()
        except OSError:  # the thread ended, or the kernel does not list children
            continue
    return found


def _used(pid: str) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended meanwhile
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime
