"""Outcomes of labelled items, and the rates that are counted from them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tauten.statistics import wilson


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one labelled request got. `correct` is the metric's word: for an item that has no answer
    in the index, refusing is correct. `rank` is where the first accepted document came (1 is first)."""

    item: str
    correct: bool
    answerable: bool = True
    refused: bool = False
    rank: int | None = None


class Rate(msgspec.Struct, frozen=True):
    """`right` of `n` with a Wilson 95 % interval; n = 0 means there was nothing to count."""

    right: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        return self.right / self.n if self.n else None

    def __str__(self) -> str:
        return f"{self.right} of {self.n} ({self.low:.2f}-{self.high:.2f})" if self.n else "none"


class Summary(msgspec.Struct, frozen=True):
    """Rates of a set of outcomes: hits and answers over answerable items, refusals over the others."""

    n: int
    hit_at_1: Rate
    hit_at_3: Rate
    correct: Rate  # over all items
    answered_right: Rate  # over answerable items
    refused_right: Rate  # over items that have no answer


def summarize(outcomes: Iterable[Outcome], confidence: float = 0.95) -> Summary:
    """Count hits, correct answers and correct refusals, each with its interval."""
    every = list(outcomes)
    answerable = [outcome for outcome in every if outcome.answerable]
    others = [outcome for outcome in every if not outcome.answerable]

    def rate(flags: list[bool]) -> Rate:
        if not flags:
            return Rate(0, 0, 0.0, 1.0)
        found = wilson(sum(flags), len(flags), confidence)
        return Rate(sum(flags), len(flags), found.low, found.high)

    return Summary(
        n=len(every),
        hit_at_1=rate([outcome.rank is not None and outcome.rank <= 1 for outcome in answerable]),
        hit_at_3=rate([outcome.rank is not None and outcome.rank <= 3 for outcome in answerable]),
        correct=rate([outcome.correct for outcome in every]),
        answered_right=rate([outcome.correct for outcome in answerable]),
        refused_right=rate([outcome.refused for outcome in others]),
    )
