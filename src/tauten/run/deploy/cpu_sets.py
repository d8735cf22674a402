"""Which processors a replica may use: lists as the kernel writes them, and NUMA nodes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tauten.errors import PlanError
from tauten.plan.hardware import spelled

NODES = Path("/sys/devices/system/node")


def cpu_sets(cpus: Sequence[str], nodes: Sequence[int], root: Path = NODES) -> tuple[frozenset[int], ...]:
    """The processors of each replica in turn; raises PlanError for some that this process may not use."""
    if cpus and nodes:
        raise PlanError(
            f"cpus = {list(cpus)} and nodes = {list(nodes)}", help="give one of the two", code="E122"
        )
    if not (cpus or nodes):
        return ()
    if not hasattr(os, "sched_setaffinity"):
        raise PlanError(
            "this system cannot bind threads to processors", help="leave cpus and nodes out", code="E122"
        )
    here = os.sched_getaffinity(0)
    sets = [_read(each) for each in cpus] or [_node(each, root) for each in nodes]
    for each in sets:
        if not each or not each <= here:
            raise PlanError(
                f"the plan binds a replica to processors {spelled(each) or 'none'}",
                help=f"this process may use {spelled(here)}",
                code="E122",
            )
    return tuple(sets)


def _node(number: int, root: Path) -> frozenset[int]:
    try:
        return _read((root / f"node{number}" / "cpulist").read_text())
    except OSError as error:
        there = sorted(path.name.removeprefix("node") for path in root.glob("node[0-9]*"))
        raise PlanError(
            f"the plan binds a replica to NUMA node {number}",
            help=f"this machine has: {', '.join(there) or 'no nodes'}",
            code="E122",
        ) from error


def _read(text: str) -> frozenset[int]:
    """``0-3,8`` as a set."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise PlanError(f"cpus = {text!r}", help='write processors as "0-3,8"', code="E122")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
