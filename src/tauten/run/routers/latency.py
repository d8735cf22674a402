"""Least latency of two that are drawn: what each took of late, peaks at once, times who is there already."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand

DECAY_S = 10.0  # over which a peak is forgotten: longer than a hiccup, shorter than an outage
FAILED_S = 5.0  # what a failure counts as taking, where it took less: a place that fails at once is not quick


class LatencyRouter:
    """Peak-EWMA with the power of two choices.

    The estimate of a candidate jumps to what is worse than it, and comes down to what is better over `decay_s`; its
    cost is the estimate times one more than are under way there. Until it was seen, its prediction stands in. Two are
    drawn and the cheaper is taken: all looking at the same estimate would otherwise go to the same place at once.
    Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 12 (2001) 1094-1104; the estimate
    is that of Finagle's balancer of this name.
    """

    name: ClassVar[str] = "latency"
    option_keys: ClassVar[Mapping[str, type]] = {"decay_s": float}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._decay_s = float(options.get("decay_s", DECAY_S))
        self._random = random.Random(seed)
        self._seen: dict[str, tuple[float, float]] = {}  # name -> (seconds, as of when)

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        drawn = self._random.sample(able, 2) if len(able) > 2 else able
        costs = sorted((self._cost(each), place) for place, each in enumerate(drawn))
        order = tuple(drawn[place].name for _, place in costs)
        against = f", {order[1]} {costs[1][0] * 1e3:.0f}" if len(order) > 1 else ""
        of = f" of two drawn from {len(able)}" if len(able) > 2 else ""
        return Route(order, f"{order[0]} costs {costs[0][0] * 1e3:.0f} ms{against}{of}")

    def _cost(self, candidate: Candidate) -> float:
        """What one more would take, and never less than it would wait."""
        foreseen_s = candidate.wait_s + candidate.total_s
        seconds = self._seen[candidate.name][0] if candidate.name in self._seen else foreseen_s
        return max(seconds, candidate.wait_s) * (candidate.outstanding + 1)

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        took_s = max(outcome.took_s, FAILED_S) if outcome.failed else outcome.took_s
        before_s, when = self._seen.get(name, (took_s, at))
        if took_s < before_s:
            kept = math.exp(-max(0.0, at - when) / self._decay_s)
            took_s = before_s * kept + took_s * (1.0 - kept)
        self._seen[name] = (took_s, at)
