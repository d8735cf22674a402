"""A long time at 80 % of what the server can do: goodput, what was lost, how memory goes, what is left over."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import aiohttp
from bench.serve.scenarios import books
from bench.serve.scenarios.drive import goodput, p_ms, run, summary
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.overload import CALIBRATE_CLIENTS, SUBJECTS, subject_served
from bench.serve.scenarios.settings import Settings

from tauten.improve.load.meter import Meter

LOAD = 0.8
GOOD = 0.99  # of the requests within the SLO: what a p99 says
LOOK_S = 1.0  # between looks at the gauges


def measure(settings: Settings) -> list[Result]:
    return [run(lambda: _measure(settings))]


async def _measure(settings: Settings) -> Result:
    subject = SUBJECTS[1]
    found = Result(
        "steady",
        f"{settings.steady_s:g} s at {LOAD:.0%} of capacity",
        f"{subject.words}; open loop, SLO {subject.slo_s * 1e3:g} ms; memory is that of all its processes",
    )
    async with (
        subject_served(subject, settings.seed) as (served, driven),
        aiohttp.ClientSession() as client,
    ):
        capacity = await driven.capacity(CALIBRATE_CLIENTS, max(2.0, settings.overload_s / 2))
        rate = capacity * LOAD
        await driven.poisson(rate, max(2.0, settings.steady_s / 20), turn=1)  # pools fill: not counted
        before = await books.settled(client, served.url)
        driven.sent.clear()
        async with (
            books.watching(client, served.url, LOOK_S) as watched,
            Meter(pid=served.pid) as meter,
        ):
            samples = await driven.poisson(rate, settings.steady_s)
        after = await books.settled(client, served.url)
    counted = after.since(before)
    balance = books.balance(driven.sent, counted, subject.name)
    share = goodput(samples, subject.slo_s) * samples.window_s / max(len(samples.measured), 1)
    memory = meter.costs.memory
    found.check("share of requests within the SLO", share, GOOD, "share", at_least=True)
    found.check("accepted requests lost", samples.count("failed") + sum(x.lost for x in samples.measured), 0)
    found.check("p99", p_ms(samples.measured, 0.99), subject.slo_s * 1e3, "ms")
    found.check("lower end of the memory slope", memory.slope_low if memory else None, 0.0, "MB/min")
    found.check("zombie work", watched.most["zombies"], 0)
    found.check("requests still there at the end", after.total("tauten_running"), 0)
    found.check("requests that only one side knows", balance["missing"], 0)
    found.check("the server ended well", served.exit_code, 0)
    found.figures = {
        "capacity_rps": capacity,
        "rate_rps": rate,
        "run": summary(samples, subject.slo_s),
        "memory_mb": None
        if memory is None
        else {"start": memory.start_mb, "end": memory.end_mb, "peak": memory.peak_mb},
        "memory_slope_mb_per_min": None
        if memory is None
        else {"slope": memory.slope_mb_per_min, "low": memory.slope_low, "high": memory.slope_high},
        "server_cores": meter.costs.target_cores,
        "other_cores": meter.costs.other_cores,
        "books": balance,
        "most": watched.most,
    }
    return found
