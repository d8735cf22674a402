"""Items that bring their own batch axis: joined on it, split again; copied only where several are joined."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tauten.errors import BackendError
from tauten.run.backends._parts import Part

Arrays = Mapping[str, Any]


def key(item: Arrays, *, joins: bool) -> Hashable:
    """Items that agree in names, types and inner shapes may be joined; nothing is, where `joins` is false."""
    if not joins:
        return id(item)
    return tuple([(name, array.shape[1:], array.dtype.char) for name, array in item.items()])


def joined(items: Sequence[Arrays], *, joins: bool) -> list[Part]:
    """Items of equal key together."""
    if len(items) == 1:
        return [Part((0,), dict(items[0]), _whole)]
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(key(item, joins=joins), []).append(index)
    return [_part(members, [items[index] for index in members]) for members in groups.values()]


def _part(members: Sequence[int], items: Sequence[Arrays]) -> Part:
    first = items[0]
    if len(items) == 1:
        return Part(members, dict(first), _whole)
    inputs = {name: np.concatenate([item[name] for item in items]) for name in first}
    counts = [len(next(iter(item.values()))) for item in items]
    return Part(members, inputs, partial(_split, counts))


def _whole(outputs: Arrays) -> list[Any]:
    return [outputs]


def _split(counts: Sequence[int], outputs: Arrays) -> list[Any]:
    """Each member's rows of each output, as views."""
    total = sum(counts)
    for name, array in outputs.items():
        if np.shape(array)[:1] != (total,):
            raise BackendError(
                f"output {name!r} has shape {np.shape(array)}, expected {total} rows",
                help="this model's first axis is no batch axis: set `batch = { max = 1 }` in its plan",
                code="E407",
            )
    answers, start = [], 0
    for count in counts:
        answers.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return answers
