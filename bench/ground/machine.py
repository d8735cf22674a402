"""What the figures depend on besides the code: processor, clocks, governor, heat, NUMA nodes, versions."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CORES = 2  # of every comparison: threads of a model in all, or two processes of one thread each
ROOT = Path(__file__).parents[2]
NOT_VISIBLE = "not visible"  # most virtual machines hide clocks, governor and heat
VERSIONS = ("tauten", "onnxruntime", "numpy", "uvloop")


def facts(root: Path = Path("/")) -> dict[str, Any]:
    """The machine as it is, and its state at the start."""
    return {
        "cpu": next(iter(_cpuinfo(root, "model name")), ""),
        "cores": os.cpu_count(),
        "numa_nodes": len(list(root.glob("sys/devices/system/node/node[0-9]*"))) or NOT_VISIBLE,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "governor": _all_of(root, "cpufreq/scaling_governor"),
        "turbo": _turbo(root),
        "load_1min_at_start": os.getloadavg()[0],
        "at_start": state(root),
    }


def state(root: Path = Path("/")) -> dict[str, Any]:
    """What changes while a run goes on: read at its start and at its end."""
    clocks = [float(text) for text in _cpuinfo(root, "cpu MHz")]
    heat = [int(text) / 1000 for text in _texts(root, "sys/class/thermal/thermal_zone*/temp")]
    throttled = _texts(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    return {
        "clock_mhz": [min(clocks), max(clocks)] if clocks else NOT_VISIBLE,
        "hottest_c": max(heat) if heat else NOT_VISIBLE,
        "throttled": sum(int(text) for text in throttled) if throttled else NOT_VISIBLE,
    }


def words(machine: Mapping[str, Any]) -> str:
    """The state as one line of the page; what came of it at the end where that is known."""
    start, end = machine["at_start"], machine.get("at_end")
    shown = [
        f"{name} {_shown(start[key])}"
        + (f" → {_shown(end[key])}" if end and end[key] != start[key] else "")
        + (unit if start[key] != NOT_VISIBLE else "")
        for key, name, unit in (
            ("clock_mhz", "clock", " MHz"),
            ("hottest_c", "hottest sensor", " °C"),
            ("throttled", "throttled", " times"),
        )
    ]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    nodes = f"NUMA nodes {machine['numa_nodes']}"
    settings = [
        f"commit {machine['commit']}",
        f"governor {machine['governor']}",
        f"turbo {machine['turbo']}",
        nodes,
    ]
    return "; ".join([*settings, *shown, f"Python {machine['python']}, {versions}"])


def _shown(value: Any) -> str:
    return "–".join(dict.fromkeys(f"{each:.0f}" for each in value)) if isinstance(value, list) else str(value)


def _commit() -> str:
    """Of the checkout; with "-dirty" where files were changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return NOT_VISIBLE
    return done.stdout.strip() or NOT_VISIBLE


def _cpuinfo(root: Path, name: str) -> list[str]:
    lines = (root / "proc/cpuinfo").read_text().splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]


def _texts(root: Path, pattern: str) -> list[str]:
    found = []
    for path in sorted(root.glob(pattern)):
        try:
            found.append(path.read_text().strip())
        except OSError:  # a sensor that has nothing to say
            continue
    return found


def _all_of(root: Path, name: str) -> str:
    """The different values of all cores."""
    return ", ".join(dict.fromkeys(_texts(root, f"sys/devices/system/cpu/cpu[0-9]*/{name}"))) or NOT_VISIBLE


def _turbo(root: Path) -> str:
    off = _texts(root, "sys/devices/system/cpu/intel_pstate/no_turbo")
    on = _texts(root, "sys/devices/system/cpu/cpufreq/boost")
    if not off and not on:
        return NOT_VISIBLE
    return "on" if (off == ["0"] or on == ["1"]) else "off"
