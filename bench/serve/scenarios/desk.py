"""The help desk under the open loop: batching by plan."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from bench.ground.check import Line
from bench.serve.scenarios.drive import run
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import Settings

from tauten.describe.slo import Slo
from tauten.examples.help_desk.desk import help_desk
from tauten.examples.help_desk.manual import ensure_manual
from tauten.examples.help_desk.recording import recording, render
from tauten.examples.help_desk.tour import plans
from tauten.improve.drawn import drawn
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.plan.lower import lower
from tauten.plan.plan import Batch, Plan
from tauten.run.contracts import batches_itself
from tauten.run.engine import Engine

SLO = Slo(p95_ms=1500)
BATCH_WAITS: dict[str, Any] = {"no batches": None, "off": "off", "fixed 2 ms": 2.0, "slack": "slack"}


def measure(settings: Settings) -> list[Result]:
    inputs = recorded(settings)
    return [run(lambda: _batching(inputs, settings))]


def recorded(settings: Settings) -> list[Any]:
    """The inputs of the held-out requests; some of them for a quick look."""
    ensure_manual()
    items = list(recording(split="held_out", quick=settings.quick))
    render(items)
    return [item.inputs for item in items]


def with_wait(plan: Plan, wait: Any) -> Plan:
    """The plan with every batch held in this way; None takes the batches away. Engines that batch by themselves do."""

    def changed(batch: Batch) -> Batch:
        return Batch(max=1) if wait is None else msgspec.structs.replace(batch, wait=wait)

    stages = dict(plan.stages)
    for step in lower(drawn(help_desk), plan).steps:
        if all(batches_itself(choice.backend) for choice in step.models.values()):
            continue
        said = plan.stage(step.name)
        roles = {
            role: msgspec.structs.replace(choice, batch=changed(choice.batch))
            for role, choice in said.roles.items()
        }
        stages[step.name] = msgspec.structs.replace(said, batch=changed(said.batch), roles=roles)
    return msgspec.structs.replace(plan, stages=stages)


def say(text: str) -> None:
    if text:
        print(f"  help desk: {text}", file=sys.stderr, flush=True)


async def side_of(engine: Engine, name: str, plan: Plan, inputs: Sequence[Any]) -> Side:
    """A plan that is open and warm."""
    target = WorkflowTarget(engine, help_desk, plan, SLO)
    await target.open()
    side = Side(name, target, [target.prepare(each) for each in inputs])
    await target.send(side.items[0], 60.0)  # first calls compile kernels
    return side


async def _batching(inputs: Sequence[Any], settings: Settings) -> Result:
    found = Result(
        "batching_desk",
        "Batching off, fixed, by slack: the help desk (L17)",
        "the tuned plan, in this process; its batches are rows of text on a screen and sentences of a passage; "
        f"open loop, the same schedules for all, {settings.desk_rounds} rounds",
    )
    tuned = plans()[1]
    async with Engine() as engine:
        sides = [
            await side_of(engine, name, with_wait(tuned, wait), inputs) for name, wait in BATCH_WAITS.items()
        ]
        bencher = Bencher(sides, slo=SLO, timeout_s=30.0, say=say)
        load = Load(duration_s=settings.desk_point_s, seed=settings.seed, warm_up_s=0.0)
        runs = await bencher.runs(load, settings.desk_rates, settings.desk_rounds)
    for key, q in (("p50", 0.5), ("p99", 0.99)):
        found.curves[key] = [
            _line(side.name, [at[place] for at in runs], q) for place, side in enumerate(sides)
        ]
    first = {one.plan: _at(one, 0.5) for one in runs[0]}
    known = [value for name, value in first.items() if value is not None and name != "slack"]
    slack = first["slack"]
    ratio = slack / min(known) if known and slack else None
    found.check("p50 of slack at the lowest rate, over the best other", ratio, 1.1)
    found.check("requests lost", sum(one.requests.lost + one.requests.failed for at in runs for one in at), 0)
    found.figures["runs"] = [figures_of(one) for at in runs for one in at]
    return found


def _at(one: Run, q: float) -> float | None:
    return one.latency.at(q).ms if one.latency is not None else None


def _line(name: str, runs: Sequence[Run], q: float) -> Line:
    known = [(one.rate_per_s, _at(one, q)) for one in runs if not one.steady.saturated]
    return Line(name, [(rate, value) for rate, value in known if value is not None])


def figures_of(one: Run) -> dict[str, Any]:
    return {
        "plan": one.plan,
        "rate_per_s": one.rate_per_s,
        "p50_ms": _at(one, 0.5),
        "p95_ms": _at(one, 0.95),
        "p99_ms": _at(one, 0.99),
        "requests": msgspec.to_builtins(one.requests),
        "within_slo": one.goodput.share,
        "answer": one.answer,
        "why": one.why,
        "other_cores": one.costs.other_cores,
    }
