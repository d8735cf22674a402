"""For how much of a run a model moves bytes, by what it has to read and the machine's measured bandwidth.

Of an ONNX graph its weights and what its operators hand on are counted. Other files say only how large their weights
are: those are read once a run at least, and once a token of a stream, so the figure is a lower bound.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tauten.improve.measuring.cost import cost_of
from tauten.improve.simulate.costs import STILL, Moving
from tauten.plan.peaks import Peaks
from tauten.plan.plan import ModelChoice
from tauten.plan.roofline import Point, formula

GRAPH: Final = "model.onnx"
WHOLE: Final = ("unbatched", "rows")  # options under which items bring all axes


def moving_of(
    choice: ModelChoice,
    files: Mapping[str, Path],
    items: Sequence[Any],
    peaks: Peaks,
    *,
    precision: str = "",
) -> Moving:
    """Of an item of the size that is the median of these; `precision` is that in force, where it is known.

    `STILL` where the peaks say too little, or no file says what there is to read. Raises InputError E255 for a graph
    that cannot be counted, MachineError where the package onnx is not installed.
    """
    if GRAPH in files:
        return _of_graph(choice, files[GRAPH], items, peaks, precision)
    size = max((path.stat().st_size for path in files.values() if path.is_file()), default=0)
    rate = peaks.copy_rate("memory", choice.threads)
    return Moving(0.0, size / rate) if size and rate else STILL


def _of_graph(
    choice: ModelChoice, path: Path, items: Sequence[Mapping[str, Any]], peaks: Peaks, precision: str
) -> Moving:
    ordered = sorted(items, key=_size)
    usual = ordered[len(ordered) // 2]
    whole = any(choice.options.get(name) for name in WHOLE)
    cost = cost_of(path, [usual], unbatched=whole)
    point = Point(threads=choice.threads, precision=precision, shape=_size(usual), engine=choice.backend)
    found = formula(cost, peaks, point)
    return Moving(_size(usual), found.memory * found.seconds) if found is not None else STILL


def _size(item: Mapping[str, Any]) -> float:
    """How many numbers an item holds: as tensor backends weigh it."""
    return float(sum(getattr(array, "size", 0) for array in item.values()))
