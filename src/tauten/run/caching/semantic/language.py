"""The language: both questions are in the one that the checks know; where that cannot be told, they do not pass."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Final

from tauten.run.caching.semantic.lexicon import LIGHT
from tauten.run.caching.semantic.quantity import WORDS
from tauten.run.caching.semantic.wording import Wording

_OTHERS: Final = frozenset(
    """
    der die das den dem des ein eine einen einer wie was warum wann wo ist sind ich du er sie wir nicht kein keine und oder mit
    ohne auf zu zum zur von für mein meine kann wird
    le la les un une des du de et ou est sont je tu il elle nous vous ne pas comment pourquoi quand où quel quelle mon ma mes
    puis-je que qui sur dans avec sans
    el los las uno una unos y o es son yo mi mis cómo por qué cuándo dónde cuánto no se puede con sin para del al
    come perché quando dove il lo gli che non sono come posso mio mia
    como porque onde meu minha não um uma os as
    hoe waarom wanneer waar het een ik mijn niet met zonder kan
    """.split()
) - frozenset("was no die on as me he do or a so an come".split())
SURE = 0.25  # of the words are ones that every English question has: fewer, and nobody can tell


def language(one: Wording, other: Wording) -> str:
    """Why the two are not surely in English; empty where they are."""
    for each in (one, other):
        if not english(each):
            return f"not surely English: {each.text!r}"
    return ""


def english(asked: Wording) -> bool:
    """Whether a question is in English, as far as its small words say."""
    words = [word for word in asked.words if word[0].isalpha() and word not in asked.codes]
    if not words or not all(word.isascii() for word in words):
        return False
    ours = sum(word in LIGHT or word in WORDS for word in words)
    theirs = sum(word in _OTHERS for word in words)
    return ours > theirs and ours >= SURE * len(words)
