"""What a gateway adds to a call, and what it takes of its core: ours with everything on, beside others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench.ground import environments
from bench.ground.check import Check
from bench.shortcuts.gateway import debian, servers
from bench.shortcuts.gateway.load import QUICK, STREAMED, WHOLE, Loads, Sizes
from bench.shortcuts.provider.running import standin
from bench.shortcuts.section import Column, Measure, Row, Rows, Section, Settings, Subject, Value

from tauten.improve.load.meter import Meter

OURS, LONG = "tauten", "tauten, long run"
ADDED_P50_MS, ADDED_P99_MS, ADDED_FIRST_MS, RPS = 0.5, 2.0, 0.3, 2500  # issue 5

Able = Callable[[], Mapping[str, str]]

COLUMNS = (
    Column("added_p50_ms", "added p50, 1 client", "ms"),
    Column("added_p99_ms", "added p99, 1 client", "ms"),
    Column("added_first_ms", "added to the first word, p50", "ms"),
    Column("added_first_p99_ms", "added to the first word, p99", "ms"),
    Column("rps", "requests a second on one core"),
    Column("cpu_ms", "CPU of a request", "ms"),
    Column("full_p99_ms", "p99 of those", "ms"),
    Column("p50_ms", "p50, 1 client", "ms"),
    Column("memory_mb", "memory", "MB"),
    Column("slope_mb_per_min", "memory slope", "MB/min"),
    Column("errors", "without a good answer"),
    Column("gap_tokens", "tokens that book and provider differ by"),
)


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, sizes: Sizes | None = None, able: Able | None = None
) -> AsyncIterator[Section]:
    """A provider and its client on one core, a gateway on another, one after the other.

    `able` says of each peer that is to be installed why it cannot run here.
    """
    cores = sorted(os.sched_getaffinity(0))
    gateway_cores, client_cores = cores[:1], cores[1:2] or cores[:1]
    sizes = sizes or settings.pick(Sizes(), QUICK)
    peers = await asyncio.to_thread(able or installed)
    async with standin(WHOLE, client_cores) as provider:
        loads = Loads(provider, sizes, gateway_cores, client_cores)
        yield Section(
            "gateway_overhead",
            "What a gateway adds",
            "With keys, limits, budgets, books, a cache that misses, traces and metrics our server adds at most 0.5 ms "
            "at p50 and 2 ms at p99 to a call of 1 client, 0.3 ms to the first word of a stream, serves 2,500 requests "
            "a second on a core, and its memory stays flat.",
            "A stand-in provider in its own process answers 16 words after 2 ms, streams with a word a millisecond. Added "
            "is what the gateway's percentile is above that of the provider alone, both measured in the same minute. Every conversation "
            "is another one. Ours speaks to the provider in streams, whichever its client asked for.",
            COLUMNS,
            _subjects(loads, peers),
            judge,
            conditions=_conditions(sizes, gateway_cores, client_cores),
            notes=[
                "nginx and the thin proxy hand bytes on and know nothing of them. LiteLLM has its master key and its prices; its "
                "keys, budgets and spend log need a database, and are off. One core each; client and provider share another.",
            ],
        )


def installed() -> dict[str, str]:
    """Why a peer cannot run here, by name; installs what is to be installed, before anything is timed."""
    found = {"nginx": "", "LiteLLM": ""}
    wanted = {
        "nginx": partial(debian.program, "nginx", "usr/sbin/nginx"),
        "LiteLLM": partial(environments.install, "litellm", servers.LITELLM, ()),
    }
    for name, get in wanted.items():
        try:
            get()
        except environments.CannotInstall as error:
            found[name] = str(error)
    return found


def _subjects(loads: Loads, reasons: Mapping[str, str]) -> list[Subject]:
    def peer(name: str, start: servers.Start, note: str) -> Subject:
        reason = reasons.get(name, "")
        return Subject(name, None if reason else _of(loads, start), note=note, reason=reason)

    return [
        Subject("the provider alone", _directly(loads), note="reference: nothing in between"),
        Subject(OURS, _of(loads, servers.ours), ours=True, note="everything on, SQLite"),
        peer("nginx", servers.nginx, "one worker, hands on"),
        peer("thin proxy", servers.thin, "aiohttp, hands on"),
        peer("LiteLLM", servers.litellm, "one worker, no database"),
        Subject(LONG, once(_long(loads)), ours=True, note=f"{loads.sizes.long_s:g} s, measured once"),
    ]


def _of(loads: Loads, start: servers.Start) -> Measure:
    async def measure(number: int) -> Mapping[str, Value]:
        return await loads.measure(start)

    return measure


def _directly(loads: Loads) -> Measure:
    async def measure(number: int) -> Mapping[str, Value]:
        return await loads.measure_direct(servers.direct)

    return measure


def _long(loads: Loads) -> Measure:
    async def measure(number: int) -> Mapping[str, Value]:
        """Memory while it serves for a long time, once its caches and pools are full."""
        sizes = loads.sizes
        async with servers.ours(loads.provider, loads.gateway_cores) as gateway:
            await loads.run(gateway, sizes.long_clients, sizes.long_s / 10)
            async with Meter(pid=gateway.root) as meter:
                found = await loads.run(gateway, sizes.long_clients, sizes.long_s)
        memory = meter.costs.memory
        return {
            "memory_mb": memory.end_mb if memory else None,
            "slope_mb_per_min": memory.slope_mb_per_min if memory else None,
            "slope_low": memory.slope_low if memory else None,
            "errors": found["errors"],
        }

    return measure


def once(measure: Measure) -> Measure:
    """The same figures in every round: what takes minutes is measured in the first one."""
    kept: dict[str, Value] = {}

    async def measured(number: int) -> Mapping[str, Value]:
        if not kept:
            kept.update(await measure(number))
        return dict(kept)

    return measured


def judge(rows: Rows) -> Sequence[Check]:
    ours = partial(rows.get_figure, OURS)
    return [
        Check("added p50, 1 client", ours("added_p50_ms"), ADDED_P50_MS, "ms"),
        Check("added p99, 1 client", ours("added_p99_ms"), ADDED_P99_MS, "ms"),
        Check("added to the first word of a stream, p50", ours("added_first_ms"), ADDED_FIRST_MS, "ms"),
        Check("requests a second on one core", ours("rps"), RPS, at_least=True),
        Check("lower end of the memory slope", rows.get_figure(LONG, "slope_low"), 0.0, "MB/min"),
        Check("requests of ours without a good answer", _lost(rows), 0),
        Check("tokens that book and provider differ by", worst(rows.get(OURS), "gap_tokens"), 0),
    ]


def worst(row: Row | None, key: str) -> float | None:
    """The largest of all rounds: one bad round in five is no median, and no accident either."""
    found = [one[key] for one in row.rounds if one.get(key) is not None] if row is not None else []
    return float(max(found)) if found else None


def _lost(rows: Rows) -> float | None:
    counts = [
        worst(rows.get(OURS), "errors"),
        worst(rows.get(OURS), "full_errors"),
        worst(rows.get(LONG), "errors"),
    ]
    known = [each for each in counts if each is not None]
    return sum(known) if known else None


def _conditions(sizes: Sizes, gateway: Sequence[int], client: Sequence[int]) -> dict[str, Any]:
    return {
        "seconds of 1 client": sizes.alone_s,
        "clients of the full load": sizes.full_clients,
        "seconds of the long run": sizes.long_s,
        "core of the gateway": list(gateway),
        "core of client and provider": list(client),
        "whole answers": dict(WHOLE),
        "streams": dict(STREAMED),
        "LiteLLM": " ".join(servers.LITELLM),
    }
