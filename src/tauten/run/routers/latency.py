"""Least latency of two that are drawn: what each took of late, peaks at once, times who is there already."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from tauten.errors import PlanError
from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand

DECAY_S = 10.0  # over which a peak is forgotten: longer than a hiccup, shorter than an outage
FAILED_S = 5.0  # what a failure counts as taking, where it took less: a place that fails at once is not quick


class _Seen(NamedTuple):
    """What a candidate took of late."""

    seconds: float  # the estimate
    at: float  # as of when
    least_s: float  # that it ever took; infinite where it has but failed


class LatencyRouter:
    """Peak-EWMA with the power of two choices.

    The estimate of a candidate jumps to what is worse than it, and comes down to what is better over `decay_s`; its
    cost is the estimate times one more than are under way there. Until it was seen, its prediction stands in. Where
    nobody is sent the estimate comes down, too: to the prediction, or to the least that it ever took where that is
    less, so that one peak never keeps a candidate out for good. Two are drawn and the cheaper is taken: all looking at
    the same estimate would otherwise go to the same place at once. Raises PlanError E140 for a `decay_s` in which
    nothing is forgotten, or everything at once.
    Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 12 (2001) 1094-1104; the estimate
    is that of Finagle's balancer of this name.
    """

    name: ClassVar[str] = "latency"
    option_keys: ClassVar[Mapping[str, type]] = {"decay_s": float}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._decay_s = float(options.get("decay_s", DECAY_S))
        if not 0.0 < self._decay_s < math.inf:
            raise PlanError(
                f"policy 'latency': decay_s = {self._decay_s}", help="give seconds above 0", code="E140"
            )
        self._random = random.Random(seed)
        self._seen: dict[str, _Seen] = {}

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        drawn = self._random.sample(able, 2) if len(able) > 2 else able
        costs = sorted((self._cost(each, ask.at), place) for place, each in enumerate(drawn))
        order = tuple(drawn[place].name for _, place in costs)
        against = f", {order[1]} {costs[1][0] * 1e3:.0f}" if len(order) > 1 else ""
        of = f" of two drawn from {len(able)}" if len(able) > 2 else ""
        return Route(order, f"{order[0]} costs {costs[0][0] * 1e3:.0f} ms{against}{of}")

    def _cost(self, candidate: Candidate, at: float) -> float:
        """What one more would take, and never less than it would wait."""
        seen, foreseen_s = self._seen.get(candidate.name), candidate.wait_s + candidate.total_s
        seconds = foreseen_s if seen is None else self._faded(seen, foreseen_s, at)
        return max(seconds, candidate.wait_s) * (candidate.outstanding + 1)

    def _faded(self, seen: _Seen, foreseen_s: float, at: float) -> float:
        """What is left of an estimate by now; to nothing where nobody knows what it would take."""
        least_s = min(seen.least_s, foreseen_s or math.inf)
        least_s = 0.0 if math.isinf(least_s) else min(least_s, seen.seconds)
        return least_s + (seen.seconds - least_s) * self._kept(at - seen.at)

    def _kept(self, since_s: float) -> float:
        return math.exp(-max(0.0, since_s) / self._decay_s)

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        took_s = max(outcome.took_s, FAILED_S) if outcome.failed else outcome.took_s
        before = self._seen.get(name, _Seen(took_s, at, math.inf))
        least_s = before.least_s if outcome.failed else min(before.least_s, outcome.took_s)
        if took_s < before.seconds:
            kept = self._kept(at - before.at)
            took_s = before.seconds * kept + took_s * (1.0 - kept)
        self._seen[name] = _Seen(took_s, at, least_s)
