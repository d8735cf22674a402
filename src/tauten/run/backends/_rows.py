"""Items that bring their own batch axis: joined on it, split again; copied only where several are joined."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from tauten.errors import BackendError
from tauten.run.backends._arrays import as_backend_error

Arrays = Mapping[str, Any]
Execute = Callable[[dict[str, Any]], dict[str, Any]]


def key(item: Arrays, *, joins: bool) -> Hashable:
    """Items that agree in names, types and inner shapes may be joined; nothing is, where `joins` is false."""
    if not joins:
        return id(item)
    return tuple(sorted([(name, array.shape[1:], array.dtype.char) for name, array in item.items()]))


def run(items: Sequence[Arrays], execute: Execute, *, joins: bool) -> list[Any]:
    """Run items, those of equal inner shape together; results (or exceptions) in order."""
    if len(items) == 1:
        return _attempt(items, execute)
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(key(item, joins=joins), []).append(index)
    results: list[Any] = [None] * len(items)
    for members in groups.values():
        for index, answer in zip(
            members, _attempt([items[index] for index in members], execute), strict=True
        ):
            results[index] = answer
    return results


def _attempt(members: Sequence[Arrays], execute: Execute) -> list[Any]:
    try:
        if len(members) == 1:
            return [execute(dict(members[0]))]
        return split(execute(join(members)), [_count(item) for item in members])
    except Exception as error:  # noqa: BLE001 - engines raise bare Exception; it is the members' result
        return [as_backend_error(error)] * len(members)


def join(members: Sequence[Arrays]) -> dict[str, Any]:
    """One tensor for each input, the members' rows one after another."""
    return {name: np.concatenate([item[name] for item in members]) for name in members[0]}


def split(outputs: Arrays, counts: Sequence[int]) -> list[dict[str, Any]]:
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


def _count(item: Arrays) -> int:
    return len(next(iter(item.values())))
