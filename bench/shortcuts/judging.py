"""What hits of a cache were, by the labels of pairs of questions: right, wrong, and what that proves of the error."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tauten.examples.paraphrases import Pair
from tauten.statistics import clopper_pearson, needed_items

EPSILON, ETA = 0.02, 0.05  # at most 2 % of the hits wrong, with 95 % confidence
SHOWN = 3  # wrong hits that a row tells


class Judge:
    """The kept questions of some pairs are in a cache, the asked ones are asked of it, each once.

    A hit is right where a pair says that one answer serves both, or the two are equal. All else is wrong: also what no
    pair speaks of.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.kept = list(dict.fromkeys(pair.kept for pair in pairs))
        self.asked = list(dict.fromkeys(pair.asked for pair in pairs))
        self._same = {(pair.kept, pair.asked) for pair in pairs if pair.same}
        self.paraphrases = {asked for _, asked in self._same}

    def right(self, found: str, asked: str) -> bool:
        return found == asked or (found, asked) in self._same

    def figures(self, found: Sequence[str | None]) -> dict[str, Any]:
        """Of what each asked question found, in their order; None is a miss."""
        hits = [(each, asked) for each, asked in zip(found, self.asked, strict=True) if each is not None]
        wrong = [(each, asked) for each, asked in hits if not self.right(each, asked)]
        served = [asked for each, asked in hits if asked in self.paraphrases and self.right(each, asked)]
        return {
            "hits": len(hits),
            "wrong": len(wrong),
            "hit_rate": len(served) / len(self.paraphrases) if self.paraphrases else None,
            "error": len(wrong) / len(hits) if hits else None,
            "bound": bound(len(wrong), len(hits)),
            "needed": needed_items(EPSILON, ETA, len(wrong)),
            "wrong_ones": _told(wrong),
        }


def bound(wrong: int, hits: int) -> float | None:
    """The error among hits is at most this, with 95 % confidence, were the hits independent draws; None without hits."""
    return clopper_pearson(wrong, hits, 1 - ETA, 1).high if hits else None


def _told(wrong: Sequence[tuple[str, str]]) -> str:
    told = [f"“{asked}” got “{found}”" for found, asked in wrong[:SHOWN]]
    return "; ".join([*told, f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else told)
