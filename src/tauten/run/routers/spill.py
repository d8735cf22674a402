"""Here first; elsewhere, for money, only when waiting here gets too long for the request's priority."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand

WAIT_S = 0.5  # of priority 0 before it goes elsewhere: people notice more
STEP = 2.0  # each priority lower waits twice as long before money is spent on it


class SpillRouter:
    """The local candidate that is soonest done, unless a request would wait there longer than its priority bears.

    Priority 0 waits `wait_s`, each lower one twice as long as the one above, each higher one half; all go when they
    would be late here and are not foreseen to be late elsewhere: with the tokens that this request is foreseen to
    take. Where nobody is elsewhere, all stay.
    """

    name: ClassVar[str] = "spill"
    option_keys: ClassVar[Mapping[str, type]] = {"wait_s": float}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._wait_s = float(options.get("wait_s", WAIT_S))

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        here = sorted((each for each in able if each.local), key=_done_s)
        away = sorted((each for each in able if not each.local), key=_done_s)
        if not here or not away:
            only = here or away
            where = "here" if here else "elsewhere"
            return Route(tuple(each.name for each in only), f"{only[0].name}: there are only places {where}")
        bears_s = self._wait_s * STEP**-ask.priority
        reason = self._leaves(ask, here[0], away[0], bears_s)
        order = (*away, *here) if reason else (*here, *away)
        waits = f"waits {here[0].wait_s * 1e3:.0f} ms here, priority {ask.priority} bears {bears_s * 1e3:.0f}"
        said = f"{reason}, {_costs(away[0])}" if reason else waits
        return Route(tuple(each.name for each in order), f"{order[0].name}: {said}")

    def _leaves(self, ask: Ask, here: Candidate, away: Candidate, bears_s: float) -> str:
        if _late(ask, here) and not _late(ask, away):
            return "it would be late here"
        if here.wait_s > bears_s:
            return f"waits {here.wait_s * 1e3:.0f} ms here, priority {ask.priority} bears {bears_s * 1e3:.0f}"
        return ""

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """Waits are told with each request."""


def _costs(candidate: Candidate) -> str:
    """What it costs to leave, as far as anybody knows."""
    if candidate.cents is not None:
        return f"for {candidate.cents:.4g} cents as foreseen"
    each = candidate.cost_per_token
    return "at a price that nobody knows" if each is None else f"for {each:.4g} cents a token"


def _done_s(candidate: Candidate) -> float:
    return candidate.wait_s + candidate.total_s


def _late(ask: Ask, candidate: Candidate) -> bool:
    return _done_s(candidate) > ask.left_s or candidate.wait_s + candidate.first_s > ask.first_left_s
