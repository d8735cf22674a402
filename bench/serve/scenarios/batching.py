"""Batching off, fixed and derived from slack: latency over the offered rate, on two models served raw (L17)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.ground import environments, figures, processes
from bench.ground.check import Line
from bench.ground.machine import CORES
from bench.serve import bare, load, models, peers
from bench.serve.peers import Row
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import Settings

MODELS = ("small", "heavy")
WAITS = {
    "no batches": "{ max = 1 }",
    "off": '{ max = 32, wait = "off" }',
    "fixed 2 ms": "{ max = 32, wait = 2.0 }",
    "slack": '{ max = 32, wait = "slack" }',
}
CAP_RPS = 6000.0  # what the client sends on shared cores without being late
LATENCY_SHARE = 1.1  # of the best other's p50 at the lowest rate: a tenth is what two runs differ by
WARM = load.Point("warm", 0.5, 32)
Points = dict[str, dict[float, list[dict[str, Any]]]]  # wait -> rate -> the point of each round


def measure(settings: Settings) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="tb-plans-") as folder:
        for name in MODELS:
            path = models.ensure(name, environments.cache_folder() / "models")
            capacity = min(
                bare.measure(path, 0.5 if settings.quick else 1.0)["p2_b32_items_s"], CAP_RPS / 0.8
            )
            rates = [capacity * level for level in settings.levels]
            points: Points = {wait: {rate: [] for rate in rates} for wait in WAITS}
            failed: list[str] = []
            for number in range(settings.rounds):
                for wait in figures.order(list(WAITS), settings.seed, number):
                    print(f"  batching {number + 1}: {name} {wait}", file=sys.stderr, flush=True)
                    try:
                        _one(_row(name, wait, Path(folder)), path, settings, number, points[wait])
                    except (peers.CannotStart, load.LoadFailed) as error:
                        failed.append(f"{name} {wait}, round {number + 1}: {error}")
            found = judged(name, capacity, points)
            found.notes += failed
            yield found


def plan(model: str, wait: str) -> str:
    """The plan of one variant; threads as in the comparison of servers."""
    threads = CORES if model == "heavy" else 1
    return f'tauten = "plan/1"\n[stage.model]\nthreads = {threads}\nbatch = {WAITS[wait]}\n'


def _row(model: str, wait: str, folder: Path) -> Row:
    """Our server as the comparison starts it, with this plan."""
    file = folder / f"{model} {wait}.toml".replace(" ", "-")
    file.write_text(plan(model, wait))
    settings = peers.read_settings()
    row = peers.rows(settings, [model], ["tauten"])[0]
    command = [str(file) if word == "{plan}" else word for word in row.settings["command"]]
    return replace(row, settings={**row.settings, "command": command})


def _one(
    row: Row, path: Path, settings: Settings, number: int, into: Mapping[float, list[dict[str, Any]]]
) -> None:
    """All rates of one variant in one round, ascending; past saturation nothing is sent."""
    wanted = models.expected(path, models.sample(row.model))
    with peers.started(row, Path(sys.executable), path, wanted) as server:
        load.run(server, WARM, "own", settings.seed)
        for rate, points in into.items():
            load.settle(server)
            point = load.run(
                server, load.Point("open", settings.point_s, rate=rate), "own", settings.seed + number
            )
            points.append(point)
            if point["saturated"]:
                break
        if not processes.alive(server.root):
            raise peers.CannotStart(f"died under load; {server.last_words()}")


def middle(points: Sequence[Mapping[str, Any]], key: str, rounds: int) -> float | None:
    """The median; None where most of the rounds were saturated, at this rate or below it, or had no figure."""
    known = [one[key] for one in points if not one["saturated"] and one[key] is not None]
    return statistics.median(known) if len(known) * 2 > rounds else None


def lines(points: Points, key: str) -> list[Line]:
    """One curve a variant, as far as it holds the rate."""
    found = []
    for wait, by_rate in points.items():
        rounds = max(map(len, by_rate.values()))  # a round ends at the rate that saturates
        known = [(rate, middle(seen, key, rounds)) for rate, seen in by_rate.items() if seen]
        found.append(Line(wait, [(rate, value) for rate, value in known if value is not None]))
    return found


def judged(model: str, capacity: float, points: Points) -> Result:
    """Curves of p50 and p99, and what batching by slack gains and costs against the others."""
    found = Result(
        f"batching_{model}",
        f"Batching off, fixed, by slack: the {model} model (L17)",
        f"{models.SHAPES[model].purpose}; Open Inference Protocol, open loop, the same seeds for all; rates are "
        f"shares of {capacity:,.0f}/s, the bare engine's (at most what the client can send)",
    )
    p50, p99 = lines(points, "p50_ms"), lines(points, "p99_ms")
    found.curves = {"p50": p50, "p99": p99}
    reach = {line.name: line.points[-1][0] if line.points else 0.0 for line in p99}
    others = max(rate for wait, rate in reach.items() if wait != "slack")
    found.check(
        "rate that slack holds, over the best other",
        reach["slack"] / others if others else None,
        1.0,
        at_least=True,
    )
    first = {line.name: line.points[0][1] for line in p50 if line.points}
    best = min((value for wait, value in first.items() if wait != "slack"), default=None)
    ratio = first["slack"] / best if best and "slack" in first else None
    found.check("p50 of slack at the lowest rate, over the best other", ratio, LATENCY_SHARE)
    every = [point for by_rate in points.values() for seen in by_rate.values() for point in seen]
    found.figures = {
        "rate_held_rps": reach,
        "foreign_cpu_share": statistics.median(point["foreign_share"] for point in every) if every else None,
        "late_points": sum(bool(point["send_lag_high"]) for point in every),
        "points": {wait: {f"{rate:.0f}": seen for rate, seen in by.items()} for wait, by in points.items()},
    }
    return found
