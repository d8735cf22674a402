"""The search: strategies in their order, again and again, until none of them gains; a pure function of its prices.

A strategy that did not pay may pay once another has changed what is on the path, so the order is gone through
until a whole round brings nothing. Changes that may alter answers are asked only while the SLO is missed, and of all
strategies the one that gains most first: each has to be judged, which takes far longer than its price.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from tauten.describe.slo import Slo
from tauten.describe.turn import Answers
from tauten.errors import PlanError
from tauten.explain.figures import figure
from tauten.improve.situation import Proposal, Refusal, Situation, Strategy
from tauten.plan.plan import Plan, diff_plans

WORTH = 0.01  # of the objective that a change must gain: a simulation repeats no better
COARSE = 0.05  # what it must gain at first where the SLO is far: looking costs as much, and what comes later changes it
FAR = 1.0  # limits that are missed by more of themselves than that are far
ROUNDS = 4  # through all strategies; workflows of ten stages came to rest in two
MISSED = 10.0  # times as bad is a millisecond beyond a limit than one within it
MEMORY = "memory_bytes"  # the figure of a plan's models and caches, by the name of its limit

Look = Callable[[Plan], Situation]


class Figures(msgspec.Struct, frozen=True):
    """What a plan does under the stated load, by the names of SLO limits; in their units."""

    values: dict[str, float]
    failed: float = 0.0  # share of requests that were refused or failed

    def missed(self, slo: Slo) -> float:
        """How far the worst limit is exceeded, as a share of it; 0.0 where all hold."""
        worst = max(
            (self.values.get(name, 0.0) / limit - 1.0 for name, limit in slo.limits().items()), default=0.0
        )
        return max(0.0, worst, self.failed)

    def said(self, slo: Slo) -> str:
        """The figure that is furthest from its limit, or the median where there is none.

        >>> Figures({"p50_ms": 400.0, "p95_ms": 790.0}).said(Slo(p95_ms=800.0))
        'p95 790 ms (SLO 800)'
        >>> Figures({"cost_cents": 0.31}).said(Slo(cost_cents=0.2))
        'cost 0.31 cents (SLO 0.2)'
        """
        limits = {name: limit for name, limit in slo.limits().items() if name in self.values}
        if not limits:
            return f"p50 {figure(self.values.get('p50_ms', 0.0))} ms"
        name = max(limits, key=lambda each: self.values[each] / limits[each])
        if name == MEMORY:
            return f"memory {self.values[name] / 1e6:.0f} MB (SLO {limits[name] / 1e6:.0f})"
        spoken, _, unit = name.rpartition("_")
        return f"{spoken.replace('_', ' ')} {figure(self.values[name])} {unit} (SLO {figure(limits[name])})"

    def objective(self, slo: Slo, usual: Figures) -> float:
        """What is made small: limits that are missed count most, then how far within them all are, by what is
        usual where there is no limit. Memory counts only where it is limited: what lies there idle is nobody's
        loss. A figure that is not known of this plan counts as one that reaches its limit, and one that the usual
        plan has not either is left out."""
        known = {name: limit for name, limit in slo.limits().items() if name in usual.values}
        limits = known or {
            name: value for name, value in usual.values.items() if value > 0.0 and name != MEMORY
        }
        shares = [self.values.get(name, limit) / limit for name, limit in limits.items() if limit]
        within = sum(shares) / len(shares) if shares else 0.0
        beyond = sum(max(0.0, share - 1.0) for share in shares) if known else 0.0
        return within + MISSED * (beyond + self.failed)


Price = Callable[[Plan], Figures]
"""Raises PlanError for a plan that nothing is known of: it is refused with that reason."""
Ready = Callable[[Plan, Sequence[Plan]], None]
"""Told which plans will be priced next, in place of the first: what is to be measured for all is measured at once."""
Known = Callable[[], int]
"""Another number whenever more is known than before: what was priced by less is not compared with what comes then."""


class Tried(msgspec.Struct, frozen=True):
    """One change that was priced or refused."""

    strategy: str
    change: str
    answers: Answers
    taken: bool
    why: str
    objective: float | None = None  # None for a refusal
    figures: Figures | None = None
    before: Figures | None = None  # of the plan that it would have changed
    formula: Figures | None = None  # what a sum without queues says of it


class Taken(NamedTuple):
    """A change that was taken, and the plans on its two sides."""

    tried: Tried
    before: Plan
    after: Plan


class Pruning(Protocol):
    """What is known of a proposal before anything is measured or simulated for it."""

    def why_not(self, present: Plan, proposal: Proposal) -> str:
        """Why it is not worth a look; empty where it may be."""
        ...

    def formula(self, plan: Plan) -> Figures | None:
        """The figures of a plan without queues; None where something of it is not known."""
        ...

    def came(self, present: Plan, proposal: Proposal, before: Figures, after: Figures) -> None:
        """How it came out in simulation."""
        ...


class NoPruning:
    """Everything is worth a look."""

    def why_not(self, present: Plan, proposal: Proposal) -> str:
        return ""

    def formula(self, plan: Plan) -> Figures | None:
        return None

    def came(self, present: Plan, proposal: Proposal, before: Figures, after: Figures) -> None:
        return


class Found(msgspec.Struct, frozen=True):
    """Where a search came to rest."""

    plan: Plan
    figures: Figures
    tried: list[Tried]


class Search:
    """One search. `allowed` says whether a proposal may be taken at all (the quality gate of lossy ones)."""

    def __init__(
        self,
        strategies: Sequence[Strategy],
        look: Look,
        price: Price,
        slo: Slo,
        *,
        allowed: Callable[[Proposal], str] = lambda _: "",
        more: Callable[[], bool] = lambda: True,
        ready: Ready = lambda present, wanted: None,
        known: Known = lambda: 0,
        pruning: Pruning | None = None,
        took: Callable[[Figures], None] = lambda figures: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.strategies = strategies
        self.look = look
        self.price = price
        self.slo = slo
        self.allowed = allowed
        self.more = more  # whether there is time for one more candidate
        self.ready = ready
        self.known = known
        self.pruning = pruning or NoPruning()
        self.took = took  # told the figures of the best so far
        self.say = say
        self.tried: list[Tried] = []
        self.taken: list[Taken] = []
        self.usual: Figures | None = None  # of the first plan: what counts where the SLO sets no limit
        self.began: Plan | None = None  # the first plan
        self._first = False  # another look at the same is to come
        self._prices: dict[bytes, Figures] = {}
        self._by = known()  # what was known when they were found

    def run(self, plan: Plan) -> Found:
        """Improve a plan; the same prices give the same plan."""
        kept = self.improve(plan, lossy=False)
        return self.improve(kept.plan, lossy=True)

    def improve(self, plan: Plan, *, lossy: bool, rounds: int = ROUNDS, first: bool = False) -> Found:
        """By changes that keep answers, in so many rounds, or by those that may alter them. A `first` look, after which
        there is to be another, leaves out what gains little while the SLO is far."""
        self._first = first
        self.usual, self.began = self.usual or self._figures(plan), self.began or plan
        return self._found(self._by_gain(plan) if lossy else self._rounds(plan, rounds))

    def instead(self, plan: Plan, other: Proposal) -> Found:
        """A plan that was made another way, where it is better than the one that was found; all that was taken on
        the way to that is then taken no more: it is a change of the plan that the search began with."""
        self._first = False
        if self._best(plan, [other]) is None:
            return self._found(plan)
        told = self._told(other)
        for each in self.taken:
            self._withdraw(
                each, f"it gained when it was taken; {other.strategy}: {other.change} took its place"
            )
        self.taken = [Taken(told, self.began or plan, other.plan)]
        return self._found(other.plan)

    def take_back(self, why: str) -> Found:
        """The plan before the last change that was taken; it is kept among the tried with the reason."""
        last = self.taken.pop()
        self._withdraw(last, why)
        return self._found(last.before)

    def _withdraw(self, change: Taken, why: str) -> None:
        """It is kept among the tried, as one that was not taken."""
        place = next(index for index, each in enumerate(self.tried) if each is change.tried)
        self.tried[place] = msgspec.structs.replace(change.tried, taken=False, why=why)

    def _found(self, plan: Plan) -> Found:
        return Found(plan, self._figures(plan), self.tried)

    def _rounds(self, plan: Plan, rounds: int) -> Plan:
        for _ in range(rounds):
            before = plan
            for strategy in self.strategies:
                plan = self._exhaust(strategy, plan)
            if plan.content == before.content or not self.more():
                break
        return plan

    def _exhaust(self, strategy: Strategy, plan: Plan) -> Plan:
        """Take a strategy's best proposal, and ask it again, until it has none that gains."""
        while self.more():
            found = [each for each in self._asked(strategy, plan) if each.answers != "lossy"]
            best = self._best(plan, found)
            if best is None:
                return plan
            plan = self._take(plan, best)
        return plan

    def _by_gain(self, plan: Plan) -> Plan:
        """Of what all strategies have that may alter answers the first that is enough, else the one that gains most,
        until the SLO holds or none of it gains."""
        vain: set[tuple[str, str]] = set()  # on the stages that were changed since
        while self._figures(plan).missed(self.slo) and self.more():
            asked = [each for strategy in self.strategies for each in self._asked(strategy, plan)]
            found = [each for each in asked if each.answers == "lossy" and _named(each) not in vain]
            best = self._best(plan, found)
            if best is None:
                return plan
            stages = _stages(plan, best.plan)
            vain |= {
                _named(each)
                for each in found
                if each is not best and self._gains_nothing(plan, each) and stages & _stages(plan, each.plan)
            }
            plan = self._take(plan, best)
        return plan

    def _gains_nothing(self, plan: Plan, proposal: Proposal) -> bool:
        """Whether it did not gain by itself: with another change of its stage it would have to be run anew to tell."""
        known = self._kept().get(proposal.plan.content)
        usual = self.usual or Figures({})
        return known is None or known.objective(self.slo, usual) > self._objective(plan) * (1.0 - WORTH)

    def _take(self, plan: Plan, best: Proposal) -> Plan:
        self.taken.append(Taken(self._told(best), plan, best.plan))
        self.took(self._figures(best.plan))
        return best.plan

    def _told(self, taken: Proposal) -> Tried:
        """What was kept of a change that has just been taken."""
        return next(
            each
            for each in reversed(self.tried)
            if each.taken and (each.strategy, each.change) == (taken.strategy, taken.change)
        )

    def _asked(self, strategy: Strategy, plan: Plan) -> list[Proposal]:
        proposals = []
        for each in strategy.propose(self.look(plan)):
            if isinstance(each, Refusal):
                self._refused(each)
            else:
                proposals.append(each)
        return proposals

    def _refused(self, refusal: Refusal) -> None:
        told = Tried(refusal.strategy, refusal.change, "identical", False, refusal.why)
        if told not in self.tried:
            self.tried.append(told)

    def _best(self, plan: Plan, proposals: Sequence[Proposal]) -> Proposal | None:
        looked_at = self._worth_a_look(plan, proposals)
        best: Proposal | None = None
        for objective, each in self._ranked(self._priced(plan, looked_at)):
            why = self._why_not(objective, plan, each, best)
            self.tried.append(
                Tried(
                    each.strategy,
                    each.change,
                    each.answers,
                    not why,
                    why or each.why,
                    objective,
                    self._figures(each.plan),
                    self._figures(plan),
                    self.pruning.formula(each.plan),
                )
            )
            if not why:
                best = each
        return best

    def _ranked(self, priced: list[tuple[float, int, Proposal]]) -> list[tuple[float, Proposal]]:
        """The best first. Of those that may alter answers and after which the SLO holds the first: strategies stand in
        the order of what they lose, and more than is needed is not spent."""

        def rank(one: tuple[float, int, Proposal]) -> tuple[bool, float, int]:
            objective, place, each = one
            enough = each.answers == "lossy" and not self._figures(each.plan).missed(self.slo)
            return not enough, place if enough else objective, place

        return [(objective, each) for objective, _, each in sorted(priced, key=rank)]

    def _worth_a_look(self, plan: Plan, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Those that are not refused at once; what they need to be priced is measured."""
        left = []
        for each in proposals:
            if why := self.pruning.why_not(plan, each):
                self._not_priced(each, why)
            else:
                left.append(each)
        self.ready(plan, [each.plan for each in left])
        return left

    def _priced(self, plan: Plan, proposals: Sequence[Proposal]) -> list[tuple[float, int, Proposal]]:
        """(objective, place, proposal) of those that have a price."""
        priced = []
        for index, each in enumerate(proposals):
            self.say(f"simulate {each.strategy}: {each.change}")
            try:
                priced.append((self._objective(each.plan), index, each))
            except PlanError as unknown:
                self._not_priced(each, unknown.message)
                continue
            self.pruning.came(plan, each, self._figures(plan), self._figures(each.plan))
        return priced

    def _not_priced(self, proposal: Proposal, why: str) -> None:
        told = Tried(proposal.strategy, proposal.change, proposal.answers, False, why)
        if told not in self.tried:
            self.tried.append(told)

    def _why_not(self, objective: float, plan: Plan, each: Proposal, best: Proposal | None) -> str:
        """Why a proposal is not taken in place of a plan; empty where it is."""
        present = self._objective(plan)
        if objective >= present * (1.0 - self._worth(plan)):
            gain = (1.0 - objective / present) * 100.0 if present else 0.0
            return (
                f"{'gains' if gain >= 0.0 else 'loses'} {abs(gain):.1f} % in simulation: not worth a change"
                f"{' while the SLO is far' if gain > WORTH * 100.0 else ''}"
            )
        if best is not None:
            enough = objective < self._objective(best.plan)
            return f"{best.change} is enough" if enough else f"gains less than {best.change}"
        return self.allowed(each)

    def _worth(self, plan: Plan) -> float:
        return COARSE if self._first and self._figures(plan).missed(self.slo) > FAR else WORTH

    def _objective(self, plan: Plan) -> float:
        return self._figures(plan).objective(self.slo, self.usual or Figures({}))

    def _figures(self, plan: Plan) -> Figures:
        kept, content = self._kept(), plan.content
        if content not in kept:
            kept[content] = self.price(plan)
        return kept[content]

    def _kept(self) -> dict[bytes, Figures]:
        """What plans were found to do by all that is known now."""
        if self._by != (now := self.known()):
            self._prices, self._by = {}, now
        return self._prices


def _named(proposal: Proposal) -> tuple[str, str]:
    return proposal.strategy, proposal.change


def _stages(before: Plan, after: Plan) -> set[str]:
    """The stages that differ between two plans."""
    return {stage for stage, _, _, _ in diff_plans(before, after)}
