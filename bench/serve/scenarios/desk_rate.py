"""The help desk under the open loop: the highest rate that holds its SLO, and what is shed beyond it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from bench.serve.scenarios.desk import SLO, figures_of, recorded, say, side_of
from bench.serve.scenarios.drive import admitted, goodput, p_ms, run, said, summary
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import Settings

from tauten.examples.help_desk.tour import plans
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.schedule import Load
from tauten.plan.plan import Plan
from tauten.run.door.objective import budget_of
from tauten.run.engine import Engine

OVER = 2.0  # times the highest rate: where shedding begins


def measure(settings: Settings) -> Iterator[Result]:
    inputs = recorded(settings)
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


async def _max_rate(inputs: Sequence[Any], plan: Plan, settings: Settings) -> Result:
    found = Result(
        f"desk_{plan.name}",
        f"The help desk, plan {plan.name}: the highest rate under p95 < {SLO.p95_ms:g} ms",
        "in this process, open loop, Poisson; 99 % confidence by early stopping as in MLPerf"
        + ("; quick: given rates, which prove nothing" if settings.quick else ""),
    )
    async with Engine() as engine:
        side = await side_of(engine, plan.name, plan, inputs)
        bencher = Bencher([side], slo=SLO, timeout_s=30.0, say=say)
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
    found.figures["runs"] = [figures_of(one) for one in runs]
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
    bencher = Bencher([side], slo=SLO, timeout_s=deadline_s + 10.0, say=say)
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
