"""What a model decides on real inputs, and whether a smaller form of it decides the same.

There are no labels: agreement with the larger form may reject the smaller one, and can never accept it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tauten.errors import BackendError
from tauten.improve.quality.verdict import Verdict, compare
from tauten.run.contracts import ModelSpec, find
from tauten.run.workers import in_thread

MARGIN: Final = 0.01  # one point, which the help desk allows itself to lose

Decide = Callable[[Sequence[Mapping[str, Any]]], list[int]]


async def results(backend: str, spec: ModelSpec, items: Sequence[Any]) -> list[Mapping[str, Any]]:
    """What a model gives for each item, run alone in this process."""
    return await in_thread(_results, backend, spec, items)


def _results(backend: str, spec: ModelSpec, items: Sequence[Any]) -> list[Mapping[str, Any]]:
    opened = find("backends", backend)(spec)
    opened.open()
    try:
        found: list[Mapping[str, Any]] = []
        for item in items:
            (result,) = opened.run([item])
            if isinstance(result, BaseException):
                raise BackendError(f"{spec.model} on {backend}: {result}", help="check the model")
            found.append(result)
        return found
    finally:
        opened.close()


def likeliest(results: Sequence[Mapping[str, Any]]) -> list[int]:
    """The class with the largest number, of each."""
    return [int(next(iter(each.values())).argmax()) for each in results]


def nearest(results: Sequence[Mapping[str, Any]]) -> list[int]:
    """For each vector the one of the others that is nearest."""
    import numpy as np

    vectors = np.stack([next(iter(each.values())).ravel() for each in results])
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    return [int(place) for place in near.argmax(axis=1)]


def agreement(before: Sequence[Any], after: Sequence[Any], margin: float = MARGIN) -> Verdict:
    """The gate's verdict, with the larger form's decisions for the truth."""
    same = {f"{n:04}": old == new for n, (old, new) in enumerate(zip(before, after, strict=True))}
    return compare(dict.fromkeys(same, True), same, margin)


def words(name: str, decision: str, verdict: Verdict) -> str:
    """What may be said of it.

    >>> words("int8", "class", agreement([1, 2], [1, 2]))
    'int8: the same class for 2 of 2 (no labels: agreement cannot accept; cannot conclude, n >= 299 (now 2))'
    """
    kept = verdict.n - len(verdict.bad_flips)
    says = "no loss above the margin was seen" if verdict.decision == "accept" else str(verdict)
    return (
        f"{name}: the same {decision} for {kept} of {verdict.n} (no labels: agreement cannot accept; {says})"
    )
