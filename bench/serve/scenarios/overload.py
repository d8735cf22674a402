"""Three times what a server can do, and ten times its load for some seconds: goodput, latency of the admitted."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
from bench.ground import environments, figures
from bench.ground.serving import Served, serving
from bench.serve import models
from bench.serve.scenarios import books
from bench.serve.scenarios.drive import (
    Driver,
    Inputs,
    admitted,
    driver,
    goodput,
    model_target,
    p_ms,
    rows,
    run,
    said,
    summary,
    texts,
    workflow_target,
)
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.served import MOST
from bench.serve.scenarios.settings import FLOWS, Settings

from tauten.improve.load.samples import Samples
from tauten.improve.load.target import Target

PEAK_AT = (0.7, 0.85, 1.0, 1.15)  # of the closed loop's rate: the best of these is the peak
OVER = 3.0
BURST, BASE = 10.0, 0.7  # times the base load, which is this part of the peak
PEAK_SHARE = 0.9  # of the peak goodput, kept under overload
CALIBRATE_CLIENTS = 4 * MOST


@dataclass(frozen=True)
class Subject:
    """What is overloaded: a name, how it is served, and its SLO."""

    name: str
    words: str
    slo_s: float
    model: str = ""  # of a raw model; else it is a workflow of its name
    plan: str = ""


SUBJECTS = (
    Subject("paused", "a stage of 50 ms and 2.5 ms an item, 8 together: it takes no core from anybody", 0.5),
    Subject(
        "heavy",
        "the 60 MB model on one thread, 8 together: the client has the other core",
        0.3,
        "heavy",
        '[stage.model]\nthreads = 1\nspin = false\nbatch = { max = 8, wait = "slack" }',
    ),
    Subject(
        "heavy_alone",
        "the same one at a time: three times its peak is what the client and our loop can send and refuse",
        0.3,
        "heavy",
        "[stage.model]\nthreads = 1\nspin = false\nbatch = { max = 1 }",
    ),
)


@asynccontextmanager
async def subject_served(subject: Subject, seed: int) -> Any:
    """The server and a driver of this subject."""
    target: Target
    inputs: Iterator[Inputs]
    if subject.model:
        model = models.ensure(subject.model, environments.cache_folder() / "models")
        words, plans = [str(model)], {subject.model: subject.plan}
    else:
        words, plans = [f"{FLOWS}:{subject.name}"], {}
    async with serving(words, plans) as served:
        if subject.model:
            target, inputs = model_target(served.url, subject.model), rows(subject.model)
        else:
            target, inputs = workflow_target(served.url, subject.name), texts()
        async with driver(target, inputs, subject.slo_s, seed) as driven:
            yield served, driven


def measure(settings: Settings) -> Iterator[Result]:
    for subject in SUBJECTS:
        yield from run(lambda subject=subject: _subject(subject, settings))


async def _subject(subject: Subject, settings: Settings) -> list[Result]:
    seconds = settings.overload_s
    async with (
        subject_served(subject, settings.seed) as (served, driven),
        aiohttp.ClientSession() as client,
    ):
        capacity = await driven.capacity(CALIBRATE_CLIENTS, max(1.5, seconds / 4))
        curve = [await driven.poisson(capacity * level, seconds, turn) for turn, level in enumerate(PEAK_AT)]
        peak = max(goodput(each, subject.slo_s) for each in curve)
        scene = _Scene(subject, settings, driven, client, served, peak)
        over = await _over(scene, curve)
        burst = await _burst(scene)
    over.figures["capacity_rps"] = capacity
    burst.check("the server ended well", served.exit_code, 0)
    return [over, burst]


class _Scene(NamedTuple):
    """A server that is up, what load is put on it with, and the most it answers well."""

    subject: Subject
    settings: Settings
    driven: Driver
    client: aiohttp.ClientSession
    served: Served
    peak: float


def _all_ended(found: Result, samples: Samples, watched: books.Watched) -> None:
    found.check("requests without an end", sum(one.lost for one in samples.measured), 0)
    found.check("answers of 5xx that are none of 503, 504", samples.count("failed"), 0)
    found.check("zombie work", watched.most["zombies"], 0)


async def _over(scene: _Scene, curve: Sequence[Samples]) -> Result:
    subject, settings, driven, client, served, peak = scene
    found = Result(
        f"overload_{subject.name}",
        f"Overload: {OVER:g} times the peak, {subject.name}",
        f"{subject.words}; open loop, the SLO of {subject.slo_s * 1e3:g} ms is each request's deadline",
    )
    before = await books.settled(client, served.url)
    driven.sent.clear()
    async with books.watching(client, served.url) as watched:
        over = await driven.poisson(peak * OVER, settings.overload_s, turn=100)
    after = await books.settled(client, served.url)
    kept = goodput(over, subject.slo_s)
    found.check("goodput over its peak", kept / peak if peak else None, PEAK_SHARE, "share", at_least=True)
    found.check("p99 of the admitted", p_ms(admitted(over), 0.99), subject.slo_s * 1e3, "ms")
    _all_ended(found, over, watched)
    balance = books.balance(driven.sent, after.since(before), subject.model or subject.name)
    found.check("requests that only one side knows", balance["missing"], 0)
    shown = summary(over, subject.slo_s)
    found.notes.append(said(shown))
    found.figures = {
        "peak_goodput_rps": peak,
        "below": [summary(each, subject.slo_s) for each in curve],
        "over": shown,
        "books": balance,
        "most": watched.most,
        "shed": shed(after.since(before)),
    }
    return found


def shed(counted: books.Page) -> dict[str, dict[str, float]]:
    """By deployment what was refused, given up for others, or expired while it waited."""
    names = {
        "refused": "tauten_rejected_total",
        "shed": "tauten_shed_total",
        "expired": "tauten_expired_total",
    }
    return {word: counted.by(name, "deployment") for word, name in names.items()}


async def _burst(scene: _Scene) -> Result:
    subject, settings, driven, client, served, peak = scene
    found = Result(
        f"burst_{subject.name}",
        f"Burst: {BURST:g} times the load for {settings.burst_s:g} s, {subject.name}",
        f"base load {BASE:.0%} of the peak; recovered when the last request that was refused or late was due",
    )
    base = peak * BASE
    quiet_s = max(2.0, settings.overload_s / 2)
    due, begin, end = burst_times(base, BURST, quiet_s, settings.burst_s, settings.seed)
    async with books.watching(client, served.url) as watched:
        samples = await driven.open_loop(due, end + quiet_s)
    await books.settled(client, served.url)
    after_s = recovery_s(samples, end, subject.slo_s)
    found.check("time to recover", after_s * 1e3, subject.slo_s * 1e3, "ms")
    _all_ended(found, samples, watched)
    inside = _between(samples, begin, end)
    found.figures = {
        "base_rps": base,
        "before": summary(_between(samples, 0.0, begin), subject.slo_s),
        "burst": summary(inside, subject.slo_s),
        "after": summary(_between(samples, end, end + quiet_s), subject.slo_s),
        "goodput_in_burst_over_peak": goodput(inside, subject.slo_s) / peak if peak else None,
        "most": watched.most,
    }
    found.notes.append("What drains within the SLO is all that is ever admitted: the bound is the SLO.")
    return found


def burst_times(
    base: float, factor: float, quiet_s: float, burst_s: float, seed: int
) -> tuple[list[float], float, float]:
    """Poisson arrivals at a base rate, for a while at a multiple of it, and again at the base: all of them,
    and when the burst begins and ends."""
    first = figures.poisson(base, quiet_s, seed)
    middle = [quiet_s + at for at in figures.poisson(base * factor, burst_s, seed + 1)]
    last = [quiet_s + burst_s + at for at in figures.poisson(base, quiet_s, seed + 2)]
    return first + middle + last, quiet_s, quiet_s + burst_s


def recovery_s(samples: Samples, since: float, slo_s: float) -> float:
    """Seconds from the end of a burst to when the last request that did not hold its SLO was due."""
    bad = [one.due for one in samples.measured if one.due >= since and not (one.latency <= slo_s)]
    return max(bad) - since if bad else 0.0


def _between(samples: Samples, begin: float, end: float) -> Samples:
    """The requests that were due in a part of the run, on a clock of their own."""
    chosen = [one for one in samples.measured if begin <= one.due < end]
    return Samples(end - begin, chosen)
