"""Questions on the tier on disk: a process that starts anew knows them again, and their answers are there already.

A question is kept as a result of its own, under a name of its own, with the labels of its answer: whoever forgets one
forgets the other. Which of them are of a step as it is now says one more label, its `mark`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tauten.run.caching.naming import content_name
from tauten.run.caching.semantic.index import Question
from tauten.run.contracts import Cache, Kept, Sought

MARK = "like:"  # before the name of what a step computes, in the labels of its questions


class Walked(Cache, Protocol):
    """A tier whose results can be gone through, and forgotten by several labels at once."""

    async def forget(self, label: str, *more: str) -> int: ...

    async def labelled(self, label: str) -> list[Kept]: ...


class Remembered(msgspec.Struct, frozen=True):
    """A question as it lies on disk: where it belongs, and its vector as 32-bit numbers."""

    key: bytes
    space: bytes
    text: str
    vector: bytes


class Known(NamedTuple):
    """A question that was found again."""

    question: Question
    vector: NDArray[np.float32]


def mark_of(space: bytes) -> str:
    """The label of the questions of a step: what it computes, without the inputs."""
    return f"{MARK}{space.hex()[:24]}"


async def remember(disk: Cache, question: Question, vector: NDArray[Any]) -> bool:
    """Keep a question beside its answer; says whether it is kept."""
    value = Remembered(question.key, question.space, question.text, np.asarray(vector, np.float32).tobytes())
    size_bytes = len(value.vector) + 2 * len(value.text) + len(value.key) + len(value.space)
    kept = question.kept._replace(
        value=value, size_bytes=size_bytes, spent=(), saved_s=0.0, saved_cents=0.0, times_s=()
    )
    return await disk.put(Sought(_name(question.key), question.space, {}), kept)


async def recalled(disk: Walked, mark: str) -> AsyncIterator[Known]:
    """The questions of a step whose answers are there still."""
    for each in await disk.labelled(mark):
        value = each.value
        if value.__class__ is not Remembered:
            continue
        answer = await disk.get(Sought(value.key, value.space, {}))
        if answer is None:
            continue
        answer = answer._replace(lives_s=each.lives_s, labels=each.labels)
        yield Known(
            Question(value.key, value.space, value.text, answer), np.frombuffer(value.vector, np.float32)
        )


def _name(key: bytes) -> bytes:
    return content_name("a question of", key)
