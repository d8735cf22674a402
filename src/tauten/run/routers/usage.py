"""Even use: to whom fewest tokens went of late, for its share."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.errors import PlanError
from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand

HALF_LIFE_S = 60.0  # providers count by the minute


class UsageRouter:
    """Counts tokens with forgetting; a request whose tokens nobody knows counts as the mean of those known.

    `half_life_s`: after that a token counts half. `shares`: how much of the work each is meant to have; 1 without.
    Raises PlanError E140 for one of them that is no positive number.
    """

    name: ClassVar[str] = "usage"
    option_keys: ClassVar[Mapping[str, type]] = {"half_life_s": float, "shares": dict}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._half_life_s = _positive("half_life_s", options.get("half_life_s", HALF_LIFE_S))
        shares = options.get("shares", {})
        self._shares = {name: _positive(f"shares.{name}", share) for name, share in shares.items()}
        self._used: dict[str, tuple[float, float]] = {}  # name -> (tokens, as of when)
        self._mean = 1.0

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        used = {each.name: self._per_share(each, ask.at) for each in able}
        ordered = sorted(able, key=lambda each: (used[each.name], each.load))
        first = ordered[0].name
        why = f"{first} had {used[first]:.0f} tokens of late for its share, the least of {len(able)}"
        return Route(tuple(each.name for each in ordered), why)

    def _per_share(self, candidate: Candidate, at: float) -> float:
        under_way = candidate.outstanding * self._mean  # sent, not yet counted
        return (self._left(candidate.name, at) + under_way) / self._shares.get(candidate.name, 1.0)

    def _left(self, name: str, at: float) -> float:
        tokens, when = self._used.get(name, (0.0, at))
        return tokens * math.exp2(-max(0.0, at - when) / self._half_life_s)

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        tokens = outcome.tokens or ask.tokens
        if tokens:
            self._mean += (tokens - self._mean) / 8  # as round-trip estimators follow what they see
        self._used[name] = (self._left(name, at) + (tokens or self._mean), at)


def _positive(key: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < math.inf:
        return float(value)
    raise PlanError(
        f"policy 'usage': {key} = {value!r}",
        help="give a number above 0; who is to have no work is no option",
        code="E140",
    )
