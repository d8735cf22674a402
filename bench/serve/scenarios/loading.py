"""A neighbour while another model of the same server loads, again and again: what that costs its p99."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from bench.ground import environments
from bench.ground.serving import serving
from bench.serve import models
from bench.serve.scenarios.drive import driver, model_target, p_ms, rows, run, summary, texts, workflow_target
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import FLOWS, Settings

LOADED = "heavy"  # 60 MB
WORSE = 0.10  # of the quiet p99
SLO_S = 0.5


@dataclass(frozen=True)
class Neighbour:
    """Who is asked meanwhile, and how often: a third of what it can do."""

    name: str
    rate: float
    is_model: bool = False


NEIGHBOURS = (Neighbour("paused", 40.0), Neighbour("small", 200.0, is_model=True))


def measure(settings: Settings) -> list[Result]:
    return [run(lambda: _measure(settings))]


async def _measure(settings: Settings) -> Result:
    found = Result(
        "loading",
        "A neighbour while another model loads",
        f"the {LOADED} model (60 MB) is unloaded and loaded without a pause; open loops, quiet and disturbed in turn, "
        f"medians of {settings.rounds} rounds; `paused` is a stage of 50 ms that takes no core, `small` a model of tens of µs",
    )
    folder = environments.cache_folder() / "models"
    files = [str(models.ensure(name, folder)) for name in ("small", LOADED)]
    async with serving([f"{FLOWS}:paused", *files]) as served, aiohttp.ClientSession() as client:
        for neighbour in NEIGHBOURS:
            found.figures[neighbour.name] = figures = await _asked(neighbour, settings, served.url, client)
            found.check(f"p99 of {neighbour.name}, worse by", figures["worse_by"], WORSE, "share")
            found.check(f"requests of {neighbour.name} not answered", figures["not_answered"], 0)
            found.check(f"loads beside {neighbour.name}", figures["loads"], 1, at_least=True)
    found.check("the server ended well", served.exit_code, 0)
    return found


async def _asked(
    neighbour: Neighbour, settings: Settings, url: str, client: aiohttp.ClientSession
) -> dict[str, Any]:
    make = model_target if neighbour.is_model else workflow_target
    inputs = rows(neighbour.name) if neighbour.is_model else texts()
    quiet, disturbed, loads = [], [], 0
    async with driver(make(url, neighbour.name), inputs, SLO_S, settings.seed) as driven:
        await driven.poisson(neighbour.rate, 1.0)  # connections and estimates: not counted
        for turn in range(settings.rounds):
            quiet.append(await driven.poisson(neighbour.rate, settings.overload_s, turn))
            async with _loads(client, url) as seen:
                disturbed.append(await driven.poisson(neighbour.rate, settings.overload_s, turn))
            loads += len(seen)
    calm, loud = (_median([p_ms(each.measured, 0.99) for each in runs]) for runs in (quiet, disturbed))
    return {
        "worse_by": None if calm is None or loud is None else max(0.0, loud / calm - 1.0),
        "p99_quiet_ms": calm,
        "p99_disturbed_ms": loud,
        "loads": loads,
        "not_answered": sum(not one.good for each in disturbed for one in each.measured),
        "quiet": summary(quiet[-1], SLO_S),
        "disturbed": summary(disturbed[-1], SLO_S),
    }


def _median(values: list[float | None]) -> float | None:
    """None where a round has no figure: its p99 fell among those without an answer."""
    known = [each for each in values if each is not None]
    return statistics.median(known) if known and len(known) == len(values) else None


@asynccontextmanager
async def _loads(client: aiohttp.ClientSession, url: str) -> AsyncIterator[list[float]]:
    """Unloads and loads while the block runs; holds when each load ended."""
    done: list[float] = []

    async def again() -> None:
        while True:
            for what in ("unload", "load"):
                async with client.post(f"{url}/v2/repository/models/{LOADED}/{what}") as answer:
                    answer.raise_for_status()
            done.append(asyncio.get_running_loop().time())

    task = asyncio.create_task(again())
    try:
        yield done
    finally:
        task.cancel()
        ended = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(ended, Exception):
            raise ended
