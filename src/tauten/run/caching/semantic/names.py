"""What a question is about: entities, names of code, and every other word that carries content, one by one.

The check that needs no list of entities: whatever stands in one question and in no form in the other is taken for
another subject. It errs on the side of a miss.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.run.caching.semantic.amounts import named
from tauten.run.caching.semantic.lexicon import LIGHT, root
from tauten.run.caching.semantic.quantity import WORDS
from tauten.run.caching.semantic.wording import Wording

PUNCTUATION = frozenset(".,;:?!")


def names(one: Wording, other: Wording) -> str:
    """Why the two are not about the same; empty where they are."""
    mine, theirs = set(content(one)), set(content(other))
    if mine == theirs:
        return "" if mine else "neither says what it is about"
    return f"only in one of them: {', '.join(sorted(mine ^ theirs))}"


def content(asked: Wording) -> list[str]:
    """The words of a question that carry content, in their order, each by what stands for it."""
    said = named(asked)[1]
    return [
        word if word in asked.codes else root(word)
        for place, word in enumerate(asked.words)
        if place not in said and carries(word, asked)
    ]


def carries(word: str, asked: Wording) -> bool:
    """Whether a word carries content of its own."""
    if word in asked.codes:
        return True
    return word not in LIGHT and word not in WORDS and word not in PUNCTUATION
