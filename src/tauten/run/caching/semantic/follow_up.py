"""Whether a question stands by itself: one that points at what was said before has another answer each time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Final

from tauten.run.caching.semantic.names import PUNCTUATION, carries
from tauten.run.caching.semantic.wording import Wording

_OPENINGS: Final = re.compile(
    r"^(?:and|but|so|then|also|or|what about|how about|what if|ok|okay|yes|no|why not|same)\b"
)
_POINTING: Final = re.compile(
    r"\b(?:other|others|another|former|latter|previous|above|earlier|again|instead|else)\b"
    r"|\b(?:second|third|fourth|next|last) (?:one|step|point|part|answer|example|option)\b"
    r"|\b(?:you|we|i) (?:said|mean|meant|wrote|mentioned)\b|\byou mean\b"
)
_PRONOUNS: Final = frozenset("it its they them their theirs he she him her his hers".split())
_SHOWN: Final = frozenset("this that these those".split())
_EMPTY: Final = re.compile(
    r"\b(?:is|was|would|will) it (?:not )?(?:be )?(?:\w+ )?(?:possible|\w+) (?:to|for|that)\b|\bit is \w+ to\b"
)
_TIMES: Final = frozenset("week month year morning afternoon evening".split())
_ENOUGH = 2  # words of content: fewer say what is asked only to who heard the rest
_NO_NOUN: Final = frozenset("reason so sure know say means think".split())


def follow_up(one: Wording, other: Wording) -> str:
    """Why one of the two leans on what was said before; empty where both stand by themselves."""
    for each in (one, other):
        if why := leans(each):
            return f"{why}: {each.text!r}"
    return ""


def leans(asked: Wording) -> str:
    """Why a question does not stand by itself; empty where it does."""
    text = " ".join(asked.words)
    if _OPENINGS.search(text) or _POINTING.search(text):
        return "it points back"
    about = [word for word in asked.words if carries(word, asked)]
    if len(about) < _ENOUGH and not asked.codes:
        return "it says too little"
    words = _EMPTY.sub(" ", text).split()
    for place, word in enumerate(words):
        if (word in _PRONOUNS or word in _SHOWN) and not _meant(words, place, asked):
            return f"`{word}` stands for something outside of it"
    return ""


def _meant(words: list[str], place: int, asked: Wording) -> bool:
    """Whether what a pronoun stands for is in the question itself."""
    if words[place] not in _SHOWN:
        return _noun(words[:place], asked)
    before, after = words[place - 1] if place else "", words[place + 1] if place + 1 < len(words) else ""
    if after in _TIMES or before in _NO_NOUN:
        return True
    if words[place] == "that" and place and carries(before, asked) and before not in PUNCTUATION:
        return True  # relative: "a book that is on loan"
    ended = [number for number, word in enumerate(words[:place]) if word in ".?!"]
    return bool(ended) and _noun(words[: ended[-1]], asked)


def _noun(words: list[str], asked: Wording) -> bool:
    """Whether something is named there: code, or a word of content behind an article."""
    for place, word in enumerate(words):
        if word in asked.codes:
            return True
        if place and carries(word, asked) and words[place - 1] in _ARTICLES:
            return True
    return False


_ARTICLES: Final = frozenset("a an the my our your all every each two".split())
