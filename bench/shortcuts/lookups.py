"""Hits in this process: our cache in each of its tiers, and a plain one over Redis, each called until it is timed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from bench.ground import figures

import tauten as tt
from tauten.plan.plan import CachePlan
from tauten.run.caches.disk import Disk
from tauten.run.caches.redis import Redis
from tauten.run.caching.caches import Caches
from tauten.run.caching.keeper import Keeper
from tauten.run.request import Request

SIZE_BYTES = 64_000_000  # that of `cache = true`
SLOWEST_S = 5.0  # of a hit: one that takes long is measured, and not given up for a miss
QUESTIONS = [f"How do I read line {number} of a file that is larger than the memory?" for number in range(64)]
ANSWERS = [f"Loop over the file object and count to {number}. " * 8 for number in range(64)]
CLEAR_EVERY = 256  # hits: what they book with their request would grow for ever

Hit = Callable[[int], Awaitable[Any]]


class Missed(Exception):
    """A lookup that was to hit did not, or gave something else."""


class _Ask(NamedTuple):
    name: str
    request: Request


async def timed(hit: Hit, count: int) -> dict[str, float | None]:
    """Percentiles in microseconds of so many hits, one after another; what was late or away is counted."""
    us, missed = [], 0
    for number in range(count):
        began = time.perf_counter_ns()
        try:
            await hit(number)
        except Missed:
            missed += 1
        us.append((time.perf_counter_ns() - began) / 1e3)
    return {**percentiles_us(us), "missed": missed}


def percentiles_us(us: list[float]) -> dict[str, float | None]:
    ordered = sorted(us)
    return {"p50_us": figures.percentile(ordered, 50), "p99_us": figures.percentile(ordered, 99)}


@asynccontextmanager
async def ours(tier: str, folder: Path, redis_port: int = 0) -> AsyncIterator[Hit]:
    """The keeper that stands before a step, with this one tier; every question is kept before."""
    caches = Caches()
    caches.offer("disk", lambda size: Disk(size, folder))
    caches.offer("redis", lambda size: Redis(size, f"redis://127.0.0.1:{redis_port}/0", budget_s=SLOWEST_S))
    place = caches.take([], "answer", "results", SIZE_BYTES, CachePlan(tiers=(tier,)))
    assert place is not None
    keeper, ask = Keeper(place, b"space", {"temperature": 0.0}), _Ask("answer", Request())

    async def never(_: float | None) -> tt.Text:
        raise Missed(f"the tier {tier} did not have it")

    async def hit(number: int) -> Any:
        if number % CLEAR_EVERY == 0:
            ask.request.trace.rows.clear()
            ask.request.trace.spent.clear()
        question = tt.Text(QUESTIONS[number % len(QUESTIONS)])
        return await keeper.value(ask, {"question": question}, None, never)

    try:
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
            await keeper.value(ask, {"question": tt.Text(question)}, None, _gives(answer))
        await _check(hit, lambda found: found.text)
        yield hit
    finally:
        await caches.close()


def _gives(answer: str) -> Callable[[float | None], Awaitable[tt.Text]]:
    async def compute(_: float | None) -> tt.Text:
        return tt.Text(answer)

    return compute


async def _check(hit: Hit, text_of: Callable[[Any], str]) -> None:
    """Every lookup gives what was kept."""
    for number, answer in enumerate(ANSWERS):
        if text_of(await hit(number)) != answer:
            raise Missed(f"{QUESTIONS[number]!r} found another answer")


@asynccontextmanager
async def plain_redis(port: int) -> AsyncIterator[Hit]:
    """The client of Redis, a hash as the key, MessagePack as the value: what one writes in an hour."""
    import redis.asyncio

    client = redis.asyncio.Redis(host="127.0.0.1", port=port)

    async def hit(number: int) -> Any:
        kept = await client.get(_key(QUESTIONS[number % len(QUESTIONS)]))
        if kept is None:
            raise Missed("Redis did not have it")
        return msgspec.msgpack.decode(kept)

    try:
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
            await client.set(_key(question), msgspec.msgpack.encode({"answer": answer}))
        await _check(hit, lambda found: str(found["answer"]))
        yield hit
    finally:
        await client.aclose()


def _key(question: str) -> bytes:
    return b"plain:" + hashlib.blake2b(question.encode(), digest_size=16).digest()
