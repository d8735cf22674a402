"""Identical requests at the same time: one computation for all of them, and one for each."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import statistics
from typing import Any

import aiohttp
from bench.ground import figures
from bench.ground.serving import serving
from bench.serve.scenarios import books
from bench.serve.scenarios.drive import driver, p_ms, run, summary, workflow_target
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.served import BATCH_S, ITEM_S, MOST
from bench.serve.scenarios.settings import FLOWS, Settings

from tauten.describe.payload import Text

CLIENTS = 4 * MOST
SLO_S = 0.5
GAIN = 3.0  # times as many answers: 32 at once in place of 8, less what coming back takes
RATE = 0.7 * MOST / (BATCH_S + ITEM_S * MOST)  # what full batches can do without sharing, less a margin
FLOWS_OF = {"on": "paused", "off": "paused_each"}  # the same stage, pure and not


def measure(settings: Settings) -> list[Result]:
    return [run(lambda: _measure(settings))]


async def _measure(settings: Settings) -> Result:
    found = Result(
        "sharing",
        "Identical requests, single-flight on and off",
        f"a stage of 50 ms and 2.5 ms an item, {MOST} together, once pure (shared) and once not; all requests are the "
        f"same; {CLIENTS} clients in a closed loop, then {RATE:.0f}/s; medians of {settings.rounds} rounds in turn",
    )
    seen: dict[str, list[dict[str, Any]]] = {"on": [], "off": []}
    targets = [f"{FLOWS}:{name}" for name in FLOWS_OF.values()]
    async with serving(targets) as served, aiohttp.ClientSession() as client:
        before = await books.settled(client, served.url)
        for turn in range(settings.rounds):
            for word, name in FLOWS_OF.items():
                seen[word].append(await _one(name, settings, served.url, turn))
        joins = (await books.settled(client, served.url)).since(before)
    rate = {word: statistics.median(each["closed_rps"] for each in runs) for word, runs in seen.items()}
    p99 = {word: [each["p99_ms"] for each in runs if each["p99_ms"]] for word, runs in seen.items()}
    found.check(
        "answers a second, on over off", figures.ratio(rate["on"], rate["off"]), GAIN, "×", at_least=True
    )
    if p99["on"] and p99["off"]:
        found.check(
            "p99 on, of that off", statistics.median(p99["on"]) / statistics.median(p99["off"]), 1.0, "×"
        )
    found.check(
        "requests not answered", sum(each["not_answered"] for runs in seen.values() for each in runs), 0
    )
    shared = joins.total("tauten_single_flight_joins_total")
    found.check("requests that shared", shared, 1, at_least=True)
    found.check("the server ended well", served.exit_code, 0)
    found.figures = {
        "joins": shared,
        **{word: {"closed_rps": rate[word], "runs": seen[word]} for word in seen},
    }
    return found


async def _one(name: str, settings: Settings, url: str, turn: int) -> dict[str, Any]:
    same = itertools.repeat({"text": Text("the same request")})
    async with driver(workflow_target(url, name), same, SLO_S, settings.seed) as driven:
        closed_rps = await driven.capacity(CLIENTS, settings.point_s * 2)
        samples = await driven.poisson(RATE, settings.overload_s, turn)
    return {
        "closed_rps": closed_rps,
        "p99_ms": p_ms(samples.measured, 0.99),
        "not_answered": sum(not one.good for one in samples.measured),
        "open": summary(samples, SLO_S),
    }
