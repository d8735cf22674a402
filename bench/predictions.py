"""How near simulations come: what strategies propose for three workflows, foreseen first, then run, at one pace.

    python -m bench.predictions [help_desk document_chat triage] [--ledger LEDGER.jsonl] [--minutes 60] [--most 40]
                                [--loads 0,0.5] [--items 8] [--out OUT.json]

Each plan is foreseen by the simulation and by the formula, which knows no queues. Then it is measured: one request at
a time (load 0), or in an open loop at a share of what simulations say that it can do. Slices of the machine's probe
lie between the requests; what is measured is told at the pace at which the models were. A ledger keeps all of it; the
same command goes on where it was, and tells of all that its ledger has.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tauten.cli.explain import naive
from tauten.cli.optimize import naive_beside
from tauten.describe.slo import Slo
from tauten.describe.workflow import Workflow
from tauten.errors import TautenError
from tauten.examples.document_chat.chat import document_chat
from tauten.examples.help_desk.desk import help_desk
from tauten.examples.triage.inbox import triage
from tauten.improve.compress.forms import StoredForms
from tauten.improve.labelled import WHOLE, open_recording
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.figures import quantile_of
from tauten.improve.load.samples import Samples
from tauten.improve.load.schedule import Load, Schedule
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.improve.measuring.pace import AROUND, Pace, opened, reference_of
from tauten.improve.measuring.stages import PEAKS_FILE, machine_peaks
from tauten.improve.optimizer.baseline import zero_effort
from tauten.improve.optimizer.formula import formula
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.optimizer.optimizer import Asked, Optimizer
from tauten.improve.optimizer.order import ORDER
from tauten.improve.optimizer.record import By, Record
from tauten.improve.optimizer.search import Figures
from tauten.improve.optimizer.testbed import Items
from tauten.improve.recording import evenly
from tauten.improve.replay import serve_one
from tauten.improve.simulate.machine import shared_of
from tauten.improve.simulate.simulator import Simulated
from tauten.improve.situation import Proposal
from tauten.models.store import Store
from tauten.plan.hardware import hardware
from tauten.plan.ledger import Ledger
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine
from tauten.statistics import percentile

WORKFLOWS: dict[str, Workflow[..., Any]] = {each.name: each for each in (help_desk, document_chat, triage)}
RATE = 1.0  # requests a second, of which strategies think when they propose
REQUESTS = 24  # of an open loop
PATIENCE_S = 1e9  # for what has to be known first: --minutes ends the measuring
NO_SLO = Slo()  # nothing is refused: the figures are of all
TIMES = ("p50_ms", "p95_ms")  # what the bound on errors is about
BOTH: tuple[By, ...] = ("simulation", "formula")


class DidNotRun(Exception):
    """Why a plan could not be measured."""


class Candidate(NamedTuple):
    """A plan, and what is different in it."""

    change: str
    plan: Plan


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Subject:
    """One workflow with its requests, what is known of it, and the pace of its machine since then."""

    def __init__(self, workflow: Workflow[..., Any], count: int) -> None:
        self.workflow = workflow
        chosen = evenly(list(open_recording(workflow, "", usual=WHOLE)), count + 1)
        peaks = run_async(machine_peaks(Store().root / PEAKS_FILE, progress=say))
        measurer = opened()
        self.pace = Pace(measurer, reference_of(measurer))
        self.testbed = LiveTestbed(workflow, chosen, peaks=peaks)
        self.testbed.pace = self.pace
        bound: Items = [(item.id, workflow.bind(**item.inputs)) for item in chosen]
        self.first, self.items = bound[0], bound[1:]  # the first one only warms up
        asked = Asked(workflow.slo, RATE, budget_s=PATIENCE_S, dry_run=True)
        self.optimizer = Optimizer(
            workflow,
            self.items,
            self.testbed,
            ORDER,
            asked,
            forms=StoredForms(Store()),
            shared=shared_of(peaks),
            say=say,
        )

    def candidates(self, most: int) -> list[Candidate]:
        """The naive plan, what takes no effort, and what each strategy proposes for it; evenly so many of them."""
        begin = naive_beside(self.workflow) or naive(self.workflow)
        begin = msgspec.structs.replace(begin, graph=self.optimizer.graph.hash)
        self.optimizer.learner.learn(begin, [])
        seen = self.optimizer.look(begin)
        found = {begin.content: Candidate("naive", begin)}
        for plan in zero_effort(seen):
            found.setdefault(plan.content, Candidate("zero effort", plan))
        for strategy in ORDER:
            for each in strategy.propose(seen):
                if isinstance(each, Proposal):
                    found.setdefault(
                        each.plan.content, Candidate(f"{each.strategy}: {each.change}", each.plan)
                    )
        every = list(found.values())
        count = min(most, len(every))
        chosen = [every[place * len(every) // count] for place in range(count)]
        self.optimizer.learner.learn(begin, [each.plan for each in chosen])
        return chosen

    # -- foreseen ---------------------------------------------------------------------------------------------

    def coming(self, plan: Plan, load: float) -> Load:
        """An open loop at that share of the rate at which one request would follow upon another."""
        return Load(rate_per_s=load * 1e3 / self.optimizer.alone(plan).values["p50_ms"], requests=REQUESTS)

    def foreseen(self, plan: Plan, load: float) -> dict[By, Figures]:
        """What both say. Raises PlanError for a plan of which something could not be learned."""
        summed = formula(self.optimizer.learner.library, lower(self.optimizer.graph, plan))
        if not load:
            return {"simulation": self.optimizer.alone(plan), "formula": summed}
        schedule = self.coming(plan, load).schedule(len(self.items))
        arrivals = [
            (due - schedule.due[0], self.items[item][0])
            for due, item in zip(schedule.due, schedule.items, strict=True)
        ]
        found = self.optimizer.pricer.simulator.run(plan, arrivals)
        return {"simulation": _told(found, schedule), "formula": summed}

    # -- measured ---------------------------------------------------------------------------------------------

    def measured(self, plan: Plan, load: float) -> Figures:
        """What a run took, told at the pace of what the simulation knows."""
        self.pace.begin()
        if not load:
            latencies, firsts = run_async(self._alone(plan))
        else:
            seen = run_async(self._loaded(plan, self.coming(plan, load))).measured
            latencies = [each.latency for each in seen]
            firsts = [each.first_output for each in seen]
        times = self.pace.taken()
        if math.inf in latencies:
            raise DidNotRun(f"{latencies.count(math.inf)} of {len(latencies)} requests failed")
        found = _figures(latencies, firsts)
        return Figures({name: value * times for name, value in found.values.items()})

    async def _alone(self, plan: Plan) -> tuple[list[float], list[float]]:
        latencies, firsts = [], []
        async with Engine() as engine:
            name = await engine.open(self.workflow, plan)
            await serve_one(engine, name, *self.first)
            for id, inputs in self.items:
                self.pace.look()
                served = await serve_one(engine, name, id, inputs)
                if served.error is not None:
                    raise DidNotRun(served.error.message)
                latencies.append(served.wall_ms / 1e3)
                first_ms = served.first_output_ms
                firsts.append((served.wall_ms if first_ms is None else first_ms) / 1e3)
        return latencies, firsts

    async def _loaded(self, plan: Plan, load: Load) -> Samples:
        async with Engine() as engine:
            target = WorkflowTarget(engine, self.workflow, plan, NO_SLO)
            await target.open()
            side = Side("plan", target, [inputs for _, inputs in self.items])
            self.pace.look(AROUND)
            samples, _ = await Bencher([side], slo=NO_SLO).once(side, load)
            self.pace.look(AROUND)
            return samples


def _told(found: Simulated, schedule: Schedule) -> Figures:
    """Of a simulation, without what warmed the measured run up."""
    done = sorted(found.done, key=lambda each: each.at_s)[sum(at < 0 for at in schedule.due) :]
    return _figures([each.seconds for each in done], [each.first_s for each in done])


def _figures(latencies: list[float], firsts: list[float]) -> Figures:
    """Of seconds, by the names of SLO limits."""
    values = {name: percentile(latencies, quantile_of(name)) * 1e3 for name in TIMES}
    values["first_output_ms"] = percentile(firsts, quantile_of("first_output_ms")) * 1e3
    return Figures(values)


def left(
    subject: Subject, candidates: Sequence[Candidate], record: Record, loads: Sequence[float]
) -> Iterator[tuple[str, Candidate, float]]:
    """What is to be measured yet, and how the ledger names it: first all at one load, then at the next."""
    known = {row.of for row in record.ledger.rows}
    for load in loads:
        for each in candidates:
            of = f"{subject.workflow.name} {each.plan.id} {load:g} {each.change}"
            if of not in known:
                yield of, each, load


def compare(subject: Subject, record: Record, asked: argparse.Namespace) -> None:
    """Foresee and measure, as long as there is time."""
    candidates = subject.candidates(asked.most)
    until = time.monotonic() + asked.minutes * 60.0
    for of, each, load in left(subject, candidates, record, asked.loads):
        if time.monotonic() > until:
            return
        try:
            told = subject.foreseen(each.plan, load)
            seen = subject.measured(each.plan, load)
        except (TautenError, DidNotRun) as error:
            say(f"{of}: left out: {error}")
            continue
        for by, figures in told.items():
            record.keep(record.forecast(of, figures, seen, by=by), by=by)
        said = ", ".join(
            f"{name} {told['simulation'].values[name]:.0f} foreseen, {seen.values[name]:.0f}"
            for name in TIMES
        )
        say(f"{of}: {said}")


def summary(record: Record) -> dict[str, Any]:
    """How near they came: of each workflow, and pooled."""
    found: dict[str, Any] = {"machine": record.hardware}
    for name in (*WORKFLOWS, ""):
        rows = [row for row in record.ledger.rows if row.of.startswith(name)]
        part = Record(Ledger(rows=rows), hardware())
        found[name or "pooled"] = {
            "candidates": len({row.of for row in rows}),
            **{f"{by}, {what}": part.accuracy(by, (what,)).said() for by in BOTH for what in TIMES},
            **{f"{by}, both": part.accuracy(by, TIMES).said() for by in BOTH},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workflows", nargs="*", default=list(WORKFLOWS), help=", ".join(WORKFLOWS))
    parser.add_argument("--items", type=int, default=8, help="requests that are run under each plan")
    parser.add_argument("--most", type=int, default=40, help="plans of a workflow")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each workflow, once it is known")
    parser.add_argument(
        "--loads", type=lambda text: [float(part) for part in text.split(",")], default=[0.0, 0.5]
    )
    parser.add_argument("--ledger", type=Path, help="keep all of it here, and go on from there")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    for file in filter(None, (asked.ledger, asked.out)):
        file.parent.mkdir(parents=True, exist_ok=True)
    record = Record(Ledger() if asked.ledger is None else Ledger.load(asked.ledger), hardware())
    for name in asked.workflows:
        if name not in WORKFLOWS:
            parser.error(f"no workflow is called {name!r}; known: {', '.join(WORKFLOWS)}")
    for name in asked.workflows:
        subject = Subject(WORKFLOWS[name], asked.items)
        try:
            compare(subject, record, asked)
        finally:
            subject.testbed.close()
    text = json.dumps(summary(record), indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
