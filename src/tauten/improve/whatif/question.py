"""The whole question: what would help a workflow on a recording, asked of the simulator, confirmed where wanted.

Whatever has to be known before plans can be simulated is run once; nothing else is, and nothing is changed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from msgspec.structs import replace

from tauten.describe.slo import Slo
from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.explain.whatif import SHOWN, Probed, WhatIf
from tauten.improve.drawn import drawn
from tauten.improve.optimizer.facts import TapedFacts
from tauten.improve.optimizer.learner import Learner
from tauten.improve.optimizer.pricing import ALONE_S, Pricer
from tauten.improve.optimizer.record import PLAN, Record
from tauten.improve.optimizer.search import Figures
from tauten.improve.optimizer.testbed import Items, Testbed
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Done
from tauten.improve.situation import Forms, Situation, Strategy
from tauten.improve.whatif.awaited import Foretold, content_hash
from tauten.improve.whatif.gains import SCHEDULES, Asked, Gains, moved_by
from tauten.improve.whatif.probe import SIMULATED, delay_s, in_turn, probe, probed, rounds_of
from tauten.improve.whatif.replays import prices, prices_quicker, working_steps
from tauten.plan.hardware import Hardware, processors
from tauten.plan.ledger import ENOUGH
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.engine import Engine
from tauten.run.slowed import Delays
from tauten.statistics.bootstrap import mean

Say = Callable[[str], None]


class Terms(NamedTuple):
    """What the question is about. `rate` in requests a second; 0 is one at a time."""

    plan: Plan
    slo: Slo
    rate: float = 0.0
    seed: int = 0
    schedules: int = SCHEDULES
    recording: str = ""


class Question:
    """One question. `items` are the requests that are run and simulated; `more` says whether there is time to run yet
    another setting: without, changes that would need it are told as untried. Raises PlanError E132 for programs."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        items: Items,
        testbed: Testbed,
        terms: Terms,
        record: Record,
        *,
        here: Hardware,
        shared: Shared | None = None,
        forms: Forms | None = None,
        more: Callable[[], bool] = lambda: True,
        say: Say = lambda text: None,
    ) -> None:
        if not items:
            raise InputError("no request to simulate", help="give a recording with some", code="E245")
        self.workflow, self.graph, self.items = workflow, drawn(workflow), items
        plan = replace(terms.plan, graph=self.graph.hash)
        self.terms, self.record, self.here, self.say = terms._replace(plan=plan), record, here, say
        self.testbed, self.forms = testbed, forms
        self.learner = Learner(self.graph, items, testbed, more=more, say=say)
        self.pricer = Pricer(
            workflow,
            self.learner.library,
            shared or Shared(cores=here.cores),
            terms.rate,
            seed=terms.seed,
        )

    def look(self, plan: Plan) -> Situation:
        """What strategies may see of a plan."""
        facts = TapedFacts(self.learner.library, lower(self.graph, plan))
        slo, rate = self.terms.slo, self.terms.rate
        there = processors()[: self.here.cores]
        return Situation(self.graph, plan, self.here, slo, rate, facts, self.forms, there)

    def answer(self, strategies: Sequence[Strategy]) -> WhatIf:
        """What would help: every change that strategies propose, and what each step is worth."""
        terms = self.terms
        self._see()
        self.gains = gains = Gains(
            Asked(terms.plan, terms.slo, terms.schedules),
            prices(self.pricer),
            ledger=self.record.ledger,
            hardware=self.record.hardware,
            ready=self.learner.learn,
            say=self.say,
        )
        changes, together, untried = gains.changes(self.look, strategies)
        steps = gains.steps(self.steps(), prices_quicker(self.pricer, terms.plan))
        return WhatIf(
            workflow=self.workflow.name,
            plan=terms.plan.id,
            recording=terms.recording,
            machine=str(self.here),
            rate_per_s=terms.rate,
            requests=len(self.pricer.arrivals(terms.rate, terms.seed)),
            schedules=terms.schedules,
            now=gains.present(),
            changes=changes,
            together=together,
            untried=untried,
            steps=steps,
            failures=self.learner.failures,
            record=self.record.accuracy().said(),
        )

    def _see(self) -> None:
        """Run the requests once under the plan, one step after another: what runs side by side slows each other."""
        stages = {name: replace(stage, beside=()) for name, stage in self.terms.plan.stages.items()}
        self.say(f"run {len(self.items)} recorded {'request' if len(self.items) == 1 else 'requests'}")
        self.learner.library.add(self.testbed.capture(replace(self.terms.plan, stages=stages), self.items))
        self.learner.learn(self.terms.plan, [])

    def steps(self) -> list[str]:
        """The steps that take time at all."""
        return working_steps(self.pricer, self.terms.plan)

    # -- delays on purpose --------------------------------------------------------------------------------------

    async def delayed(self, engine: Engine, *, rounds: int = 0) -> list[Done]:
        """Real requests of which some steps were delayed, to be handed to `probed`; so often each item."""
        terms, rounds = self.terms, rounds or rounds_of(len(self.items))
        return await probe(
            engine,
            self.workflow,
            terms.plan,
            self._arrivals(rounds, terms.seed),
            dict(self.items),
            self._delays(terms.seed),
            alone=not terms.rate,
            say=self.say,
        )

    def probed(self, measured: Sequence[Done]) -> list[Probed]:
        """What delays did to real requests, beside what they do in simulation."""
        seed = self.terms.seed + 1  # other draws than those of the measured ones
        arrivals = self._arrivals(SIMULATED * max(1, len(measured) // len(self.items)), seed)
        if not self.terms.rate:
            arrivals = [(place * ALONE_S, id) for place, (_, id) in enumerate(arrivals)]
        self.say("simulate the same delays")
        simulator = self.pricer.simulator
        simulated = simulator.run(self.terms.plan, arrivals, seed=seed, delays=self._delays(seed))
        return probed(measured, simulated.done, self.steps())

    def _delays(self, seed: int) -> Delays:
        seconds = delay_s(self.gains.present().get("p50_ms", 0.0) / 1e3)
        return Delays(dict.fromkeys(self.steps(), seconds), seed=seed)

    def _arrivals(self, rounds: int, seed: int) -> list[tuple[float, str]]:
        ids = [id for id, _ in self.items]
        if not self.terms.rate:
            return in_turn(ids, rounds)
        many = Pricer(
            self.workflow,
            self.learner.library,
            self.pricer.simulator.shared,
            self.terms.rate,
            requests=rounds * len(ids),
        )
        return many.arrivals(self.terms.rate, seed)[: rounds * len(ids)]

    # -- predictions that can be scored later -------------------------------------------------------------------

    def foretold(self) -> list[Foretold]:
        """What was predicted of the plan and of all its changes: to be scored once they are measured."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        plans = [(PLAN, self.terms.plan), *((each.strategy, each.plan) for each in self.gains.proposed)]
        found = [self._foretold(strategy, plan, what, at) for strategy, plan in plans for what in SHOWN]
        return [each for each in found if each is not None]

    def _foretold(self, strategy: str, plan: Plan, what: str, at: str) -> Foretold | None:
        stated = self._stated(self.gains.priced(plan), what, strategy)
        if stated is None:
            return None
        low, mid, high = stated
        return Foretold(
            workflow=self.graph.hash,
            plan=content_hash(plan),
            name=plan.id,
            machine=str(self.here),
            rate_per_s=self.terms.rate,
            recording=self.terms.recording,
            items=tuple(id for id, _ in self.items),
            what=what,
            predicted=mid,
            low=low,
            high=high,
            strategy=strategy,
            at=at,
        )

    def _stated(
        self, figures: Sequence[Figures], what: str, strategy: str
    ) -> tuple[float, float, float] | None:
        """(low, mid, high) of what one measurement would show; None where nothing would be answered."""
        seen = [each.values.get(what, math.inf) for each in figures]
        if not all(map(math.isfinite, seen)):
            return None
        mid, half = mean(seen), _one_more(seen)
        held = self.record.interval(what, mid, strategy=strategy)
        below, above = (mid - held.low, held.high - mid) if held.n >= ENOUGH else (0.0, 0.0)
        return max(0.0, mid - math.hypot(half, max(0.0, below))), mid, mid + math.hypot(half, max(0.0, above))


def _one_more(seen: Sequence[float]) -> float:
    """Half of the interval in which one more of them lies, by Student; 0.0 where there is only one."""
    n = len(seen)
    if n < 2:
        return 0.0
    around = moved_by([0.0] * n, seen)  # of their mean: sqrt(n + 1) times narrower
    return around.half * math.sqrt(n + 1.0)
