"""Least cost among those that are in time; a price that nobody knows comes after all that are known."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand


class CostRouter:
    """The cheapest that is foreseen to end, and to give its first output, before that is due.

    Where none is, the one that is soonest done. Compared is what this request would cost with the tokens that are
    foreseen, or one token where nobody foresees any. `most`: cents a token; what costs more, or nobody knows how much,
    is only taken where nothing else is left, in time or not.
    """

    name: ClassVar[str] = "cost"
    option_keys: ClassVar[Mapping[str, type]] = {"most": float}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._most = float(options.get("most", math.inf))

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        within = [each for each in able if _each(each) <= self._most] or able
        timely = sorted((each for each in within if _in_time(ask, each)), key=_rank)
        late = sorted((each for each in within if each not in timely), key=_done_s)
        beyond = sorted((each for each in able if each not in within), key=_rank)
        first, *_ = ordered = [*timely, *late, *beyond]
        said = f"the cheapest of {len(timely)} in time" if timely else "none is in time, it is soonest done"
        unknown = [each.name for each in able if each.price is None and each is not first]
        lost = f"; nobody knows what {' and '.join(unknown)} costs" if unknown else ""
        return Route(tuple(each.name for each in ordered), f"{first.name}: {_told(first)}, {said}{lost}")

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """Prices are told, not learned."""


def _price(candidate: Candidate) -> float:
    return math.inf if candidate.price is None else candidate.price


def _each(candidate: Candidate) -> float:
    return math.inf if candidate.cost_per_token is None else candidate.cost_per_token


def _told(candidate: Candidate) -> str:
    """Its price in words, with the tokens that it is for."""
    if candidate.cents is not None:
        tokens = f"{candidate.input_tokens:.0f} tokens in, {candidate.output_tokens:.0f} out"
        return f"{candidate.cents:.4g} cents for {tokens} as foreseen"
    if candidate.cost_per_token is not None:
        return f"{candidate.cost_per_token:.4g} cents a token"
    return "of an unknown price"


def _done_s(candidate: Candidate) -> float:
    return candidate.wait_s + candidate.total_s


def _rank(candidate: Candidate) -> tuple[float, float]:
    return _price(candidate), _done_s(candidate)


def _in_time(ask: Ask, candidate: Candidate) -> bool:
    first = candidate.wait_s + candidate.first_s <= ask.first_left_s
    return first and _done_s(candidate) <= ask.left_s
