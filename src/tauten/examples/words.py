"""The words of a sentence that say something, so that one text can be held against another."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

_SMALL = frozenset(
    "a an the this that these those it its is are was were be been being am do does did done have has had having "
    "of to in on at by for from with as into than then so such and or but not no nor if when while where which "
    "who what why how you your we our i my they their he she there here can could may might must shall should "
    "will would also only just very more most any some all each every both either one means mean error".split()
)


def content_words(text: str) -> frozenset[str]:
    """The words that say something, without their endings, so that `keys` is covered by `key`."""
    words = re.findall(r"[a-z0-9_]+", text.casefold())
    return frozenset(_stem(word) for word in words if word not in _SMALL)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word.removesuffix(ending)
    return word
