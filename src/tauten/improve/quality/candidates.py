"""Many candidates and few labels: halves to choose and to confirm on, and the price of asking often."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from tauten.errors import InputError
from tauten.improve.quality.verdict import Verdict, compare, decide
from tauten.statistics import holm

Scores = Mapping[str, bool | float]


class Halves(NamedTuple):
    """Items to choose candidates on, and items on which the chosen ones are judged once."""

    selection: list[str]
    confirmation: list[str]


def split(
    items: Iterable[str], seed: int = 0, share: float = 0.5, *, clusters: Mapping[str, str] | None = None
) -> Halves:
    """Part items into selection and confirmation; about `share` of them (0..1) are for selection.

    An item's half hangs on its name and the seed alone: who was looked at while choosing is never in the
    confirmation, however many items come later. The members of a cluster stay together. Each half
    keeps the given order. Raises InputError for a share outside 0..1.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"a share of {share} leaves a half empty", help="give 0.5", code="E252")
    halves = Halves([], [])
    for item in items:
        name = clusters[item] if clusters is not None else item
        halves[0 if _place(name, seed) < share else 1].append(item)
    return halves


def _place(name: str, seed: int) -> float:
    """A number in 0..1 that is the same on every machine."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def compare_many(
    before: Scores,
    candidates: Mapping[str, Scores],
    margin: float,
    confidence: float = 0.95,
    *,
    clusters: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Verdict]:
    """Judge k candidates on the same items: with `confidence` not one of them is accepted falsely.

    Each verdict carries the confidence that it was held to after Holm's correction, and says so in its
    method. Only accepts are corrected together: a rejected change costs a gain, never an answer.
    Raises what `compare` raises.
    """
    names = list(candidates)

    def passes(place: int, level: float) -> bool:
        after = candidates[names[place]]
        return decide(before, after, margin, 1.0 - level, clusters=clusters, seed=seed) == "accept"

    levels = holm(len(names), passes, 1.0 - confidence)
    found = {}
    for name, level in zip(names, levels, strict=True):
        verdict = compare(before, candidates[name], margin, 1.0 - level, clusters=clusters, seed=seed)
        method = f"{verdict.method}, Holm over {len(names)}" if len(names) > 1 else verdict.method
        found[name] = msgspec.structs.replace(verdict, method=method)
    return found
