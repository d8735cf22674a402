"""L11: one cache with a share for each modality that lets go of what saves least, against one LRU for all."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.ground import figures
from bench.ground.check import Check, Line
from bench.shortcuts.facts import facts as measured_facts
from bench.shortcuts.section import Column, Measure, Rows, Section, Settings, Subject, Value
from bench.shortcuts.trace import MOVED, SHARES, SPREAD, TURNS, ZIPF, Fact, Share, Thing, trace

from tauten.run.caches.memory import ENTRY_BYTES, Memory
from tauten.run.caching.modality import SHARES as QUOTAS
from tauten.run.contracts import Kept, Sought

REQUESTS, QUICK_REQUESTS = 200_000, 4_000
SIZES_MB = (
    64,
    256,
    1024,
)  # of a step's cache by default, of decoded views by default, and of a large machine
MAIN_MB = 256
LESS_NETWORK, MORE_HITS = 0.78, 1.15  # as published: 22 % fewer bytes, 15 % more hits
MB = 1_000_000
LRU, BY_LRU = "one LRU", "an LRU for each modality"
SINGLE, OURS = "ours, one queue for all", "ours"
COLUMNS = [
    Column("hit_ratio", "hits", "share"),
    Column("fetched_mb", "bytes fetched", "MB"),
    Column("saved_share", "milliseconds saved", "share"),
    *(Column(f"{name}_hits", f"hits, {name}", "share") for name in SHARES),
    Column("us", "a request, mean", "µs"),
]


class Cache(Protocol):
    """What a trace is played through."""

    async def hit(self, thing: Thing) -> bool:
        """Whether it was there; from then on it is, if the cache wants it."""
        ...


@dataclass(frozen=True)
class Parts:
    """What the section is made of; tests hand in their own."""

    facts: Callable[[], Awaitable[Mapping[str, Fact]]] = measured_facts
    shares: Mapping[str, Share] = field(default_factory=lambda: SHARES)


@contextlib.asynccontextmanager
async def opened(settings: Settings, parts: Parts = Parts()) -> AsyncIterator[Section]:
    facts = await parts.facts()
    count = settings.pick(REQUESTS, QUICK_REQUESTS)
    traces: dict[int, list[Thing]] = {}

    def played(make: Callable[[int], Cache], size_mb: int) -> Measure:
        async def once(number: int) -> Mapping[str, Value]:
            if number not in traces:
                traces.clear()  # of an earlier round
                traces[number] = trace(facts, count, f"{settings.seed}/{number}", parts.shares)
            return await play(make(size_mb * MB), traces[number])

        return once

    yield Section(
        name="modality_cache",
        title="A cache that knows modalities and costs",
        claim="L11: caching by modality fetches 22 % fewer bytes and hits 15 % more often than one LRU for all.",
        how=f"A trace of {count:,} requests, Zipf by modality, played through each cache, which begins empty. A miss makes the thing and keeps it. Each "
        "round has a trace of its own. Nothing is made: what a hit saves is what was measured before.",
        columns=COLUMNS,
        subjects=[
            Subject(row_name(name, size_mb), played(make, size_mb), ours=name in (OURS, SINGLE))
            for size_mb in SIZES_MB
            for name, make in MAKES.items()
        ],
        judge=judged,
        curves=curves,
        conditions={
            "law": f"the n-th most popular of a modality has a chance of n ** -{ZIPF:g}; {TURNS} times {MOVED:.0%} of the things change ranks; sizes and costs "
            f"are those measured, times a lognormal factor of sigma {SPREAD:g}",
            "seeds": f"{settings.seed}/ROUND",
            **{
                f"{name}: different things, part of the requests": [each.things, each.part]
                for name, each in parts.shares.items()
            },
            **{f"{name}: bytes held, bytes fetched, ms": list(each) for name, each in facts.items()},
        },
        notes=[
            "Pictures and sound are held decoded, as stages want them, and fetched encoded. A text is a language model's answer, an embedding a "
            "vector of a text; what is fetched for it is the text.",
            "A cache that is told what saves time does not keep what saves bytes where the two differ: both are shown.",
        ],
    )


async def play(cache: Cache, requests: Sequence[Thing]) -> dict[str, Value]:
    """All requests in order."""
    hits, asked = dict.fromkeys(SHARES, 0), dict.fromkeys(SHARES, 0)
    fetched_bytes, saved_ms, all_ms = 0, 0.0, 0.0
    began = time.perf_counter()
    for thing in requests:
        asked[thing.modality] += 1
        all_ms += thing.cost_ms
        if await cache.hit(thing):
            hits[thing.modality] += 1
            saved_ms += thing.cost_ms
        else:
            fetched_bytes += thing.fetched_bytes
    took_s = time.perf_counter() - began
    return {
        "hit_ratio": sum(hits.values()) / len(requests),
        "fetched_mb": fetched_bytes / MB,
        "saved_share": saved_ms / all_ms,
        **{f"{name}_hits": figures.ratio(hits[name], asked[name]) for name in hits},
        "us": 1e6 * took_s / len(requests),
    }


# -- the caches -------------------------------------------------------------------------------------------


class Lru:
    """The least recently used goes, whatever it is; each entry costs as much beside its bytes as one of ours."""

    def __init__(self, bound_bytes: int) -> None:
        self.bound_bytes, self.used_bytes = bound_bytes, 0
        self._sizes: OrderedDict[bytes, int] = OrderedDict()

    async def hit(self, thing: Thing) -> bool:
        if thing.key in self._sizes:
            self._sizes.move_to_end(thing.key)
            return True
        size = thing.held_bytes + ENTRY_BYTES
        if size <= self.bound_bytes:
            while self.used_bytes + size > self.bound_bytes:
                self.used_bytes -= self._sizes.popitem(last=False)[1]
            self._sizes[thing.key] = size
            self.used_bytes += size
        return False


class LruByModality:
    """An LRU for each modality, with the shares that ours has: what shares alone do."""

    def __init__(self, bound_bytes: int) -> None:
        whole = sum(QUOTAS[name] for name in SHARES)
        self._parts = {name: Lru(int(bound_bytes * QUOTAS[name] / whole)) for name in SHARES}

    async def hit(self, thing: Thing) -> bool:
        return await self._parts[thing.modality].hit(thing)


class Ours:
    """The tier in memory as it serves. What is kept has no content here: only what it weighs and saves."""

    def __init__(self, bound_bytes: int, shares: Mapping[str, float] = QUOTAS) -> None:
        self._tier = Memory(bound_bytes, shares)
        self._clock = 0.0

    async def hit(self, thing: Thing) -> bool:
        sought = Sought(thing.key, b"space", {})
        if await self._tier.get(sought) is not None:
            return True
        self._clock += 1.0
        kept = Kept(None, thing.held_bytes, thing.cost_ms / 1e3, made_at=self._clock, modality=thing.modality)
        await self._tier.put(sought, kept)
        return False


def _single(bound_bytes: int) -> Ours:
    """Without shares: what going by cost alone does."""
    return Ours(bound_bytes, {"other": 1.0})


MAKES: dict[str, Callable[[int], Cache]] = {LRU: Lru, BY_LRU: LruByModality, SINGLE: _single, OURS: Ours}


# -- what was promised ------------------------------------------------------------------------------------


def row_name(name: str, size_mb: int) -> str:
    return f"{name}, {size_mb} MB"


def judged(rows: Rows) -> list[Check]:
    def over(key: str) -> float | None:
        ours, lru = (rows.get_figure(row_name(name, MAIN_MB), key) for name in (OURS, LRU))
        return figures.ratio(ours, lru)

    return [
        Check(f"bytes fetched of those of one LRU, {MAIN_MB} MB", over("fetched_mb"), LESS_NETWORK, "×"),
        Check(f"hits of those of one LRU, {MAIN_MB} MB", over("hit_ratio"), MORE_HITS, "×", at_least=True),
        Check(
            f"milliseconds saved of those of one LRU, {MAIN_MB} MB",
            over("saved_share"),
            1.0,
            "×",
            at_least=True,
        ),
    ]


def curves(rows: Rows) -> dict[str, list[Line]]:
    def lines(key: str, unit: str) -> list[Line]:
        found = []
        for name in MAKES:
            values = [(size_mb, rows.get_figure(row_name(name, size_mb), key)) for size_mb in SIZES_MB]
            points = [(float(size_mb), each) for size_mb, each in values if each is not None]
            found.append(Line(name, points, "MB", unit, name == OURS))
        return found

    return {
        "hits over the size of the cache": lines("hit_ratio", "share"),
        "milliseconds saved over the size of the cache": lines("saved_share", "share"),
        "bytes fetched over the size of the cache": lines("fetched_mb", "MB"),
    }
