"""Which two answers to show next, and which of them on the left: blind, random by seed, never one twice."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tauten.improve.labels.answers import Answer
from tauten.improve.labels.judgements import Judgement


class Pair(NamedTuple):
    """Two answers to one item, as they are shown. Which plan gave which cannot be told from it."""

    item: str
    left: Answer
    right: Answer


def opinion(judgement: Judgement, before: Answer) -> int:
    """1 where the answer before was preferred, -1 where the one after was, 0 where neither was."""
    if judgement.choice not in ("left", "right"):
        return 0
    chosen = judgement.left if judgement.choice == "left" else judgement.right
    return 1 if chosen == before.content else -1


class Comparison:
    """The items that two plans answered differently, with what was said of them so far."""

    def __init__(self, answers: Mapping[str, tuple[Answer, Answer]], judgements: Iterable[Judgement]) -> None:
        self.answers = answers
        self.differing = [item for item, (old, new) in answers.items() if old.content != new.content]
        self.said: dict[str, list[Judgement]] = {item: [] for item in self.differing}
        self.judgements = [each for each in judgements if self._is_of_these(each)]
        for judgement in self.judgements:
            self.said[judgement.item].append(judgement)

    def _is_of_these(self, judgement: Judgement) -> bool:
        """Whether it was said of these two answers; the same item may have been answered otherwise before."""
        pair = self.answers.get(judgement.item, ())
        return judgement.item in self.said and judgement.pair == {answer.content for answer in pair}

    def opinions(self, item: str) -> list[int]:
        """Each labeller's opinion of an item."""
        return [opinion(each, self.answers[item][0]) for each in self.said[item]]

    def settled(self) -> dict[str, int]:
        """One opinion of each labelled item: whom most prefer; 0 where they are level."""
        found = {}
        for item in self.differing:
            if opinions := self.opinions(item):
                balance = sum(opinions)
                found[item] = (balance > 0) - (balance < 0)
        return found

    def disputed(self) -> list[str]:
        """Items on which labellers disagree."""
        return [item for item in self.differing if len(set(self.opinions(item))) > 1]

    def queue(self, labeller: str, seed: int) -> list[str]:
        """What this labeller has not seen: pairs without any label first, then disputed ones, then the others.

        Within each the order is random, so that the labelled pairs are a fair sample at any time.
        """
        disputed = set(self.disputed())

        def turn(item: str) -> tuple[int, bytes]:
            rank = 0 if not self.said[item] else 1 if item in disputed else 2
            return rank, _draw(seed, labeller, item)

        new = [item for item in self.differing if all(each.labeller != labeller for each in self.said[item])]
        return sorted(new, key=turn)

    def pair(self, item: str, labeller: str, seed: int) -> Pair:
        """Both answers of an item, sides by lot."""
        before, after = self.answers[item]
        swapped = _draw(seed, labeller, item, "side")[0] & 1
        return Pair(item, after, before) if swapped else Pair(item, before, after)


def _draw(seed: int, *names: str) -> bytes:
    """Random bytes that are the same for the same names on every machine."""
    return hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
