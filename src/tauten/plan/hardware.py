"""What a measurement is valid for: cores, vector units, memory and GPU of this machine."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

_MEMORY_SLACK = 0.10  # kernels and hypervisors keep back up to about a tenth of the same memory


class Hardware(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fingerprint: what this process may use, not what the host has.

    >>> str(Hardware(cores=2, flags=("avx512", "amx"), memory_gib=24))
    '2 cores avx512 amx, 24 GiB, no gpu'
    """

    cores: int
    flags: tuple[str, ...] = ()
    memory_gib: int = 0
    gpu: str = ""

    def __str__(self) -> str:
        cores = " ".join([f"{self.cores} core{'s' if self.cores != 1 else ''}", *self.flags])
        return f"{cores}, {self.memory_gib} GiB, {self.gpu or 'no gpu'}"

    def matches(self, other: Hardware) -> bool:
        """Whether times measured on one hold on the other; memory may differ by a tenth."""
        same = (self.cores, self.flags, self.gpu) == (other.cores, other.flags, other.gpu)
        gap = abs(self.memory_gib - other.memory_gib)
        return same and gap <= max(1.0, _MEMORY_SLACK * max(self.memory_gib, other.memory_gib))


@functools.cache
def hardware() -> Hardware:
    """The fingerprint of this machine, as far as affinity and container limits let this process see it."""
    return Hardware(_cores(), simd_flags(_cpu_flags()), _memory_gib(), _gpu())


def processors() -> tuple[int, ...]:
    """Those that this process may use, by the kernel's numbers."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def processors_of(text: str) -> set[int]:
    """A list as the kernel writes it; raises ValueError for another text.

    >>> sorted(processors_of("0-2,8"))
    [0, 1, 2, 8]
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def spelled(numbers: Iterable[int]) -> str:
    """Processors as the kernel writes them.

    >>> spelled([0, 1, 2, 8])
    '0-2,8'
    """
    parts: list[list[int]] = []
    for each in sorted(numbers):
        if parts and each == parts[-1][-1] + 1:
            parts[-1].append(each)
        else:
            parts.append([each])
    return ",".join(f"{each[0]}-{each[-1]}" if len(each) > 1 else str(each[0]) for each in parts)


def simd_flags(flags: frozenset[str]) -> tuple[str, ...]:
    """The vector units that decide a model's speed, without those that a stronger one implies.

    AMX machines all have VNNI, AVX-512 machines all have AVX2.
    """
    if "avx512f" in flags:
        amx = "amx_tile" in flags
        int8 = () if amx or "avx512_vnni" not in flags else ("vnni",)
        return ("avx512", *int8, *(("amx",) if amx else ()))
    if "avx2" in flags:
        return ("avx2", "vnni") if "avx_vnni" in flags else ("avx2",)
    return tuple(
        name for flag, name in (("asimd", "neon"), ("sve", "sve"), ("i8mm", "i8mm")) if flag in flags
    )


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = (_read("/sys/fs/cgroup/cpu.max") or "max 1").partition(" ")
    if quota.isdigit() and period.isdigit():
        usable = min(usable, max(1, round(int(quota) / int(period))))
    return usable


def _cpu_flags() -> frozenset[str]:
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    if line:
        return frozenset(line[1].split())
    return frozenset({"asimd"}) if platform.machine().lower() in {"arm64", "aarch64"} else frozenset()


def _memory_gib() -> int:
    sizes = []
    total = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    if total:
        sizes.append(int(total[1]) * 1024)
    elif "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = _read("/sys/fs/cgroup/memory.max")
    if limit.isdigit():
        sizes.append(int(limit))
    return -(-min(sizes) // 2**30) if sizes else 0  # rounded up: the kernel has taken its part already


def _gpu() -> str:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in {"", "-1"}:
        return ""
    try:
        cards = sorted(Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:  # no driver, or a system without /proc: no card of this kind to name
        cards = []
    for card in cards:
        model = re.search(r"^Model:\s*(.+)$", _read(str(card / "information")), re.MULTILINE)
        if model:
            return f"{len(cards)}x {model[1].strip()}" if len(cards) > 1 else model[1].strip()
    return "amd gpu" if Path("/dev/kfd").exists() else ""


def _read(path: str) -> str:
    """The text of a kernel file, or nothing where the system has none."""
    try:
        return Path(path).read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""
