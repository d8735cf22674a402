"""Latency, cost and load weighed against one another, each as a share of the worst candidate's."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand

LATENCY, COST, LOAD = (
    0.5,
    0.3,
    0.2,
)  # time first: it is what an SLO names; load least: it is in the wait already


class HybridRouter:
    """The least weighted sum. `latency`, `cost` and `load` are the weights; an unknown price counts as the highest.

    Times and prices are those of this request, with the tokens that are foreseen.
    """

    name: ClassVar[str] = "hybrid"
    option_keys: ClassVar[Mapping[str, type]] = {"latency": float, "cost": float, "load": float}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._latency = float(options.get("latency", LATENCY))
        self._cost = float(options.get("cost", COST))
        self._load = float(options.get("load", LOAD))

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        parts = [self._weighed(*shares) for shares in zip(*_shares(able), strict=True)]
        ranked = sorted(range(len(able)), key=lambda place: (sum(parts[place]), place))
        first = ranked[0]
        told = ", ".join(
            f"{word} {part:.2f}" for word, part in zip(("latency", "cost", "load"), parts[first], strict=True)
        )
        unknown = [each.name for each in able if each.price is None]
        prices = (
            f"; the price of {' and '.join(unknown)} is unknown"
            if unknown and len(unknown) < len(able)
            else ""
        )
        why = f"{able[first].name} weighs {sum(parts[first]):.2f} ({told}), the least of {len(able)}{prices}"
        return Route(tuple(able[place].name for place in ranked), why)

    def _weighed(self, latency: float, cost: float, load: float) -> tuple[float, float, float]:
        return self._latency * latency, self._cost * cost, self._load * load

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """It goes by what is foreseen, which learns by itself."""


def _shares(candidates: Sequence[Candidate]) -> tuple[list[float], list[float], list[float]]:
    times = [each.wait_s + each.total_s for each in candidates]
    known = [each.price for each in candidates if each.price is not None]
    dearest = max(known, default=0.0)
    costs = _of_worst([dearest if each.price is None else each.price for each in candidates])
    for place, each in enumerate(candidates):
        if each.price is None:
            costs[place] = 1.0
    return _of_worst(times), costs, _of_worst([each.load for each in candidates])


def _of_worst(values: Sequence[float]) -> list[float]:
    worst = max(values)
    return [value / worst if worst > 0.0 else 0.0 for value in values]
