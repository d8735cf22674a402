"""What a hit takes that is asked for in the same words: at the API, in this process, and in caches that others make."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.ground import asking, figures
from bench.ground.check import Check
from bench.ground.redis_server import NoServer, redis_server
from bench.ground.serving import asked, serving
from bench.shortcuts import lookups, peers
from bench.shortcuts.section import Column, Measure, Rows, Section, Settings, Subject, Value
from bench.shortcuts.vectors import Vectors, vectors

FLOWS = Path(__file__).parents[1] / "served.py"
PLAIN = Path(__file__).parents[1] / "programs" / "plain_redis.py"
BACKEND_S = 0.4  # of the published claim: a bottleneck of 400 ms
P50_MS, P99_MS, IN_PROCESS_US = 0.5, 1.0, 20.0  # what was promised
API = {
    "in_memory": "hit at the API",
    "on_disk": "hit at the API, tier disk",
    "in_redis": "hit at the API, tier redis",
}
UNCACHED, PLAIN_API = "no cache at the API", "plain Redis cache at the API"
NEAR, PLAIN_NEAR = "hit in process", "plain Redis cache in process"
COLUMNS = [
    Column("p50_us", "p50", "µs"),
    Column("p99_us", "p99", "µs"),
    Column("missed", "lookups that missed"),
    Column("errors", "requests that failed"),
]
KEPT_S = 0.2  # beyond what the backend takes: the first answer is whole, and kept behind
QUESTION = "How do I read a file that is larger than the memory?"


@dataclass(frozen=True)
class Parts:
    """What a section is made of; tests hand in their own."""

    peer: Callable[[str], contextlib.AbstractAsyncContextManager[Any]] = peers.started
    peers: tuple[str, ...] = ("gptcache", "redisvl")
    vectors: Callable[[Sequence[str]], Awaitable[Vectors]] = vectors
    backend_s: float = BACKEND_S


@contextlib.asynccontextmanager
async def opened(settings: Settings, parts: Parts = Parts()) -> AsyncIterator[Section]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tb-")))
        port, reason = await _redis(stack)
        subjects = [
            *await _at_the_api(stack, settings, folder, port, reason, parts),
            *await _in_process(stack, settings, folder, port, reason),
        ]
        made, versions = await _made_by_others(stack, settings, parts)
        yield Section(
            name="exact_hit",
            title="An exact hit",
            claim=f"L14: a bottleneck of {parts.backend_s * 1e3:g} ms becomes sub-millisecond by layered caching. At the API a hit has a p50 "
            f"of at most {P50_MS:g} ms and a p99 of at most {P99_MS:g} ms over loopback with one client; in process "
            f"a hit on a small text takes at most {IN_PROCESS_US:g} µs.",
            how="The same request again and again by one client on a kept connection, a closed loop; in process and in the caches that others "
            "make, 64 questions in turn, each call timed. Peers run in environments of their own, in their own process, and are called there.",
            columns=COLUMNS,
            subjects=[*subjects, *made],
            judge=partial(judged, parts.backend_s),
            conditions={
                "backend_ms": parts.backend_s * 1e3,
                "at_the_api_s": settings.pick(3.0, 0.5),
                "calls_in_process": _calls(settings),
                "answer_characters": len(lookups.ANSWERS[0]),
                "peers": versions,
            },
            notes=[
                "At the API the percentiles hold the HTTP server, the engine, the trace, the booking of usage and the client.",
                "GPTCache's row is its exact cache, a table in memory. redisvl has no lookup by equality: it searches for the vector of the same "
                "question, which is handed to it; the time of an embedding is left out.",
            ],
        )


def _calls(settings: Settings) -> int:
    return settings.pick(5_000, 200)


async def _redis(stack: AsyncExitStack) -> tuple[int, str]:
    """(port, why there is none)."""
    try:
        return await stack.enter_async_context(redis_server()), ""
    except NoServer as error:
        return 0, str(error)


# -- at the API -------------------------------------------------------------------------------------------


async def _at_the_api(
    stack: AsyncExitStack, settings: Settings, folder: Path, port: int, reason: str, parts: Parts
) -> list[Subject]:
    from bench.shortcuts.served import PLANS

    names = ["uncached", *(name for name in API if port or name != "in_redis")]
    served = await stack.enter_async_context(
        serving(
            [f"{FLOWS}:{name}" for name in names],
            {name: text for name, text in PLANS.items() if name in names},
            ["--usage", str(folder / "usage.db")],
            {
                "TAUTEN_BENCH_BACKEND_S": str(parts.backend_s),
                "TAUTEN_RESULTS": str(folder / "results"),
                "TAUTEN_REDIS": f"redis://127.0.0.1:{port}/0",
            },
        )
    )
    at = urlsplit(served.url).port or 0
    seconds = settings.pick(3.0, 0.5)
    few = max(seconds, parts.backend_s * 5)  # a handful of answers without a cache
    rows = [Subject(UNCACHED, _api(at, "uncached", few, parts.backend_s))]
    for name, title in API.items():
        measure = _api(at, name, seconds, parts.backend_s) if name in names else None
        rows.append(Subject(title, measure, ours=True, reason="" if measure else reason))
    if not port:
        return [*rows, Subject(PLAIN_API, reason=reason)]
    try:
        plain = await stack.enter_async_context(_plain_server(port, parts.backend_s))
    except asking.NoFigures as error:
        return [*rows, Subject(PLAIN_API, reason=str(error))]
    measure = _api(plain, "in_memory", seconds, parts.backend_s)
    return [*rows, Subject(PLAIN_API, measure, note="uvicorn, redis-py, MessagePack")]


def _api(port: int, name: str, seconds: float, backend_s: float) -> Measure:
    request = asked(f"/v1/workflows/{name}", {"inputs": {"text": QUESTION}})

    async def measure(_: int) -> Mapping[str, Value]:
        await asking.closed(port, request, backend_s + KEPT_S)  # kept from here on, where anything is
        found = await asking.closed(port, request, seconds)
        return {"p50_us": _us(found["p50_ms"]), "p99_us": _us(found["p99_ms"]), "errors": found["errors"]}

    return measure


def _us(ms: float | None) -> float | None:
    return None if ms is None else ms * 1e3


@contextlib.asynccontextmanager
async def _plain_server(redis_port: int, backend_s: float) -> AsyncIterator[int]:
    """The cache of an hour's work, as a server: its port."""
    env = {**os.environ, "BENCH_REDIS_PORT": str(redis_port), "BENCH_BACKEND_S": str(backend_s)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PLAIN), env=env, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), asking.PATIENCE_S)
        if not line:
            raise asking.NoFigures("the plain cache's server ended before it listened")
        yield int(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# -- in process -------------------------------------------------------------------------------------------


async def _in_process(
    stack: AsyncExitStack, settings: Settings, folder: Path, port: int, reason: str
) -> list[Subject]:
    count = _calls(settings)
    memory = await stack.enter_async_context(lookups.ours("memory", folder))
    disk = await stack.enter_async_context(lookups.ours("disk", folder / "near"))
    rows = [
        Subject(NEAR, _near(memory, count), ours=True),
        Subject(f"{NEAR}, tier disk", _near(disk, count // 5), ours=True),
    ]
    if not port:
        return [
            *rows,
            Subject(f"{NEAR}, tier redis", ours=True, reason=reason),
            Subject(PLAIN_NEAR, reason=reason),
        ]
    shared = await stack.enter_async_context(lookups.ours("redis", folder, port))
    plain = await stack.enter_async_context(lookups.plain_redis(port))
    return [
        *rows,
        Subject(f"{NEAR}, tier redis", _near(shared, count // 5), ours=True),
        Subject(PLAIN_NEAR, _near(plain, count // 5), note="redis-py, MessagePack"),
    ]


def _near(hit: lookups.Hit, count: int) -> Measure:
    async def measure(_: int) -> Mapping[str, Value]:
        await lookups.timed(hit, count // 10)  # not counted
        return await lookups.timed(hit, count)

    return measure


# -- made by others ---------------------------------------------------------------------------------------


async def _made_by_others(
    stack: AsyncExitStack, settings: Settings, parts: Parts
) -> tuple[list[Subject], dict[str, Any]]:
    rows, versions = [], {}
    for name in parts.peers:
        try:
            peer = await stack.enter_async_context(parts.peer(name))
            words: dict[str, Any] = {"questions": lookups.QUESTIONS, "answers": lookups.ANSWERS}
            if name == "redisvl":
                words["known"] = await _known(parts)
            opened = await peer.ask("open_exact", **words)
        except peers.CANNOT as error:
            rows.append(Subject(f"{name} hit, called", reason=str(error)))
            continue
        versions[name] = dict(peer.versions)
        if opened["wrong"]:
            reason = f"{opened['wrong']} of {len(lookups.QUESTIONS)} kept questions were not found"
            rows.append(Subject(f"{name} hit, called", reason=reason))
        else:
            rows.append(Subject(f"{name} hit, called", _called(peer, _calls(settings) // 5)))
    return rows, versions


async def _known(parts: Parts) -> dict[str, list[float]]:
    """A vector for each question."""
    return {text: vector.tolist() for text, vector in (await parts.vectors(lookups.QUESTIONS)).items()}


def _called(peer: Any, count: int) -> Measure:
    async def measure(_: int) -> Mapping[str, Value]:
        await peer.ask("hit", questions=lookups.QUESTIONS, count=count // 10)
        return lookups.percentiles_us((await peer.ask("hit", questions=lookups.QUESTIONS, count=count))["us"])

    return measure


# -- what was promised ------------------------------------------------------------------------------------


def judged(backend_s: float, rows: Rows) -> list[Check]:
    api, near = API["in_memory"], NEAR
    p50, p99 = rows.get_figure(api, "p50_us"), rows.get_figure(api, "p99_us")
    checks = [
        Check("p50 of a hit at the API, 1 client", _ms(p50), P50_MS, "ms"),
        Check("p99 of a hit at the API, 1 client", _ms(p99), P99_MS, "ms"),
        Check("p50 of a hit in process, small text", rows.get_figure(near, "p50_us"), IN_PROCESS_US, "µs"),
        Check(
            f"the backend of {backend_s * 1e3:g} ms over a hit at the API",
            figures.ratio(rows.get_figure(UNCACHED, "p50_us"), p50),
            backend_s * 1e3,
            "×",
            at_least=True,
        ),
        Check("requests that failed at the API", _sum(rows, API.values(), "errors"), 0),
        Check("lookups in memory that missed", rows.get_most(near, "missed"), 0),
    ]
    others = [PLAIN_NEAR, *(name for name in rows if name.endswith("hit, called"))]
    for other in (each for each in others if rows.get_figure(each, "p50_us") is not None):
        beside = figures.ratio(rows.get_figure(near, "p50_us"), rows.get_figure(other, "p50_us"))
        checks.append(Check(f"our hit in process over: {other}", beside, 1.0, "×"))
    return checks


def _ms(us: float | None) -> float | None:
    return None if us is None else us / 1e3


def _sum(rows: Rows, names: Any, key: str) -> float | None:
    """Over the rows that have figures, of each the worst round; None where none has."""
    found = [value for name in names if (value := rows.get_most(name, key)) is not None]
    return sum(found) if found else None
