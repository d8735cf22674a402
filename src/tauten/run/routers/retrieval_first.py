"""Search answers where it is sure of its first hit and that hit leads; else the model is asked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand


class RetrievalFirstRouter:
    """The first candidate is a search that answers by itself; the last one is whoever answers otherwise.

    Its answer stands where its lead over the next hit is at least `margin` and the gate lets its score pass. The
    margin is part of the shortcut, as fixed as the search: the gate is certified on hits that lead so far.
    """

    name: ClassVar[str] = "retrieval_first"
    option_keys: ClassVar[Mapping[str, type]] = {"margin": float}
    judges: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._margin = float(options.get("margin", 0.0))
        self._allows = allows

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        # the last one needs no gate, and so it stays, well or not
        able = [*(each for each in candidates[:-1] if each.healthy), candidates[-1]]
        names = tuple(each.name for each in able)
        return Route(names, f"{names[0]} first: searching costs hardly anything")

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        if evidence.margin < self._margin:
            why = f"its first hit leads by {evidence.margin:.3f}, {self._margin:.3f} is wanted"
            return Stand(False, why, counts=False)
        passes = self._allows is not None and self._allows(evidence.score, ask.tenant, ask.category)
        return Stand(passes, f"score {evidence.score:.3f} {'passes' if passes else 'does not pass'} the gate")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """What it learns of answers, the gate learns."""
