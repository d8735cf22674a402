"""Requests of which a stated share resembles an earlier one: half word for word, half in other words."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from tauten.examples.paraphrases import Pair

REWORDED = 0.5  # of what resembles an earlier request; the rest repeats it word for word


class Asked(NamedTuple):
    """One request: its words, what it means, and whether an earlier one meant that."""

    question: str
    meaning: str
    came: str = "first"  # repeated, reworded


def requests(pairs: Sequence[Pair], rate: float, count: int, seed: str) -> list[Asked]:
    """So many requests in order. What is new is drawn without putting back, traps of what was asked among it.

    Raises ValueError where the pairs have too few questions for so many new ones.
    """
    rng = random.Random(f"{seed}/{rate}")
    fresh = meanings(pairs)
    rng.shuffle(fresh)
    wordings = {each: _wordings(pairs, each) for each in fresh}
    found: list[Asked] = []
    while len(found) < count:
        if found and rng.random() < rate:
            found.append(_again(rng, found, wordings))
        elif fresh:
            meaning = fresh.pop()
            found.append(Asked(meaning, meaning))
        else:
            raise ValueError(f"{count} requests at {rate:.0%} need more than {len(wordings)} questions")
    return found


def meanings(pairs: Sequence[Pair]) -> list[str]:
    """Questions that all mean something else: the kept ones, and the traps; paraphrases are wordings of these."""
    others = {pair.asked for pair in pairs if pair.same}
    found = [pair.kept for pair in pairs] + [pair.asked for pair in pairs if not pair.same]
    return [each for each in dict.fromkeys(found) if each not in others]


def _wordings(pairs: Sequence[Pair], meaning: str) -> list[str]:
    return [pair.asked for pair in pairs if pair.same and pair.kept == meaning]


def _again(rng: random.Random, found: Sequence[Asked], wordings: dict[str, list[str]]) -> Asked:
    """A request like an earlier one; in other words where there are some that were not used yet."""
    used = {each.question for each in found}
    if rng.random() < REWORDED:
        left = [
            Asked(words, each.meaning, "reworded")
            for each in found
            for words in wordings[each.meaning]
            if words not in used
        ]
        if left:
            return rng.choice(left)
    earlier = rng.choice(found)
    return Asked(earlier.question, earlier.meaning, "repeated")
