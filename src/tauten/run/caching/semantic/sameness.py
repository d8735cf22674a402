"""Whether two answers serve as well: as the stage says, or by their words. What cannot be told does not."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from tauten.describe.payload import Text
from tauten.describe.stage import StageKind
from tauten.run.caching.naming import Nameless, content_name
from tauten.run.caching.semantic.amounts import amounts
from tauten.run.caching.semantic.gate import Same
from tauten.run.caching.semantic.polarity import polarity
from tauten.run.caching.semantic.wording import Wording, wording
from tauten.run.values import join

log = logging.getLogger("tauten.run.caching.semantic")


def sameness(kind: StageKind[..., Any], share: float) -> Same:
    """How answers of a stage are compared: by its own `same`, else by the share of their words that they have in common."""

    async def same(kept: Any, computed: Any) -> bool:
        one, other = (join(list(each), kind.output) if kind.streams else each for each in (kept, computed))
        if kind.same is None:
            return agree(one, other, share)
        try:
            return bool(kind.same(one, other))
        except Exception as error:  # noqa: BLE001  # a user's code that cannot tell: as if it were another answer
            log.warning("same= of stage '%s' raised %s: the answers count as different", kind.name, error)
            return False

    return same


def agree(one: Any, other: Any, share: float = 1.0) -> bool:
    """Whether two values say the same: equal content, or texts with enough words in common and equal amounts and denials.

    >>> agree("Ten days.", "10 days", 0.5), agree("You can.", "You cannot.", 0.5)
    (True, False)
    """
    if not all(isinstance(each, str | Text) for each in (one, other)):
        return _equal(one, other)
    if share >= 1.0:
        return _spelled(str(one)) == _spelled(str(other))
    first, second = wording(str(one)), wording(str(other))
    if amounts(first, second) or polarity(first, second):
        return False
    return common(_plain(first), _plain(second)) >= share


def common(one: list[str], other: list[str]) -> float:
    """The share of words that two texts have in common (F1: of both together, each counted as often as it stands)."""
    if not one or not other:
        return float(one == other)
    both = sum((Counter(one) & Counter(other)).values())
    return 2.0 * both / (len(one) + len(other))


def _spelled(text: str) -> str:
    """As it is written, but for space and the point at its end: of a line of code every mark counts."""
    return " ".join(text.split()).rstrip(". ")


def _plain(taken: Wording) -> list[str]:
    """Its words without marks between clauses."""
    return [word for word in taken.words if word not in ".,;:?!"]


def _equal(one: Any, other: Any) -> bool:
    try:
        return content_name(one) == content_name(other)
    except Nameless:
        return False
