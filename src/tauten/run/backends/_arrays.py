"""Items that are dicts of arrays: their batch key, their weight, stacking and splitting."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from tauten.errors import BackendError, TautenError

Arrays = Mapping[str, Any]
Execute = Callable[[dict[str, Any]], dict[str, Any]]


def shapes(item: Arrays) -> Hashable:
    """Names, shapes and dtypes: items that agree in them stack to one tensor each."""
    return tuple(
        sorted((name, np.shape(array), str(np.asarray(array).dtype)) for name, array in item.items())
    )


def elements(item: Arrays) -> float:
    """How many numbers the item holds."""
    return float(sum(np.size(array) for array in item.values()))


def run_stacked(items: Sequence[Arrays], execute: Execute, *, most: int) -> list[Any]:
    """Run items of equal shapes together, at most `most` at once; results (or exceptions) in order.

    `most` 0 means items are passed as they are, one at a time, without a batch axis.
    """
    results: list[Any] = [None] * len(items)
    for members in _split(items, max(most, 1)):
        answers: Sequence[Any]
        try:
            answers = _run_group([items[index] for index in members], execute, stack=most > 0)
        except Exception as error:  # noqa: BLE001 - engines raise bare Exception; it is the members' result
            answers = [as_backend_error(error)] * len(members)
        for index, answer in zip(members, answers, strict=True):
            results[index] = answer
    return results


def _split(items: Sequence[Arrays], most: int) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(shapes(item), []).append(index)
    return [group[at : at + most] for group in groups.values() for at in range(0, len(group), most)]


def _run_group(members: Sequence[Arrays], execute: Execute, *, stack: bool) -> list[dict[str, Any]]:
    if not stack:
        return [execute(dict(members[0]))]
    outputs = execute({name: np.stack([item[name] for item in members]) for name in members[0]})
    short = [name for name, array in outputs.items() if np.shape(array)[:1] != (len(members),)]
    if short:
        raise BackendError(
            f"output {short[0]!r} has shape {np.shape(outputs[short[0]])}, expected {len(members)} on axis 0",
            help="set the backend option `unbatched = true` for a model without a batch axis",
            code="E407",
        )
    return [{name: array[row] for name, array in outputs.items()} for row in range(len(members))]


def as_backend_error(error: Exception) -> TautenError:
    """An engine's exception as ours: its first line, the whole one chained."""
    if isinstance(error, TautenError):
        return error
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    ours = BackendError(
        f"the engine refused the input: {first}", help="compare names, shapes and dtypes", code="E407"
    )
    ours.__cause__ = error
    return ours


def check_names(given: Arrays, known: Sequence[str]) -> None:
    """Raise BackendError unless the item has exactly the model's inputs."""
    if set(given) != set(known):
        raise BackendError(
            f"the model takes {', '.join(sorted(known))}; the item has {', '.join(sorted(given)) or 'nothing'}",
            help="name every input of the model, and no other",
            code="E407",
        )
