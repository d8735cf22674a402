"""The help desk under the open loop: batching by plan, the highest rate that holds its SLO, and what is shed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from bench.ground.check import Line
from bench.serve.scenarios.drive import admitted, goodput, p_ms, run, said, summary
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import Settings

from tauten.describe.slo import Slo
from tauten.examples.help_desk.desk import help_desk
from tauten.examples.help_desk.manual import ensure_manual
from tauten.examples.help_desk.recording import recording, render
from tauten.examples.help_desk.tour import plans
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.plan.plan import Batch, Plan
from tauten.run.door.objective import budget_of
from tauten.run.engine import Engine

SLO = Slo(p95_ms=1500)
OVER = 2.0  # times the highest rate: where shedding begins
BATCH_WAITS: dict[str, Any] = {"no batches": None, "off": "off", "fixed 2 ms": 2.0, "slack": "slack"}


def measure(settings: Settings) -> Iterator[Result]:
    ensure_manual()
    items = list(recording(split="held_out", quick=settings.quick))
    render(items)
    inputs = [item.inputs for item in items]
    yield run(lambda: _batching(inputs, settings))
    naive, tuned = plans()
    yield (before := run(lambda: _max_rate(inputs, naive, settings)))
    after = run(lambda: _max_rate(inputs, tuned, settings))
    compared(before, after)
    yield after


def compared(naive: Result, tuned: Result) -> None:
    """What tuning gains in rate; nothing to say where the naive plan holds the SLO at no rate."""
    before, after = (each.figures["max_rate_per_s"] for each in (naive, tuned))
    if before:
        ratio = after / before if after else None
        tuned.check("its highest rate over that of the naive plan", ratio, 1.0, "×", at_least=True)
    else:
        tuned.notes.append("The naive plan was shown to hold the SLO at no rate.")


def with_wait(plan: Plan, wait: Any) -> Plan:
    """The plan with every batch held in this way; None takes the batches away."""

    def changed(batch: Batch) -> Batch:
        if wait is None:
            return Batch(max=1)
        return msgspec.structs.replace(batch, wait=wait) if batch.max else batch

    stages = {}
    for name, stage in plan.stages.items():
        roles = {
            role: msgspec.structs.replace(choice, batch=changed(choice.batch))
            for role, choice in stage.roles.items()
        }
        stages[name] = msgspec.structs.replace(stage, batch=changed(stage.batch), roles=roles)
    return msgspec.structs.replace(plan, stages=stages)


def _say(text: str) -> None:
    if text:
        print(f"  help desk: {text}", file=sys.stderr, flush=True)


async def _side(engine: Engine, name: str, plan: Plan, inputs: Sequence[Any]) -> Side:
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
            await _side(engine, name, with_wait(tuned, wait), inputs) for name, wait in BATCH_WAITS.items()
        ]
        bencher = Bencher(sides, slo=SLO, timeout_s=30.0, say=_say)
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
    found.figures["runs"] = [_figures(one) for at in runs for one in at]
    return found


def _at(one: Run, q: float) -> float | None:
    return one.latency.at(q).ms if one.latency is not None else None


def _line(name: str, runs: Sequence[Run], q: float) -> Line:
    known = [(one.rate_per_s, _at(one, q)) for one in runs if not one.steady.saturated]
    return Line(name, [(rate, value) for rate, value in known if value is not None])


def _figures(one: Run) -> dict[str, Any]:
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


# -- the highest rate -----------------------------------------------------------------------------------------


async def _max_rate(inputs: Sequence[Any], plan: Plan, settings: Settings) -> Result:
    found = Result(
        f"desk_{plan.name}",
        f"The help desk, plan {plan.name}: the highest rate under p95 < {SLO.p95_ms:g} ms",
        "in this process, open loop, Poisson; 99 % confidence by early stopping as in MLPerf"
        + ("; quick: given rates, which prove nothing" if settings.quick else ""),
    )
    async with Engine() as engine:
        side = await _side(engine, plan.name, plan, inputs)
        bencher = Bencher([side], slo=SLO, timeout_s=30.0, say=_say)
        load = Load(seed=settings.seed)
        if settings.quick:
            rate = await _tried(bencher, load, settings, found)
        else:
            rate = await _searched(bencher, load, found)
        await _shed(engine, side, OVER * (rate or max(settings.desk_rates)), settings, found)
    found.figures["max_rate_per_s"] = rate
    return found


async def _tried(bencher: Bencher, load: Load, settings: Settings, found: Result) -> float | None:
    at = msgspec.structs.replace(load, duration_s=settings.desk_point_s, warm_up_s=0.0)
    runs = [each[0] for each in await bencher.runs(at, settings.desk_rates)]
    found.figures["runs"] = [_figures(one) for one in runs]
    held = [one.rate_per_s for one in runs if one.goodput.share >= 0.95]
    return max(held, default=None)


async def _searched(bencher: Bencher, load: Load, found: Result) -> float | None:
    search, _ = await bencher.max_rate(load)
    found.figures["search"] = msgspec.to_builtins(search)
    found.check("a rate at which the SLO holds", search.rate_per_s, 0.0, "/s", at_least=True)
    return search.rate_per_s


async def _shed(engine: Engine, side: Side, rate: float, settings: Settings, found: Result) -> None:
    """Beyond its capacity: refused by the SLO and stopped at the deadline, as a server does it."""
    deadline_s = budget_of(SLO)
    bencher = Bencher([side], slo=SLO, timeout_s=deadline_s + 10.0, say=_say)
    load = Load(rate_per_s=rate, duration_s=settings.desk_point_s, seed=settings.seed + 7, warm_up_s=0.0)
    before = _refused(engine)
    samples, _ = await bencher.once(side, load)
    after = _refused(engine)
    found.check("requests without an end", sum(one.lost for one in samples.measured), 0)
    found.check("requests that failed", samples.count("failed"), 0)
    found.check(
        "answers after the deadline",
        sum(one.good and one.latency > deadline_s + 0.05 for one in samples.measured),
        0,
    )
    found.check("zombie work", engine.zombies(), 0)
    over = summary(samples, deadline_s)
    found.notes.append(said(over))
    found.figures["overloaded"] = {
        "rate_per_s": rate,
        **over,
        "within_slo_per_s": goodput(samples, (SLO.p95_ms or 0.0) / 1e3),
        "admitted_p95_ms": p_ms(admitted(samples), 0.95),
        "by_deployment": {
            label: {word: value - before.get(label, {}).get(word, 0) for word, value in words.items()}
            for label, words in after.items()
        },
    }


def _refused(engine: Engine) -> dict[str, dict[str, int]]:
    """By deployment what was refused, given up for others, or expired; those where nothing was left out."""
    found = {}
    for view in engine.deployments.views().values():
        words = {"refused": view.rejected, "shed": view.shed, "expired": view.expired}
        if any(words.values()):
            found[view.label] = words
    return found
