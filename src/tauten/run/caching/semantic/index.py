"""Vectors of the questions of each space, searched exactly; bounded in bytes, the oldest goes first.

Exact: some thousand questions a space are a matrix product of less than a millisecond, and an approximate index would add an
error that no gate has seen.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tauten.run.contracts import Kept

ROWS = 16  # of a space that has its first question; twice as many whenever they are full

DIGITS = 6  # of a score: what lies below is the order in which a product of 32-bit numbers was summed


class Question(NamedTuple):
    """A question whose answer is kept."""

    key: bytes
    space: bytes
    text: str
    kept: Kept


class _Space:
    """The questions of one space, and their vectors as the rows of one matrix."""

    def __init__(self, dimensions: int) -> None:
        self.rows: NDArray[np.float32] = np.zeros((ROWS, dimensions), np.float32)
        self.questions: list[Question] = []

    def add(self, question: Question, vector: NDArray[Any]) -> None:
        if len(self.questions) == len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        self.rows[len(self.questions)] = vector
        self.questions.append(question)

    def remove(self, place: int) -> Question | None:
        """Take one out; the last one comes into its place, and is given back."""
        last = self.questions.pop()
        if place == len(self.questions):
            return None
        self.questions[place] = last
        self.rows[place] = self.rows[len(self.questions)]
        return last


class Index:
    """All spaces. Nothing is ever looked for in two of them."""

    def __init__(self, bound_bytes: int) -> None:
        self.bound_bytes = bound_bytes
        self.size_bytes = self.evictions = 0
        self._spaces: dict[bytes, _Space] = {}
        self._places: dict[bytes, tuple[bytes, int, int]] = {}  # key -> space, row, bytes; the oldest first

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def add(self, question: Question, vector: NDArray[Any]) -> bool:
        """Keep a question, in place of an older one of its key; says whether there is room."""
        size = question.kept.size_bytes + 2 * len(question.text) + 4 * len(vector)
        if size > self.bound_bytes:
            return False
        self.remove(question.key)
        while self.size_bytes + size > self.bound_bytes:
            self.evictions += 1
            self.remove(next(iter(self._places)))
        space = self._spaces.get(question.space)
        if space is None:
            space = self._spaces[question.space] = _Space(len(vector))
        self._places[question.key] = (question.space, len(space.questions), size)
        space.add(question, vector)
        self.size_bytes += size
        return True

    def remove(self, key: bytes) -> None:
        found = self._places.pop(key, None)
        if found is None:
            return
        name, place, size = found
        self.size_bytes -= size
        space = self._spaces[name]
        moved = space.remove(place)
        if moved is not None:
            self._places[moved.key] = (name, place, self._places[moved.key][2])
        if not space.questions:
            del self._spaces[name]

    def nearest(self, space: bytes, vector: NDArray[Any], count: int) -> list[tuple[float, Question]]:
        """The likest questions of one space, by the cosine, the best first."""
        found = self._spaces.get(space)
        if found is None:
            return []
        scores = found.rows[: len(found.questions)] @ np.asarray(vector, np.float32)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(round(float(scores[place]), DIGITS), found.questions[place]) for place in best]

    def labelled(self, label: str) -> list[bytes]:
        """The keys of what carries a label."""
        return [
            question.key
            for space in self._spaces.values()
            for question in space.questions
            if label in question.kept.labels
        ]
