"""Small first: its answer stands where the gate lets its certainty pass, else the next larger one is asked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand


class CascadeRouter:
    """Candidates are asked in the order in which they are given, the smallest first; the last one's answer stands.

    Where both would not end in time one after the other, but the last one alone would, it is asked at once: a
    cascade saves money, not deadlines. Without a gate nothing but the last answer ever stands.
    """

    name: ClassVar[str] = "cascade"
    option_keys: ClassVar[Mapping[str, type]] = {}
    judges: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._allows = allows

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        # the last one needs no gate, and so it stays, well or not
        able = [*(each for each in candidates[:-1] if each.healthy), candidates[-1]]
        names, last = tuple(each.name for each in able), able[-1]
        all_s = sum(each.wait_s + each.total_s for each in able)
        if len(able) > 1 and all_s > ask.left_s >= last.wait_s + last.total_s:
            why = f"{last.name} at once: all together take {all_s * 1e3:.0f} ms, {ask.left_s * 1e3:.0f} are left"
            return Route((last.name,), why)
        return Route(names, f"{names[0]} first" if len(names) > 1 else f"{names[0]} is all there is")

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        passes = self._allows is not None and self._allows(evidence.score, ask.tenant, ask.category)
        return Stand(
            passes, f"certainty {evidence.score:.3f} {'passes' if passes else 'does not pass'} the gate"
        )

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """What it learns of answers, the gate learns."""
