"""Items that are dicts of arrays: their batch key, their weight, stacking and splitting."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tauten.errors import BackendError
from tauten.run.backends._parts import Part, filled

Arrays = Mapping[str, Any]


def shapes(item: Arrays) -> Hashable:
    """Names, shapes and dtypes: items that agree in them stack to one tensor each."""
    return tuple(
        sorted((name, np.shape(array), str(np.asarray(array).dtype)) for name, array in item.items())
    )


def elements(item: Arrays) -> float:
    """How many numbers the item holds."""
    sizes = [each.size if each.__class__ is np.ndarray else np.size(each) for each in item.values()]
    return float(sum(sizes))


def stacked(items: Sequence[Arrays], *, most: int, sizes: Sequence[int] = ()) -> list[Part]:
    """Items of equal shapes stacked, at most `most` at once, and filled up to one of `sizes` where there are any;
    0: as they are, one by one, without a batch axis."""
    if not most:
        return [Part((index,), dict(item), _whole) for index, item in enumerate(items)]
    return [_part(members, [items[index] for index in members], sizes) for members in _split(items, most)]


def _part(members: Sequence[int], items: Sequence[Arrays], sizes: Sequence[int]) -> Part:
    count = len(items)
    rows = filled(count, sizes)
    return Part(members, _stack(items, rows), partial(_each_row, count, rows))


def _split(items: Sequence[Arrays], most: int) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(shapes(item), []).append(index)
    return [group[at : at + most] for group in groups.values() for at in range(0, len(group), most)]


def _stack(members: Sequence[Arrays], rows: int) -> dict[str, Any]:
    """One tensor for each input; the last member stands for those that are missing."""
    first = members[0]
    if rows == 1:
        return {name: np.asarray(array)[np.newaxis] for name, array in first.items()}
    members = [*members, *[members[-1]] * (rows - len(members))]
    return {name: np.stack([item[name] for item in members]) for name in first}


def _whole(outputs: Arrays) -> list[Any]:
    return [outputs]


def _each_row(count: int, rows: int, outputs: Arrays) -> list[Any]:
    """The first `count` rows of each output, which are the members'."""
    for name, array in outputs.items():
        if np.shape(array)[:1] != (rows,):
            raise BackendError(
                f"output {name!r} has shape {np.shape(array)}, expected {rows} on axis 0",
                help="set the backend option `unbatched = true` for a model without a batch axis",
                code="E407",
            )
    return [{name: array[row] for name, array in outputs.items()} for row in range(count)]
