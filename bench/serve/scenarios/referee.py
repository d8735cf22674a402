"""MLPerf LoadGen on our server: SingleStream, Server and Offline by its own schedule, clock and rule."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from bench.ground import environments
from bench.ground.serving import serving
from bench.serve import models
from bench.serve.scenarios.drive import driver, model_target, rows, run
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.overload import CALIBRATE_CLIENTS, SUBJECTS
from bench.serve.scenarios.settings import Settings

from bench import loadgen
from tauten.improve.load.http import HttpClient
from tauten.improve.load.targets.oip import OipTarget

LOAD = (
    0.5  # of the closed loop's rate, in the Server scenario: the client has a core of its own, and needs it
)
SUBJECT = SUBJECTS[1]
SINGLE_PERCENTILE, SERVER_PERCENTILE = 0.9, 0.99  # those of MLPerf
QUERIES = 662  # a p99 with one miss, at 99 % confidence
OFFLINE_SAMPLES = "Samples per second"


def measure(settings: Settings) -> list[Result]:
    return [run(lambda: _measure(settings))]


async def _measure(settings: Settings) -> Result:
    found = Result(
        "referee",
        "The referee: MLPerf LoadGen",
        f"{SUBJECT.words}; SingleStream p90, Server p99 < {SUBJECT.slo_s * 1e3:g} ms at {LOAD:.0%} of the closed loop's "
        f"rate, Offline; {settings.overload_s:g} s each (a submission asks for 600), and our generator after Server",
    )
    model = models.ensure(SUBJECT.name, environments.cache_folder() / "models")
    async with serving([str(model)], {SUBJECT.name: SUBJECT.plan}) as served:
        light = model_target(served.url, SUBJECT.name)
        async with driver(light, rows(SUBJECT.name), SUBJECT.slo_s, settings.seed) as driven:
            capacity = await driven.capacity(CALIBRATE_CLIENTS, max(1.0, settings.overload_s / 4))
        target = OipTarget(HttpClient(f"{served.url}/v2/models/{SUBJECT.name}"))
        await target.open()
        try:
            items = [target.prepare(each) for each in itertools.islice(rows(SUBJECT.name), loadgen.LIBRARY)]
            for scenario in loadgen.SCENARIOS:
                await _one(found, target, items, asked(scenario, capacity, settings), served.pid)
        finally:
            await target.close()
    found.check("the server ended well", served.exit_code, 0)
    found.figures["capacity_rps"] = capacity
    return found


def asked(scenario: str, capacity: float, settings: Settings) -> loadgen.Settings:
    """LoadGen makes its queries beforehand: what it is told of the rate must be near the truth."""
    single = scenario == "single-stream"
    return loadgen.Settings(
        scenario=scenario,
        qps=capacity * LOAD if scenario == "server" else capacity,
        latency_ms=SUBJECT.slo_s * 1e3,
        percentile=SINGLE_PERCENTILE if single else SERVER_PERCENTILE,
        seconds=settings.overload_s,
        queries=64 if single else QUERIES,
        seed=settings.seed,
    )


async def _one(found: Result, target: OipTarget, items: list[Any], asked: loadgen.Settings, pid: int) -> None:
    """LoadGen blocks the thread that it runs in; its queries come back to this loop."""
    verdict = await asyncio.to_thread(loadgen.judge, target, items, asyncio.get_running_loop(), asked)
    name = asked.scenario
    found.check(f"{name}: LoadGen says valid", float(verdict.valid), 1, at_least=True)
    found.check(f"{name}: queries that failed", verdict.failed, 0)
    percent = f"{asked.percentile * 100:.2f} percentile latency (ns)"
    figures: dict[str, Any] = {
        "queries": verdict.queries,
        f"p{asked.percentile * 100:g}_ms": (verdict.figure(percent) or 0.0) / 1e6,
        "samples_per_s": verdict.figure(OFFLINE_SAMPLES),
    }
    if name == "server":
        ours = await loadgen.ours(target, items, asked, pid)
        held = [part.proof == "met" for part in ours.parts]
        found.check("server: our generator says that it holds", float(all(held)), 1, at_least=True)
        figures |= {
            "rate_per_s": asked.qps,
            "ours": ours.answer,
            "why": ours.why,
            "send_lag_p99_ms": ours.lag.p99_ms if ours.lag else None,
        }
    found.figures[name] = figures
