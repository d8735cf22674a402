"""Items that run together: joined into one tensor for each input before the run, taken apart after it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tauten.errors import BackendError, TautenError

Arrays = Mapping[str, Any]
Execute = Callable[[dict[str, Any]], Arrays]
ANY = 1 << 30  # rows: a bound that no batch meets


class Part(NamedTuple):
    """One run of the engine. An item alone is passed as it lies; only several are copied into one tensor.

    A new tensor each time: the allocator gives the last one's memory again, so that a buffer kept here saves
    nothing (measured from 6 KB to 20 MB), and no answer can lie in memory that is written anew.
    """

    members: Sequence[int]  # where its items stand in the batch
    inputs: dict[str, Any]
    split: Callable[[Arrays], list[Any]]  # the outputs as one answer for each member: views, never copies


def filled(count: int, sizes: Sequence[int]) -> int:
    """The size that so many run at, where the engine runs only certain ones: the others are filled up."""
    return next((size for size in sizes if size >= count), count)


def batch_text(most: int, sizes: Sequence[int]) -> str:
    """What a batch may hold, for people."""
    if len(sizes) > 1:
        return f"filled up to {', '.join(map(str, sizes))}"
    return {0: "no batch axis", ANY: "any"}.get(most, f"fixed at {most}")


def run(parts: Sequence[Part], execute: Execute) -> list[Any]:
    """Run each part; answers (or exceptions) in the items' order."""
    if len(parts) == 1:
        return _found(parts[0], execute)
    answers: list[Any] = [None] * sum([len(part.members) for part in parts])
    for part in parts:
        for index, answer in zip(part.members, _found(part, execute), strict=True):
            answers[index] = answer
    return answers


def _found(part: Part, execute: Execute) -> list[Any]:
    """One part's answers. The frames that an engine's error passed go at once: they hold the inputs, and
    through their callers the error itself."""
    try:
        return part.split(execute(part.inputs))
    except Exception as error:  # noqa: BLE001 - engines raise bare Exception; it is the members' result
        return [as_backend_error(error.with_traceback(None))] * len(part.members)


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


def check_names(given: Arrays, known: frozenset[str]) -> None:
    """Raise BackendError unless the item has exactly the model's inputs."""
    if given.keys() != known:
        raise BackendError(
            f"the model takes {', '.join(sorted(known))}; the item has {', '.join(sorted(given)) or 'nothing'}",
            help="name every input of the model, and no other",
            code="E407",
        )
