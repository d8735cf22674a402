"""From a workflow, a recording and an SLO to a plan that holds it, with the evidence.

Formulas prune, simulation ranks, measurement decides. Changes that keep answers come first; those that may alter
them only while the simulated SLO is missed, and only as far as labels prove them harmless.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tauten.clock import Clock, real
from tauten.describe.slo import Slo
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, PlanError
from tauten.improve.drawn import drawn
from tauten.improve.labels.keeper import Told
from tauten.improve.optimizer.baseline import zero_effort
from tauten.improve.optimizer.facts import TapedFacts
from tauten.improve.optimizer.finals import Finals, Played, distinct, figures_of_run, intervals_of
from tauten.improve.optimizer.front import marked
from tauten.improve.optimizer.gap import Gap, gap_of
from tauten.improve.optimizer.gate import Gate
from tauten.improve.optimizer.learner import Learner
from tauten.improve.optimizer.outcome import Answer, Candidate, Curve, Decision, Forecast, Optimized
from tauten.improve.optimizer.pricing import REQUESTS, TIMES, Pricer, curve
from tauten.improve.optimizer.pruning import Formulas
from tauten.improve.optimizer.record import SOONEST, Record
from tauten.improve.optimizer.search import MEMORY, Figures, Found, Search, Taken, Tried
from tauten.improve.optimizer.testbed import Items, Testbed
from tauten.improve.optimizer.undo import ablations, overridden, worth
from tauten.improve.optimizer.written import NAME, written
from tauten.improve.quality import Evidence
from tauten.improve.simulate.machine import Shared
from tauten.improve.situation import Forms, Proposal, Situation, Strategy
from tauten.plan.hardware import Hardware, hardware, processors
from tauten.plan.ledger import Ledger
from tauten.plan.lower import lower
from tauten.plan.plan import Plan, format_plan

MINUTES: Final = 30.0
FINALS_SHARE: Final = 0.2  # of the time: what is kept for measuring the finalist
LEAST_SHARE: Final = 0.1  # of the time: what is kept for it where a proof that was begun comes to its end
RATES: Final = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)  # times the stated rate, of the curves

Say = Callable[[str], None]


class Asked(NamedTuple):
    """What an optimisation is to do. `rate` in requests a second."""

    slo: Slo
    rate: float
    budget_s: float = MINUTES * 60.0
    seed: int = 0
    dry_run: bool = False  # nothing is measured beyond what the simulation has to know
    target: str = ""  # how a plan file names the workflow
    requests: int = REQUESTS  # simulated for a plan, at least
    began: str = ""  # the plan that it begins with, in words; empty is all defaults


class Result(NamedTuple):
    """The outcome, the plan to be kept, and what speaks for its quality where it may alter answers; and what those
    were before and after, where they are kept."""

    outcome: Optimized
    plan: Plan
    evidence: Evidence | None
    told: tuple[Told, Told] = ({}, {})


class Optimizer:
    """One optimisation. `items` are the requests that are run and simulated, `labelled` the ids of those that
    may be judged. The same measurements, seed and recording give the same plan."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        items: Items,
        testbed: Testbed,
        strategies: Sequence[Strategy],
        asked: Asked,
        *,
        labelled: Sequence[str] = (),
        clusters: Mapping[str, str] | None = None,
        recording: str = "",
        shared: Shared | None = None,
        here: Hardware | None = None,
        forms: Forms | None = None,
        record: Record | None = None,
        clock: Clock = real,
        say: Say = lambda text: None,
        best: Say = lambda text: None,
    ) -> None:
        if not items:
            raise InputError("no request to optimise for", help="give a recording with some", code="E245")
        self.workflow, self.graph, self.items, self.testbed = workflow, drawn(workflow), items, testbed
        self.strategies, self.asked, self.recording = strategies, asked, recording
        self.here, self.forms = here or hardware(), forms
        self.record = record or Record(Ledger(), self.here)  # of past predictions: how sure these are
        self.clock, self.say, self.best = clock, say, best
        self.began = clock()
        self.stopped = False  # there was no time to look at everything
        self.weighs = asked.slo.memory_bytes is not None
        self.learner = Learner(self.graph, items, testbed, more=self.more, say=say, weighs=self.weighs)
        self.pricer = Pricer(
            workflow,
            self.learner.library,
            shared or Shared(cores=self.here.cores),
            asked.rate,
            seed=asked.seed,
            requests=asked.requests,
        )
        self.alone = Pricer(workflow, self.learner.library, self.pricer.simulator.shared, 0.0)
        self.gate = Gate(
            testbed,
            labelled,
            asked.slo.quality_loss,
            clusters=clusters,
            seed=asked.seed,
            more=self.more,
            grace_s=asked.budget_s * (FINALS_SHARE - LEAST_SHARE),
            say=say,
            clock=clock,
        )

    def more(self, needed_s: float = 0.0) -> bool:
        """Whether there is time for one more thing before what needs so many seconds, and the finalist is measured."""
        left_s = self.asked.budget_s * (1.0 - FINALS_SHARE) - (self.clock() - self.began)
        self.stopped = self.stopped or left_s <= needed_s
        return left_s > needed_s

    # -- the whole --------------------------------------------------------------------------------------------

    def run(self, naive: Plan) -> Result:
        """Improve a plan. Raises what the workflow raises under it."""
        naive = msgspec.structs.replace(naive, graph=self.graph.hash)
        self.learner.learn(naive, [])
        search = self._search()
        kept = search.improve(naive, lossy=False, rounds=1, first=True)
        easy = self._zero_effort(naive)  # most of it was measured by now
        kept = self._no_worse(search, naive, kept, easy)
        kept, evidence = self._lossy(search, kept)
        found = search.improve(kept.plan, lossy=False)  # what is short now leaves other work on the path
        plans = {
            "naive": naive,
            "zero-effort": _named(easy, "zero-effort"),
            "chosen": _named(found.plan, NAME),
        }
        if not self.asked.dry_run:
            self.learner.weigh(list(plans.values()))
        figures = {name: self.pricer(plan) for name, plan in plans.items()}
        outcome = self._told(search, plans, figures, evidence)
        target, machine = self.asked.target, str(self.here)
        plan = written(found.plan, search.taken, search.began or naive, outcome, target, machine)
        return Result(outcome, plan, evidence, self.gate.told)

    def _search(self) -> Search:
        return Search(
            self.strategies,
            self.look,
            self.pricer,
            self.asked.slo,
            allowed=self.gate.allowed,
            more=self.more,
            ready=self.learner.learn,
            known=lambda: self.learner.library.version,
            took=lambda figures: self.best(figures.said(self.asked.slo)),
            say=self.say,
            pruning=Formulas(
                self.graph,
                self.learner.library,
                self.here.cores,
                self.gate.hopeless,
                weighs=self.weighs,
            ),
        )

    def look(self, plan: Plan) -> Situation:
        """What strategies may see of a plan."""
        facts = TapedFacts(self.learner.library, lower(self.graph, plan))
        slo, rate = self.asked.slo, self.asked.rate
        there = processors()[: self.here.cores]
        return Situation(self.graph, plan, self.here, slo, rate, facts, self.forms, there)

    def _no_worse(self, search: Search, naive: Plan, kept: Found, easy: Plan) -> Found:
        """What takes no effort, and from there on, where a search that had no time found nothing better."""
        if easy.content == naive.content:
            return kept
        why = "the best that takes no effort is better than what the search had found"
        found = search.instead(
            kept.plan,
            Proposal("zero-effort", "one engine and number of threads for all", easy, "equivalent", why),
        )
        return (
            kept if found.plan is kept.plan else search.improve(found.plan, lossy=False, rounds=1, first=True)
        )

    def _zero_effort(self, naive: Plan) -> Plan:
        """The best of them one request at a time. One that would not be it even if what nobody has run so were as
        quick as it is now is not run for it."""
        best = naive
        for plan in sorted(zero_effort(self.look(naive)), key=lambda plan: self._hoped_ms(plan, naive)):
            if self._hoped_ms(plan, naive) < _p50(self.alone, best):
                self.learner.learn(naive, [plan])
                best = min(best, plan, key=lambda each: _p50(self.alone, each))
        return best

    def _hoped_ms(self, plan: Plan, naive: Plan) -> float:
        """The median of a plan alone, with settings of the naive one where its own were never seen."""
        unknown = {each.step.stage for each in self.learner.library.unknown(lower(self.graph, plan))}
        known = {name: each for name, each in plan.stages.items() if name not in unknown}
        kept = {name: each for name, each in naive.stages.items() if name in unknown}
        return _p50(self.alone, msgspec.structs.replace(plan, stages={**known, **kept}))

    # -- changes that may alter answers -------------------------------------------------------------------------

    def _lossy(self, search: Search, kept: Found) -> tuple[Found, Evidence | None]:
        """Further, as far as labels prove it harmless: what they do not is taken back."""
        self.gate.before = kept.plan
        taken = len(search.taken)
        # what cannot be confirmed is chosen in vain
        search.more = lambda: self.more() and self.gate.provable(len(search.taken) - taken + 1)
        found = search.improve(kept.plan, lossy=True)
        search.more = self.more
        if len(search.taken) == taken:
            return found, None
        proven = self.gate.proven(kept.plan, [each.after for each in search.taken[taken:]])
        while len(search.taken) > taken + proven.changes:
            found = search.take_back(proven.why)
        return found, proven.evidence

    # -- the finalist -------------------------------------------------------------------------------------------

    def _finals(
        self, plans: Mapping[str, Plan], figures: Mapping[str, Figures], alone: Mapping[str, Figures]
    ) -> Played:
        if self.asked.dry_run:
            return Played({}, {})
        self.say("measure the finalist beside the plans that it would replace")
        left_s = self.asked.budget_s - (self.clock() - self.began)
        finals = Finals(self.testbed, self.items, self.asked.slo, self.asked.rate, self.asked.seed)
        return finals.play(plans, figures, alone, max(left_s, self.asked.budget_s * LEAST_SHARE))

    # -- telling ------------------------------------------------------------------------------------------------

    def _told(
        self,
        search: Search,
        plans: Mapping[str, Plan],
        figures: Mapping[str, Figures],
        evidence: Evidence | None,
    ) -> Optimized:
        alone = {name: self.alone(plan) for name, plan in plans.items()}
        played = self._finals(plans, figures, alone)
        answer, why = self._answer(figures["chosen"], played)
        chosen = plans["chosen"]
        tried, left = _as_it_stands(search, chosen)
        without = ablations(left, chosen)
        self.learner.learn(chosen, list(without.values()))
        measured = played.loaded.get("chosen")
        now = figures_of_run(measured) if measured is not None else figures["chosen"]
        gap = gap_of(self.pricer, chosen, self.asked.slo, now, tried) if answer != "met" else Gap()
        return Optimized(
            workflow=self.workflow.name,
            recording=self.recording,
            machine=str(self.here),
            slo=self.asked.slo,
            rate_per_s=self.asked.rate,
            seed=self.asked.seed,
            answer=answer,
            why=why,
            chosen="chosen",
            candidates=marked(self._candidates(plans, figures, played, evidence), self.asked.slo),
            decisions=[self._decision(each) for each in _last_said(tried)],
            forecasts=self._forecasts(figures, alone, played),
            curves=self._curves(plans),
            ablation=worth(without, self.pricer),
            gap=list(gap.rows),
            gap_what=gap.what,
            labels=self.gate.labels if self.gate.items else None,
            verdict=evidence.verdict if evidence is not None else None,
            searched_s=self.clock() - self.began,
            interrupted=self.stopped,
            made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            notes=[*self.learner.failures, *_alike(evidence)],
            began=self.asked.began,
        )

    def _answer(self, simulated: Figures, played: Played) -> tuple[Answer, list[str]]:
        """What the run at the stated rate proved; without one, what simulations say."""
        run = played.loaded.get("chosen")
        if run is None:
            missed = simulated.missed(self.asked.slo)
            words = (
                f"simulated only: the worst limit is missed by {missed:.0%}" if missed else "simulated only"
            )
            return ("missed" if missed else "cannot conclude"), [words]
        answer: Answer = run.answer if run.answer in ("met", "missed") else "cannot conclude"
        beyond = [*self._memory(simulated), *self._not_judged()]
        for told, _ in beyond:
            answer = worse_of(answer, told)
        return answer, [*run.why, *(words for _, words in beyond)]

    def _memory(self, figures: Figures) -> Iterator[tuple[Answer, str]]:
        """What is to be said of a limit on memory that is not known to hold; a load does not see it."""
        limit, held = self.asked.slo.memory_bytes, figures.values.get(MEMORY)
        if limit is None:
            return
        if held is None:
            yield "cannot conclude", "the memory of one of its models is not known"
        elif held > limit:
            yield "missed", f"its models and caches take up to {held / 1e6:.0f} MB of {limit / 1e6:.0f}"

    def _not_judged(self) -> Iterator[tuple[Answer, str]]:
        """Limits that no load here tells anything of."""
        for name in self.asked.slo.limits():
            if name not in TIMES and name != MEMORY:
                yield "cannot conclude", f"{name} is not judged here: `tauten usage` tells what requests cost"

    def _candidates(
        self,
        plans: Mapping[str, Plan],
        figures: Mapping[str, Figures],
        played: Played,
        evidence: Evidence | None,
    ) -> list[Candidate]:
        found = []
        right = evidence.means if evidence is not None else (None, None)
        for name, plan in plans.items():
            loaded, alone = played.loaded.get(name), played.alone.get(name)
            lossy = name == "chosen" and evidence is not None
            found.append(
                Candidate(
                    name=name,
                    plan=format_plan(plan),
                    simulated=figures[name],
                    measured=figures_of_run(loaded) if loaded is not None else None,
                    alone=figures_of_run(alone) if alone is not None else None,
                    intervals=intervals_of(loaded) if loaded is not None else {},
                    quality=right[name == "chosen"],
                    quality_loss=evidence.verdict.loss_high if lossy and evidence is not None else 0.0,
                    memory_bytes=_whole(figures[name].values.get(MEMORY)),
                )
            )
        return found

    def _decision(self, tried: Tried) -> Decision:
        return Decision(
            strategy=tried.strategy,
            change=tried.change,
            answers=tried.answers,
            taken=tried.taken,
            why=tried.why,
            before=tried.before,
            simulated=tried.figures,
            formula=tried.formula,
            verdict=self.gate.verdicts.get((tried.strategy, tried.change)),
        )

    def _forecasts(
        self, figures: Mapping[str, Figures], alone: Mapping[str, Figures], played: Played
    ) -> list[Forecast]:
        pairs = [(name, "alone", alone[name], run) for name, run in played.alone.items()]
        pairs += [(name, "at the rate", figures[name], run) for name, run in played.loaded.items()]
        return [
            each
            for name, load, told, run in pairs
            for each in self.record.forecast(f"{name}, {load}", told, figures_of_run(run))
            if each.what in SOONEST and each.measured < math.inf
        ]

    def _curves(self, plans: Mapping[str, Plan]) -> list[Curve]:
        rates = [self.asked.rate * times for times in RATES]
        return [Curve(name, True, curve(self.pricer, plan, rates)) for name, plan in distinct(plans).items()]


def _alike(evidence: Evidence | None) -> list[str]:
    """How many of the items that speak for a plan were not run to their end, and why not."""
    if evidence is None or not (alike := sum(each.alike for each in evidence.items.values())):
        return []
    return [
        f"{alike} of {len(evidence.items)} labelled requests are answered the same: all that the plans do differently "
        "gives them the same"
    ]


def _named(plan: Plan, name: str) -> Plan:
    return msgspec.structs.replace(plan, name=name)


def _whole(amount: float | None) -> int | None:
    return None if amount is None else round(amount)


def worse_of(one: Answer, other: Answer) -> Answer:
    """The answer that promises less.

    >>> worse_of("met", "cannot conclude"), worse_of("cannot conclude", "missed")
    ('cannot conclude', 'missed')
    """
    order: tuple[Answer, ...] = ("missed", "cannot conclude", "met")
    return min(one, other, key=order.index)


def _as_it_stands(search: Search, plan: Plan) -> tuple[list[Tried], list[Taken]]:
    """What was tried, as far as it is in the plan: a change that later ones have set otherwise is not told as taken;
    and the changes that are."""
    gone = overridden(plan, search.taken, search.began or plan)
    why = {id(search.taken[place].tried): told for place, told in gone.items()}
    tried = [
        msgspec.structs.replace(each, taken=False, why=why[id(each)]) if id(each) in why else each
        for each in search.tried
    ]
    return tried, [each for place, each in enumerate(search.taken) if place not in gone]


def _last_said(tried: Sequence[Tried]) -> list[Tried]:
    """Each change once: as it was taken, else as it was last looked at."""
    found: dict[tuple[str, str], Tried] = {}
    for each in tried:
        known = found.get((each.strategy, each.change))
        if known is None or not known.taken:
            found[each.strategy, each.change] = each
    return list(found.values())


def _p50(price: Pricer, plan: Plan) -> float:
    try:
        return price(plan).values["p50_ms"]
    except PlanError:  # some model does not run so: no baseline
        return math.inf
