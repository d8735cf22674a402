"""How near simulations come: plans of the help desk under an open loop, measured and simulated on one schedule.

    python -m bench.predictions [--items 12] [--requests 60] [--rates 0.2,0.4] [--plans naive,tuned] [--out OUT.json]
                                [--ledger LEDGER.jsonl]

Each plan is recorded one request at a time first; then each rate is sent in real time and in virtual time. What the
formula says, which knows no queues, stands beside it. A ledger keeps all of it from run to run, with the intervals
that its earlier rows gave.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tauten.describe.slo import Slo
from tauten.examples.help_desk.desk import help_desk
from tauten.examples.help_desk.manual import ensure_manual
from tauten.examples.help_desk.recording import recording, render
from tauten.examples.help_desk.tour import plans
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.figures import quantile_of
from tauten.improve.load.samples import Samples
from tauten.improve.load.schedule import Load
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.improve.optimizer.formula import formula
from tauten.improve.optimizer.record import By, Record
from tauten.improve.optimizer.search import Figures
from tauten.improve.simulate.capture import KeepingEngine, capture
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulated, Simulator
from tauten.plan.hardware import hardware
from tauten.plan.ledger import Ledger
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine
from tauten.statistics import percentile

Inputs = list[tuple[str, Any]]
NO_SLO = Slo()  # nothing is refused: the figures are of all


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def learn(plan: Plan, items: Inputs, library: Library) -> None:
    async with KeepingEngine() as engine:
        say(f"{plan.name}: recording {len(items)} requests, four times each")
        library.add(await capture(engine, help_desk, plan, items))


async def measure(plan: Plan, items: Inputs, rate: float, requests: int) -> Samples:
    async with Engine() as engine:
        target = WorkflowTarget(engine, help_desk, plan, NO_SLO)
        await target.open()
        side = Side(plan.name, target, [inputs for _, inputs in items])  # bound already
        say(f"{plan.name}: {requests} requests at {rate:g}/s")
        samples, _ = await Bencher([side], slo=NO_SLO).once(side, Load(rate_per_s=rate, requests=requests))
        return samples


def simulate(
    library: Library, plan: Plan, items: Inputs, rate: float, requests: int
) -> tuple[Simulated, float]:
    """The same schedule in virtual time, and the seconds that took."""
    schedule = Load(rate_per_s=rate, requests=requests).schedule(len(items))
    begins = schedule.due[0]
    arrivals = [
        (due - begins, items[item][0]) for due, item in zip(schedule.due, schedule.items, strict=True)
    ]
    simulator = Simulator(help_desk, library, Shared(cores=hardware().cores))
    began = time.process_time()
    found = simulator.run(plan, arrivals)
    return found, time.process_time() - began


def seen_of(samples: Samples) -> Figures:
    """Measured, by the names of SLO limits."""
    latencies = [each.latency for each in samples.measured]
    firsts = [each.first_output for each in samples.measured]
    return figures(latencies, firsts)


def told_of(found: Simulated, warm: int) -> Figures:
    """The same of a simulation, without its warm-up."""
    done = sorted(found.done, key=lambda each: each.at_s)[warm:]
    return figures([each.seconds for each in done], [each.first_s for each in done])


def figures(latencies: list[float], firsts: list[float]) -> Figures:
    values = {name: percentile(latencies, quantile_of(name)) * 1e3 for name in ("p50_ms", "p95_ms")}
    values["first_output_ms"] = percentile(firsts, quantile_of("first_output_ms")) * 1e3
    return Figures(values)


def kept(record: Record, of: str, seen: Figures, simulated: Figures, summed: Figures) -> None:
    """Keep what both said of a plan at a rate beside what was measured."""
    told: list[tuple[By, Figures]] = [("simulation", simulated), ("formula", summed)]
    for by, said in told:
        record.keep(record.forecast(of, said, seen, by=by), by=by)


def row(plan: Plan, rate: float, samples: Samples, found: Simulated, warm: int) -> dict[str, Any]:
    """Measured and simulated side by side, in ms; the warm-up left out of both."""
    done = sorted(found.done, key=lambda each: each.at_s)[warm:]
    pairs = {
        "p50": (
            percentile([each.latency for each in samples.measured], 0.5),
            percentile([each.seconds for each in done], 0.5),
        ),
        "p95": (
            percentile([each.latency for each in samples.measured], 0.95),
            percentile([each.seconds for each in done], 0.95),
        ),
        "first p50": (
            percentile([each.first_output for each in samples.measured], 0.5),
            percentile([each.first_s for each in done], 0.5),
        ),
    }
    made: dict[str, Any] = {"plan": plan.name, "rate": rate, "requests": len(done)}
    for name, (seen, told) in pairs.items():
        made[name] = {
            "measured_ms": seen * 1e3,
            "simulated_ms": told * 1e3,
            "error": told / seen - 1.0 if seen else None,
        }
    return made


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    every = list(recording(split="dev"))[:: asked.every][: asked.items]
    render(every)
    items: Inputs = [(item.id, help_desk.bind(**item.inputs)) for item in every]
    assert help_desk.graph is not None  # it is drawn
    library, rows = Library(), []
    record = Record(Ledger() if asked.ledger is None else Ledger.load(asked.ledger), hardware())
    chosen = [plan for plan in plans() if plan.name in asked.plans]
    for plan in chosen:
        run_async(learn(plan, items, library))
    for plan in chosen:
        for rate in asked.rates:
            samples = run_async(measure(plan, items, rate, asked.requests))
            found, took_s = simulate(library, plan, items, rate, asked.requests)
            made = row(plan, rate, samples, found, len(samples.warm_up))
            made["simulated_requests_per_minute"] = len(found.done) / took_s * 60.0
            summed = formula(library, lower(help_desk.graph, plan))
            made["formula_ms"] = summed.values
            told = told_of(found, len(samples.warm_up))
            kept(record, f"{plan.id} at {rate:g}/s", seen_of(samples), told, summed)
            rows.append(made)
            say(json.dumps(made))
    errors = {name: [abs(each[name]["error"]) for each in rows] for name in ("p50", "p95", "first p50")}
    summary = {name: statistics.median(values) for name, values in errors.items()}
    by: list[By] = ["simulation", "formula"]
    return {
        "machine": str(hardware()),
        "rows": rows,
        "median_absolute_error": summary,
        "record": [record.accuracy(each).said() for each in by],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--every", type=int, default=4, help="take each n-th request of the recording")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--rates", type=lambda text: [float(part) for part in text.split(",")], default=[0.2])
    parser.add_argument("--plans", type=lambda text: text.split(","), default=["naive", "tuned"])
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--ledger", type=Path, help="keep predictions and outcomes here, and state intervals by it"
    )
    asked = parser.parse_args()
    ensure_manual()
    found = compare(asked)
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
