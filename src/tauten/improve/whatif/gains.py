"""What each change of a plan would gain: strategies propose, simulated schedules say how much and how surely.

A plan and its change meet the same requests at the same instants, schedule by schedule, so that a difference is
theirs alone; how much it differs between schedules gives its interval. Where earlier predictions of the kind were
measured, their errors widen it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

from tauten.describe.slo import Slo
from tauten.describe.turn import Answers
from tauten.errors import PlanError
from tauten.explain.whatif import SHOWN, Change, Moved, Moves, StepWorth, Together, Untried
from tauten.improve.optimizer.search import WORTH, Figures, Look
from tauten.improve.situation import Proposal, Refusal, Strategy
from tauten.improve.whatif.merge import changed_stages, merged
from tauten.plan.ledger import ENOUGH, Family, Ledger
from tauten.plan.plan import Plan, format_plan
from tauten.statistics import Interval
from tauten.statistics.bootstrap import mean
from tauten.statistics.trend import student_quantile

SCHEDULES: Final = 5  # t of 5 is a quarter wider than that of 10, at half the time
MOST: Final = 3  # proposals on a screen: nobody makes four changes at once
QUICKER: Final = (0.10, 0.25, 0.50)  # a tweak, another engine, another model
NOT_RUN: Final = "it was never run here: there was no time, or it failed"
COVERAGE: Final = 0.90  # as the ledger's
ANSWERS: Final[tuple[Answers, ...]] = ("identical", "equivalent", "lossy")

Prices = Callable[[Plan, int], Figures]
"""What a plan does under the schedule of that number; raises PlanError E131 where that cannot be known."""
PricesQuicker = Callable[[str, float, int], Figures]
"""What the present plan does where a step takes that share less time, under the schedule of that number."""
Say = Callable[[str], None]


class Asked(NamedTuple):
    """A plan, and what is asked of it."""

    plan: Plan
    slo: Slo
    schedules: int = SCHEDULES


class Gains:
    """Prices changes of one plan. `ready` is told all plans before the first of them is priced."""

    def __init__(
        self,
        asked: Asked,
        price: Prices,
        *,
        ledger: Ledger | None = None,
        hardware: str = "",
        ready: Callable[[Plan, Sequence[Plan]], None] = lambda present, wanted: None,
        say: Say = lambda text: None,
    ) -> None:
        self.plan, self.slo, self.schedules = asked
        self.ledger = ledger or Ledger()
        self.hardware = hardware
        self.ready, self.say = ready, say
        self._price = price
        self._known: dict[bytes, list[Figures]] = {}
        self.proposed: list[Proposal] = []  # those that were priced
        self.now = self.priced(self.plan)

    def priced(self, plan: Plan) -> list[Figures]:
        """What a plan does, schedule by schedule."""
        content = plan.content
        if content not in self._known:
            self._known[content] = [self._price(plan, number) for number in range(self.schedules)]
        return self._known[content]

    def present(self) -> dict[str, float]:
        """The figures of the plan as it is, in the mean of the schedules."""
        return {name: mean([each.values[name] for each in self.now]) for name in _told(self.now)}

    # -- changes ----------------------------------------------------------------------------------------------

    def changes(
        self, look: Look, strategies: Iterable[Strategy]
    ) -> tuple[list[Change], Together | None, list[Untried]]:
        """Every change that strategies propose, the best first; the best of them together; what was not priced."""
        proposals, untried = self._proposed(look(self.plan), strategies)
        self.ready(self.plan, [each.plan for each in proposals])
        self._known.clear()  # what was learned now says more of the present plan, too
        self.now = self.priced(self.plan)
        priced: list[tuple[Proposal, list[Figures]]] = []
        for place, each in enumerate(proposals, start=1):
            self.say(f"simulate {place} of {len(proposals)}: {each.change}")
            try:
                priced.append((each, self.priced(each.plan)))
            except PlanError as error:
                if error.code != "E131":
                    raise
                untried.append(Untried(each.strategy, each.change, NOT_RUN))
        priced.sort(key=lambda one: self._objective(one[1]))
        self.proposed = [each for each, _ in priced]
        best = self._best(priced)
        places = {id(each): place for place, (each, _) in enumerate(best, start=1)}
        changes = [self._change(each, figures, places.get(id(each), 0)) for each, figures in priced]
        return changes, self._together(best), untried

    def _proposed(self, seen: object, strategies: Iterable[Strategy]) -> tuple[list[Proposal], list[Untried]]:
        proposals: dict[bytes, Proposal] = {}
        untried = []
        for strategy in strategies:
            for each in strategy.propose(seen):  # type: ignore[arg-type]  # what `look` gives
                if isinstance(each, Refusal):
                    untried.append(Untried(each.strategy, each.change, each.why))
                elif each.plan.content != self.plan.content:
                    proposals.setdefault(each.plan.content, each)
        return list(proposals.values()), untried

    def _best(self, priced: Sequence[tuple[Proposal, list[Figures]]]) -> list[tuple[Proposal, list[Figures]]]:
        """The best few that gain and of which each can be made beside the others."""
        enough = self._objective(self.now) * (1.0 - WORTH)
        found: list[tuple[Proposal, list[Figures]]] = []
        for each, figures in priced:
            if len(found) == MOST or self._objective(figures) > enough:
                break
            beside = [one.plan for one, _ in found]
            if not self._surely(figures) or not _apart(self.plan, beside, each.plan):
                continue
            found.append((each, figures))
        return found

    def _surely(self, figures: list[Figures]) -> bool:
        """Whether any figure gains for certain, as far as schedules go."""
        return any(self._moved(figures, name).clear for name in _told(figures)) or any(
            after.failed < before.failed for after, before in zip(figures, self.now, strict=True)
        )

    def _together(self, best: Sequence[tuple[Proposal, list[Figures]]]) -> Together | None:
        """The best of several at once, where that is better than the best alone."""
        found: tuple[float, Together] | None = None
        for places in _several(len(best)):
            members = [best[place - 1][0] for place in places]
            plan = merged(self.plan, [each.plan for each in members])
            if plan is None:
                continue
            try:
                figures = self.priced(plan)
            except PlanError as error:
                if error.code != "E131":
                    raise
                continue  # nothing more is run for it: what is known would say other things then
            objective = self._objective(figures)
            if objective < self._objective(best[0][1]) and (found is None or objective < found[0]):
                answers = max((each.answers for each in members), key=ANSWERS.index)
                moves = self._moves(figures, "")  # of several strategies at once: all errors of this machine
                told = Together(places=places, answers=answers, moves=moves, plan=format_plan(plan))
                found = objective, told
        return found[1] if found is not None else None

    def _change(self, each: Proposal, figures: list[Figures], place: int) -> Change:
        return Change(
            strategy=each.strategy,
            change=each.change,
            steps=changed_stages(self.plan, each.plan),
            answers=each.answers,
            moves=self._moves(figures, each.strategy),
            why=each.why,
            place=place,
            plan=format_plan(each.plan) if place else "",
            failed=mean([one.failed for one in figures]),
            scored=self._scored(figures, each.strategy),
        )

    # -- steps ------------------------------------------------------------------------------------------------

    def steps(self, names: Iterable[str], price: PricesQuicker) -> list[StepWorth]:
        """What each step is worth, the most first: virtual speed-ups of one at a time."""
        found = []
        for step in names:
            self.say(f"simulate {step} in less time")
            quicker = []
            for by in QUICKER:
                figures = [price(step, by, number) for number in range(self.schedules)]
                quicker.append((by, self._moves(figures)))
            found.append(StepWorth(step, quicker))
        return sorted(found, key=lambda each: -each.most)

    # -- figures ----------------------------------------------------------------------------------------------

    def _objective(self, figures: Sequence[Figures]) -> float:
        usual = _mean(self.now)
        return _mean(figures).objective(self.slo, usual)

    def _moves(self, figures: list[Figures], strategy: str | None = None) -> Moves:
        """By as much; with a strategy, past errors of its predictions widen the intervals."""
        return {name: self._moved(figures, name, strategy) for name in _told(figures)}

    def _moved(self, figures: list[Figures], name: str, strategy: str | None = None) -> Moved:
        after = [each.values[name] for each in figures]
        before = [each.values[name] for each in self.now]
        moved = moved_by(before, after)
        level = mean(after)
        held = None if strategy is None else self._held(strategy, level, name)
        if held is None:
            return moved
        below = math.hypot(moved.mid - moved.low, max(0.0, level - held.low))
        above = math.hypot(moved.high - moved.mid, max(0.0, held.high - level))
        return Moved(moved.mid - below, moved.mid, moved.mid + above)

    def _held(self, strategy: str, level: float, name: str) -> Interval | None:
        """Where past errors of such a figure place its outcome: those of the strategy, else of all on this machine.

        None where so few were measured that they say nothing.
        """
        for family in (Family(strategy, hardware=self.hardware), Family(hardware=self.hardware)):
            held = self.ledger.interval(family, level, name)
            if held.n >= ENOUGH:
                return held
        return None

    def _scored(self, figures: list[Figures], strategy: str) -> int:
        """How many measured predictions its intervals know of; 0 where they only know the schedules."""
        held = (self._held(strategy, 1.0, name) for name in _told(figures))
        return max((each.n for each in held if each is not None), default=0)


def moved_by(before: Sequence[float], after: Sequence[float]) -> Moved:
    """The mean difference of pairs with its interval by Student; of one pair without any width."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mid, n = mean(differences), len(differences)
    if n < 2:
        return Moved(mid, mid, mid)
    variance = math.fsum((each - mid) ** 2 for each in differences) / (n - 1)
    half = student_quantile((1.0 + COVERAGE) / 2.0, n - 1) * math.sqrt(variance / n)
    return Moved(mid - half, mid, mid + half)


def _told(figures: Sequence[Figures]) -> list[str]:
    """The figures that are told and known: a plan that answers nothing has no latency."""
    return [name for name in SHOWN if all(math.isfinite(each.values.get(name, math.inf)) for each in figures)]


def _mean(figures: Sequence[Figures]) -> Figures:
    names: Mapping[str, float] = figures[0].values
    values = {name: mean([each.values[name] for each in figures]) for name in names}
    return Figures(values, mean([each.failed for each in figures]))


def _several(count: int) -> list[list[int]]:
    """The places of two and more of so many.

    >>> _several(3)
    [[1, 2], [1, 3], [2, 3], [1, 2, 3]]
    """
    return [list(some) for size in range(2, count + 1) for some in combinations(range(1, count + 1), size)]


def _apart(base: Plan, beside: Sequence[Plan], plan: Plan) -> bool:
    """Whether a change is another one than those before it, and can be made with them."""
    made = merged(base, [*beside, plan])
    return made is not None and all(merged(base, [one, plan]) not in (one, plan) for one in beside)
