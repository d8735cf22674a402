"""The finalist on the machine: beside the plans that it replaces, in turns, on the same schedules; first one request
at a time, then at the stated rate."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from tauten.describe.slo import Slo
from tauten.improve.load.figures import Times, judged, quantile_of
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.optimizer.pricing import TIMES
from tauten.improve.optimizer.search import Figures
from tauten.improve.optimizer.testbed import WARM_UP, Items, Testbed
from tauten.plan.plan import Plan
from tauten.statistics import Interval, queries_needed

ROUNDS: Final = 3  # of one request at a time: a round is one independent observation
FEW: Final = 4  # requests of a round: fewer are no sample of anything
MISSES: Final = 5  # that a run at the stated rate can afford and still prove p95
DROWNING: Final = 60  # requests that show it of a plan that simulations see drown
ALONE_SHARE: Final = 0.4  # of the time, for one request at a time; and what the load does not need


class Played(NamedTuple):
    """What was measured, by the name of the candidate."""

    alone: dict[str, Run]
    loaded: dict[str, Run]  # at the stated rate: of those that could hold it at all


class Finals:
    """Measures plans against one another. Rates in requests a second."""

    def __init__(self, testbed: Testbed, items: Items, slo: Slo, rate: float, seed: int) -> None:
        self.testbed, self.items, self.slo, self.rate, self.seed = testbed, items, slo, rate, seed

    def play(
        self,
        plans: Mapping[str, Plan],
        simulated: Mapping[str, Figures],
        alone: Mapping[str, Figures],
        seconds: float,
    ) -> Played:
        """All plans one request at a time, then those that simulations do not see drown at the stated rate.

        Plans that do the same are measured once. About as long as `seconds`, as simulations foresee it at the rate
        and of one request `alone`.
        """
        different = distinct(plans)
        afloat = {name: plan for name, plan in different.items() if self._holds(simulated[name])}
        wanted = queries_needed(max(judged(self.slo), default=0.95), MISSES) if afloat else DROWNING
        under = afloat or {"chosen": plans["chosen"]}
        loaded_s = min(seconds * (1.0 - ALONE_SHARE), wanted * len(under) / self.rate)
        quiet = self._alone(different, alone, seconds - loaded_s)
        loaded = self._loaded(under, loaded_s, wanted)
        return Played(_spread(quiet, plans), _spread(loaded, plans))

    def _alone(
        self, plans: Mapping[str, Plan], alone: Mapping[str, Figures], seconds: float
    ) -> dict[str, Run]:
        """Each request once a round, the first of them to warm up behind those that warm up the engine."""
        each_s = sum(alone[name].values.get("p50_ms", 1e3) for name in plans) / 1e3
        count = max(FEW, min(len(self.items), int(seconds / ROUNDS / max(each_s, 1e-3)) - WARM_UP))
        load = Load(clients=1, requests=max(1, count * 9 // 10), seed=self.seed)
        return self._bench(plans, _evenly(self.items, count), load, ROUNDS, Slo())

    def _loaded(self, plans: Mapping[str, Plan], seconds: float, wanted: int) -> dict[str, Run]:
        rounds = 1  # a queue shows what it does in one long run, not in three short ones
        fitting = round(self.rate * seconds / max(1, len(plans)))
        load = Load(rate_per_s=self.rate, requests=max(20, min(wanted, fitting)), seed=self.seed)
        return self._bench(plans, (), load, rounds, self.slo)

    def _bench(
        self, plans: Mapping[str, Plan], items: Items, load: Load, rounds: int, slo: Slo
    ) -> dict[str, Run]:
        runs = self.testbed.bench(list(plans.values()), items, load, rounds, slo)
        return dict(zip(plans, runs, strict=True))

    def _holds(self, figures: Figures) -> bool:
        """Whether a plan is worth loading: one whose queue only grows shows nothing but that."""
        limits = {name: limit for name, limit in self.slo.limits().items() if name in TIMES}
        if not limits:
            return figures.values.get("p95_ms", math.inf) < 1e4
        return all(figures.values.get(name, math.inf) < DROWNED * limit for name, limit in limits.items())


DROWNED: Final = 5.0  # times a limit, simulated: nobody waits for that


def distinct(plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """Of plans that do the same the first."""
    found: dict[bytes, tuple[str, Plan]] = {}
    for name, plan in plans.items():
        found.setdefault(plan.content, (name, plan))
    return dict(found.values())


def _spread(runs: Mapping[str, Run], plans: Mapping[str, Plan]) -> dict[str, Run]:
    """The run of each plan: its own, or that of the one that does the same."""
    by_content = {plans[name].content: run for name, run in runs.items()}
    return {name: by_content[plan.content] for name, plan in plans.items() if plan.content in by_content}


def _evenly(items: Items, count: int) -> Items:
    return [items[place * len(items) // count] for place in range(count)]


def figures_of_run(run: Run) -> Figures:
    """By the names of SLO limits; failures are endless."""
    values = {}
    for name in TIMES:
        table = _table(run, name)
        value = table.at(quantile_of(name)).ms if table is not None else None
        values[name] = math.inf if value is None else value
    sent = max(1, run.requests.sent)
    return Figures(values, (sent - run.requests.ok) / sent)


def intervals_of(run: Run) -> dict[str, Interval]:
    """The 95 % intervals of the same, where there were enough requests for one."""
    found = {}
    for name in TIMES:
        table = _table(run, name)
        at = table.at(quantile_of(name)) if table is not None else None
        if table is not None and at is not None and None not in (at.low_ms, at.ms, at.high_ms):
            found[name] = Interval(at.low_ms, at.ms, at.high_ms, table.n)  # type: ignore[arg-type]
    return found


def _table(run: Run, name: str) -> Times | None:
    """A workflow that does not stream gives its first output with its last."""
    return (run.first_output or run.latency) if name == "first_output_ms" else run.latency
