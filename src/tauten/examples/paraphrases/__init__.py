"""Paraphrases and traps: pairs of questions that one answer serves, and pairs that look alike and need two.

Written for this purpose, about Python's documentation and about what customers ask. A trap differs in one thing: a
negation, a number, a unit, an entity, the order of two things, a quantifier, the language, or what was said before. A
question that is asked in the negative ("can't I ...?") is a trap, too: a bare "yes" to it means the other thing.
Splits are by topic: nothing of the held-out half is known to who writes a check or sets a threshold.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple

Split = Literal["dev", "held_out"]
SPLITS: Final[tuple[Split, ...]] = ("dev", "held_out")
KINDS: Final = (
    *("paraphrase", "negation", "number", "entity", "unit", "order", "language", "follow-up"),
    "quantifier",
)


class Pair(NamedTuple):
    """Two questions. The first is in the cache, the second is asked."""

    split: Split
    topic: str
    kind: str
    kept: str
    asked: str

    @property
    def same(self) -> bool:
        """Whether one answer serves both."""
        return self.kind == "paraphrase"


def pairs(*splits: Split) -> list[Pair]:
    """All pairs of these splits; of both without any."""
    return [pair for split in splits or SPLITS for pair in _read(split)]


def _read(split: Split) -> Iterator[Pair]:
    content = tomllib.loads((files(__name__) / f"{split}.toml").read_text("utf-8"))
    for question in content["question"]:
        yield from _of(split, question)
    for listed in content["pairs"]:
        for kept, asked in listed["asked"]:
            yield Pair(split, "anything", listed["kind"], kept, asked)


def _of(split: Split, question: dict[str, Any]) -> Iterator[Pair]:
    for key, asked in question.items():
        kind = "paraphrase" if key == "same" else key
        if kind in KINDS:
            yield from (Pair(split, question["topic"], kind, question["ask"], each) for each in asked)
