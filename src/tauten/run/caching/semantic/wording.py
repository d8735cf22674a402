"""A question as its words: what all checks look at, taken apart once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import re
import unicodedata
from typing import NamedTuple

from tauten.run.caching.semantic.lexicon import LIGHT, PHRASES

_MARKS = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\u00a0": " "})
_SHORT = (  # what is written short, as long words: a check sees "not" wherever it is said
    (re.compile(r"\bcan't\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\bshan't\b"), "shall not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(what|how|where|when|who|why|it|that|there|here)'s\b"), r"\1 is"),
    (re.compile(r"\bi'm\b"), "i am"),
    (re.compile(r"\b(\w+)'re\b"), r"\1 are"),
    (re.compile(r"\b(\w+)'ve\b"), r"\1 have"),
    (re.compile(r"\b(\w+)'ll\b"), r"\1 will"),
    (re.compile(r"\b(\w+)'d\b"), r"\1 would"),
)
_WORD = re.compile(
    r"\*{0,2}[^\W\d_][\w]*(?:[.\-'/][\w]+)*(?:\(\)|\[\w*\])?"  # names of code, with dots, stars and calls
    r"|[+-]?\d+(?:[.,:]\d+)*(?:st|nd|rd|th)?%?"  # numbers and versions
    r"|[€$£¥%°]"
    r"|_\w+"
    r"|[.,;:?!](?=\s|$)"  # where one clause ends
)
_CODE = re.compile(r"[_*\[\]()]|\w\.\w|[a-z][A-Z]|^[A-Z]{2,}$|\d")  # what no plain word has


class Wording(NamedTuple):
    """One question, taken apart."""

    text: str
    words: tuple[str, ...]  # small letters
    written: tuple[str, ...]  # as they stand
    codes: frozenset[str]  # those that are names of code, or are written as no plain word is


@functools.lru_cache(maxsize=4096)  # what is in the index is looked at again with every question like it
def wording(text: str) -> Wording:
    """A question, taken apart."""
    plain = unicodedata.normalize("NFKC", text).translate(_MARKS)
    for pattern, long in _SHORT:
        plain = re.sub(pattern.pattern, long, plain, flags=re.IGNORECASE)
    for pattern, one in PHRASES:
        plain = re.sub(pattern.pattern, one, plain, flags=re.IGNORECASE)
    written = tuple(_bare(word) for word in _WORD.findall(plain))
    words = tuple(word.lower() for word in written)
    codes = frozenset(
        small
        for number, (word, small) in enumerate(zip(written, words, strict=True))
        if small not in LIGHT
        and not word[0].isdigit()
        and (_CODE.search(word) or (number and word[0].isupper() and written[number - 1] != "."))
    )
    return Wording(plain, words, written, codes)


def _bare(word: str) -> str:
    """Without a possessive."""
    return word[:-2] if word.endswith("'s") else word
