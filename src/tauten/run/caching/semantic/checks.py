"""All checks, which must all pass before one question's answer serves another's. Each fails where it cannot tell."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Final

from tauten.run.caching.semantic.amounts import amounts
from tauten.run.caching.semantic.asked import asked
from tauten.run.caching.semantic.follow_up import follow_up, leans
from tauten.run.caching.semantic.language import english, language
from tauten.run.caching.semantic.names import names
from tauten.run.caching.semantic.order import order
from tauten.run.caching.semantic.polarity import polarity
from tauten.run.caching.semantic.quantity import quantity
from tauten.run.caching.semantic.wording import Wording, wording

Check = Callable[[Wording, Wording], str]
LONGEST = 400  # characters: a text that is longer is no question that a few words tell apart

CHECKS: Final[dict[str, Check]] = {  # the cheapest and likeliest first
    "language": language,
    "follow-up": follow_up,
    "asked": asked,
    "polarity": polarity,
    "amounts": amounts,
    "quantity": quantity,
    "names": names,
    "order": order,
}


def refusal(kept: str, asked: str) -> tuple[str, str]:
    """(the first check that does not pass, why); two empty strings where all pass."""
    if max(len(kept), len(asked)) > LONGEST:
        return "length", "too long to be told apart"
    one, other = wording(kept), wording(asked)
    for name, check in CHECKS.items():
        if why := check(one, other):
            return name, why
    return "", ""


def stands_alone(asked: str) -> bool:
    """Whether a question could be served by another's answer at all: asked before anything dear is done."""
    if len(asked) > LONGEST:
        return False
    taken = wording(asked)
    return english(taken) and not leans(taken)


@functools.cache
def checks_revision() -> str:
    """A name of these checks and their lists of words: what was proved behind others says nothing of scores behind these."""
    hasher = hashlib.blake2b(digest_size=6)
    for each in sorted(files(__package__).iterdir(), key=lambda each: each.name):
        if each.name.removesuffix(".py") in _SOURCES:
            hasher.update(each.read_bytes())
    return hasher.hexdigest()


_SOURCES: Final = frozenset(
    {
        "amounts",
        "asked",
        "checks",
        "follow_up",
        "language",
        "lexicon",
        "names",
        "order",
        "polarity",
        "quantity",
    }
    | {"wording"}
)
