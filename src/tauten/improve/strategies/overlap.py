"""Lets stages run side by side that do not need one another's results."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.branches import beside, independent
from tauten.improve.situation import Proposal, Refusal, Situation

LEAST_S = 0.001  # of work on each side of a pair: below, a task costs what it hides


class Overlap:
    """Every pair at once, and each stage beside all that it can be beside: on few cores more at once is not always
    better, because what runs together shares them."""

    name: ClassVar[str] = "overlap"
    reason: ClassVar[str] = "first: it changes no step, and shows which steps are left on the path"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        every = independent(seen.lowered)
        pairs = [pair for pair in every if seen.free(pair[0]) and seen.free(pair[1])]
        working = {name for pair in pairs for name in pair if seen.facts.work_s(name) >= LEAST_S}
        worth = [pair for pair in pairs if _hidden_s(seen, pair) >= LEAST_S]
        if not worth:
            yield Refusal(self.name, "stages side by side", _why_not(seen, every, pairs))
            return
        if (whole := beside(seen.plan, pairs)) != seen.plan:
            yield Proposal(self.name, "all that can be side by side", whole, "identical")
        for name in sorted(working):
            own = [pair for pair in pairs if name in pair]
            plan = beside(seen.plan, own)
            if plan not in (seen.plan, whole):
                others = ", ".join(other for pair in own for other in pair if other != name)
                yield Proposal(self.name, f"{name} beside {others}", plan, "identical")


def _why_not(seen: Situation, every: list[tuple[str, str]], pairs: list[tuple[str, str]]) -> str:
    if not every:
        return "each stage needs the result of the one before it"
    if not pairs:
        one, other = max(every, key=lambda pair: _hidden_s(seen, pair))
        return f"{one} and {other} could be, and one of them is locked"
    best = max(pairs, key=lambda pair: _hidden_s(seen, pair))
    return f"{best[0]} beside {best[1]} would hide {_hidden_s(seen, best) * 1e3:.2g} ms: a task costs as much"


def _hidden_s(seen: Situation, pair: tuple[str, str]) -> float:
    """What running a pair side by side saves at most: the shorter of the two."""
    return min(seen.facts.work_s(pair[0]), seen.facts.work_s(pair[1]))
