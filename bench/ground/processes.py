"""What a server's process tree uses: CPU time, memory (PSS), and the CPU that everybody else took meanwhile."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TAG = "TAUTEN_BENCH_TAG"  # environment variable that marks a server's whole tree, daemons included
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def tagged(tag: str) -> list[int]:
    """Processes started with this tag in their environment, at any depth."""
    wanted, found = f"{TAG}={tag}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(*GONE):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def parent_tree(root: int) -> list[int]:
    """`root` and its descendants: finds also those that rewrote their environment."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(*GONE):
                parent = int(_stat(int(entry.name))[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before them may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pids: list[int]) -> dict[int, float]:
    """User plus system seconds of each process that still lives."""
    found = {}
    for pid in pids:
        with contextlib.suppress(*GONE):
            fields = _stat(pid)
            found[pid] = (int(fields[11]) + int(fields[12])) * TICK_S
    return found


def own_cpu_s() -> float:
    """CPU seconds of this process and of all that it started and that has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + time.process_time()


def tree_cpu_s() -> float:
    """The same with all that it started and that still lives."""
    living = [pid for pid in parent_tree(os.getpid()) if pid != os.getpid()]
    return own_cpu_s() + sum(cpu_s(living).values())


def pss_mb(pids: list[int]) -> float:
    """Proportional set size: shared pages are divided among those that share them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(*GONE):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def pin(cores: int) -> set[int]:
    """Keeps this process and all that it starts on so many cores, where there are more; which ones."""
    chosen = set(sorted(os.sched_getaffinity(0))[:cores])
    os.sched_setaffinity(0, chosen)
    return chosen


def machine_cpu_s() -> tuple[float, float]:
    """(busy, stolen by the hypervisor) seconds since boot of the cores that we may use."""
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = stolen = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in ours:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            busy += user + nice + system + irq + softirq
            stolen += steal
    return busy * TICK_S, stolen * TICK_S


@dataclass
class Usage:
    """CPU between two moments; filled when the `watch` block ends."""

    wall_s: float = 0.0
    server_s: float = 0.0
    busy_s: float = 0.0
    steal_s: float = 0.0

    def foreign_share(self, client_s: float, cores: int) -> float:
        """Share of the machine used by processes that are neither server nor client."""
        foreign = self.busy_s - self.server_s - client_s
        return max(0.0, foreign / (self.wall_s * cores)) if self.wall_s else 0.0

    def steal_share(self, cores: int) -> float:
        return self.steal_s / (self.wall_s * cores) if self.wall_s else 0.0


@contextlib.contextmanager
def watch(pids: list[int]) -> Iterator[Usage]:
    """Counts what these processes and the machine use inside the block."""
    usage = Usage()
    before, (busy, steal), began = cpu_s(pids), machine_cpu_s(), time.perf_counter()
    try:
        yield usage
    finally:
        usage.wall_s = time.perf_counter() - began
        now_busy, now_steal = machine_cpu_s()
        usage.busy_s, usage.steal_s = now_busy - busy, now_steal - steal
        usage.server_s = sum(value - before[pid] for pid, value in cpu_s(pids).items())


def end(pids: list[int], patience_s: float = 3.0) -> None:
    """Asks these processes to end, waits, then kills those that did not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(alive(pid) for pid in pids):
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether it runs, a zombie not counted."""
    try:
        return _stat(pid)[0] != "Z"
    except GONE:
        return False
