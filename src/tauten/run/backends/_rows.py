"""Items that bring their own batch axis: joined on it, split again; copied only where rows are put together."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tauten.errors import BackendError
from tauten.run.backends._parts import Part, filled

Arrays = Mapping[str, Any]


def key(item: Arrays, *, joins: bool) -> Hashable:
    """Items that agree in names, types and inner shapes may be joined; nothing is, where `joins` is false."""
    if not joins:
        return id(item)
    return tuple([(name, array.shape[1:], array.dtype.char) for name, array in item.items()])


def places(item: Arrays) -> int:
    """The rows that an item brings."""
    first = next(iter(item.values()), None)
    return len(first) if first is not None and first.ndim else 1


def joined(items: Sequence[Arrays], *, joins: bool, sizes: Sequence[int] = ()) -> list[Part]:
    """Items of equal key together; where the engine runs only certain `sizes`, filled up to one of them."""
    if len(items) == 1:
        return [_part((0,), items, sizes)]
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(key(item, joins=joins), []).append(index)
    runs = [run for members in groups.values() for run in _runs(members, items, sizes)]
    return [_part(run, [items[index] for index in run], sizes) for run in runs]


def _runs(members: list[int], items: Sequence[Arrays], sizes: Sequence[int]) -> list[list[int]]:
    """Members in their order, as many in a run as its largest size holds."""
    if not sizes:
        return [members]
    runs: list[list[int]] = []
    room = 0
    for index in members:
        rows = places(items[index])
        if rows > room or not runs:
            runs.append([])
            room = sizes[-1]
        runs[-1].append(index)
        room -= rows
    return runs


def _part(members: Sequence[int], items: Sequence[Arrays], sizes: Sequence[int]) -> Part:
    first, last = items[0], items[-1]
    if len(items) == 1 and (not sizes or places(first) in sizes):
        return Part(members, dict(first), _whole)
    counts = [places(item) for item in items]
    total = sum(counts)
    rows = filled(total, sizes)
    inputs = {}
    for name in first:
        filling = [last[name][-1:]] * (rows - total)  # any numbers would do; these the model surely takes
        inputs[name] = np.concatenate([*[item[name] for item in items], *filling])
    return Part(members, inputs, partial(_split, counts, rows))


def _whole(outputs: Arrays) -> list[Any]:
    return [outputs]


def _split(counts: Sequence[int], rows: int, outputs: Arrays) -> list[Any]:
    """Each member's rows of each output, as views; those of the filling are nobody's."""
    for name, array in outputs.items():
        if np.shape(array)[:1] != (rows,):
            raise BackendError(
                f"output {name!r} has shape {np.shape(array)}, expected {rows} rows",
                help="this model's first axis is no batch axis: set `batch = { max = 1 }` in its plan",
                code="E407",
            )
    answers, start = [], 0
    for count in counts:
        answers.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return answers
