"""The order of what is compared, moved or nested: "A before B" is not "B before A".

Two questions of the same words may have them in another order only where that is known to say the same: a clause put
first, the passive voice, the two sides of an "and", or "task in asyncio" as "asyncio task".
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tauten.run.caching.semantic.amounts import named
from tauten.run.caching.semantic.lexicon import root
from tauten.run.caching.semantic.names import PUNCTUATION, carries, content
from tauten.run.caching.semantic.wording import Wording

MARKERS: Final = {
    **dict.fromkeys(("to", "into", "onto", "towards"), "to"),
    **{word: word for word in ("from", "than", "before", "after", "as", "until", "since")},
    **dict.fromkeys(("inside", "within"), "inside"),
    "outside": "outside",
    "behind": "behind",
    "instead": "instead",
    "without": "without",
    "over": "over",
}
_PREPOSITIONS: Final = frozenset(
    "of for in on at by with via using if when while whether and or but because".split()
)
_INFINITIVES: Final = frozenset(  # before "to": it begins a verb, not a goal
    "way ways how possible able need needs want wants like have has had going ought try do did what best is are me "
    "required allowed supposed sure easy hard".split()
)


def order(one: Wording, other: Wording) -> str:
    """Why the two have something in another order; empty where they have not."""
    if _goals(one) != _goals(other):
        return "another thing comes before, after, from or to"
    mine, theirs = _sequence(one), _sequence(other)
    if mine == theirs or sorted(mine) != sorted(theirs):
        return ""  # other words are another check's
    for first, second, said in ((mine, theirs, other), (theirs, mine, one)):
        if _fronted(first, second, said) or _passive(first, second, said):
            return ""
    return "" if _joined(one, other) or _joined(other, one) else "the same words in another order"


def _sequence(asked: Wording) -> list[str]:
    return [word for word in content(asked) if word not in MARKERS]


def _goals(asked: Wording) -> list[tuple[str, tuple[str, ...]]]:
    """What follows each word that says where to, before what, than what."""
    goals = []
    for place, word in enumerate(asked.words):
        before = asked.words[place - 1] if place else ""
        if word in MARKERS and not (word == "to" and before in _INFINITIVES):
            goals.append((MARKERS[word], _object(asked, place + 1)))
    return sorted(goals)


def _object(asked: Wording, start: int) -> tuple[str, ...]:
    """The words of content up to the next preposition, or the end of the clause."""
    found: list[str] = []
    said = named(asked)[1]  # amounts are another check's, which knows how they may be written
    for place, word in enumerate(asked.words[start:], start):
        if place in said:
            continue
        if word in MARKERS or word in _PREPOSITIONS or word in PUNCTUATION:
            break
        if carries(word, asked):
            found.append(word if word in asked.codes else root(word))
    return tuple(found)


def _fronted(first: Sequence[str], second: Sequence[str], said: Wording) -> bool:
    """Whether the second is the first with its last part put before a comma."""
    if "," not in said.words:
        return False
    return any(list(first[cut:]) + list(first[:cut]) == list(second) for cut in range(1, len(first)))


def _passive(first: list[str], second: list[str], said: Wording) -> bool:
    """Whether the second says in the passive voice what the first does: its verb has moved, and its agent is last."""
    if not any(word.endswith(("ed", "en", "n")) for word in said.words):
        return False
    if "by" in said.words:
        agent = [
            word if word in said.codes else root(word)
            for word in said.words[said.words.index("by") + 1 :]
            if carries(word, said)
        ]
        done = second[: len(second) - len(agent)]
        return bool(agent and done) and first == agent + done[-1:] + done[:-1]
    if not {"be", "is", "are", "was", "were", "been"} & set(said.words):
        return False
    return any(_without(first, verb) == _without(second, verb) for verb in set(first[:1]))


def _without(words: Sequence[str], one: str) -> list[str]:
    return [word for word in words if word != one]


def _joined(one: Wording, other: Wording) -> bool:
    """Whether two neighbours have changed places, around an "and", or as "task in asyncio" and "asyncio task"."""
    mine, theirs = _sequence(one), _sequence(other)
    places = [place for place, (left, right) in enumerate(zip(mine, theirs, strict=True)) if left != right]
    if len(places) != 2 or places[1] != places[0] + 1:
        return False
    between = _between(one, mine[places[0]], mine[places[1]])
    beside = _between(other, theirs[places[0]], theirs[places[1]])
    if between == beside and set(between) <= {"and", "or"} and between:
        return not {"from", "to", "than"} & set(one.words)
    return set(between) <= {"of", "in", "the", "a", "an"} and bool({"of", "in"} & set(between)) and not beside


def _between(asked: Wording, left: str, right: str) -> list[str]:
    roots = [word if word in asked.codes else root(word) for word in asked.words]
    if left not in roots or right not in roots[roots.index(left) :]:
        return ["?"]
    start = roots.index(left)
    return list(asked.words[start + 1 : roots.index(right, start)])
