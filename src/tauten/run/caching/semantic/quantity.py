"""Quantifiers and comparatives: all, some, most, none, only, at least, more: both questions say the same ones."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Final

from tauten.run.caching.semantic.wording import Wording

_CLASSES: Final = {
    "all": "all|every|each|always|everything|everybody|everyone|whenever|entire|whole",
    "some": "some|sometimes|several|something|somebody|someone|certain",
    "most": "most|mostly|usually|majority",
    "any": "any|anything|anybody|anyone",
    "many": "many|much|lots",
    "few": "few|rarely|seldom",
    "none": "no|none|never|nobody|nothing",
    "only": "only|solely|just one|exclusively",
    "both": "both",
    "half": "half",
    "almost": "almost|nearly|about|around|roughly|approximately",
    "at least": "at least|minimum|no less than|no fewer than",
    "at most": "at most|up to|maximum|no more than",
    "more": "more|over|above|greater|exceeds?",
    "less": "less|fewer|under|below",
    "as much": "as much as|as many as|equally",
    "once more": "again|another",
}
_ANY: Final = tuple((name, re.compile(rf"\b(?:{words})\b")) for name, words in _CLASSES.items())
WORDS: Final = frozenset(
    word for words in _CLASSES.values() for each in words.split("|") for word in each.rstrip("?").split()
)


def quantity(one: Wording, other: Wording) -> str:
    """Why the two do not speak of as many; empty where they do."""
    mine, theirs = classes(one), classes(other)
    if mine == theirs:
        return ""
    return f"quantifiers: {', '.join(sorted(mine)) or 'none'} and {', '.join(sorted(theirs)) or 'none'}"


def classes(asked: Wording) -> frozenset[str]:
    """The quantifiers of a question; those of several words before the words in them."""
    text, found = " ".join(asked.words), set()
    for name, pattern in sorted(_ANY, key=lambda each: " " not in each[0]):
        if pattern.search(text):
            found.add(name)
            text = pattern.sub(" ", text) if " " in name else text
    if "many" in found and re.search(r"\bhow (?:many|much)\b", text):
        found.discard("many")  # which is what is asked, and compared there
    return frozenset(found)
