"""The caches of an engine: one for each step whose plan asks for it, kept over a swap as long as some plan does.

A keeper stands before a step. It names what is asked, gives what was kept under that name, and otherwise lets the
step work and keeps what it gave: whole results only, never an error, never what was cancelled. Requests that ask
the same at the same time each compute; the first to end is kept. Tenants share nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from tauten.describe.payload import Media
from tauten.plan.caching import draws
from tauten.run.caching.holding import NotKept, handed, held
from tauten.run.caching.naming import Nameless, content_name
from tauten.run.contracts import Cache, Holdings, Kept, Sought, find
from tauten.run.request import Request
from tauten.run.trace import VISIT, as_shared
from tauten.run.workers import in_thread

TIER = "memory"  # of every step; others join it on the shelf
LONG_BYTES = 1 << 18  # media hashed in a thread: on the loop, that would hold others up for a millisecond

Since = float | None
Spent = tuple[tuple[str, float], ...]
Make = Callable[[int], Cache]


class Seen(NamedTuple):
    """What a cache did since it was made, and holds now."""

    hits: int
    misses: int
    passed: int  # asked for what has no name, draws by lot, or may not be kept
    saved_s: float
    holdings: Holdings


class Place:
    """The cache of one step, whichever plan runs it."""

    def __init__(self, tier: Cache) -> None:
        self.tier = tier
        self.holders: list[list[str]] = []
        self.hits = self.misses = self.passed = 0
        self.saved_s = 0.0

    def seen(self) -> Seen:
        return Seen(self.hits, self.misses, self.passed, self.saved_s, self.tier.holdings())


class Caches:
    """Places by (step, what they hold: results or views). A holder is the list of keys of an opened plan."""

    def __init__(self, make: Make | None = None) -> None:
        self._make = make or find("caches", TIER)
        self._places: dict[tuple[str, str], Place] = {}

    def take(self, holder: list[str], step: str, holds: str, size_bytes: int) -> Place | None:
        """The cache of a step, as large as the plan that was opened last says."""
        place = self._places.get((step, holds))
        if place is None:
            place = self._places[step, holds] = Place(self._make(size_bytes))
        place.tier.resize(size_bytes)
        if not any(each is holder for each in place.holders):
            place.holders.append(holder)
        return place

    def release(self, holder: list[str]) -> None:
        """What no opened plan holds any more is forgotten."""
        for name, place in list(self._places.items()):
            place.holders = [each for each in place.holders if each is not holder]
            if not place.holders:
                del self._places[name]

    def seen(self) -> dict[tuple[str, str], Seen]:
        """What metrics show of each."""
        return {name: place.seen() for name, place in self._places.items()}

    async def clear(self) -> None:
        """Forget every result."""
        for place in self._places.values():
            await place.tier.clear()


class NoCaches(Caches):
    """For engines whose work itself is looked at: plans may ask for caches, nothing has one."""

    def take(self, holder: list[str], step: str, holds: str, size_bytes: int) -> None:
        return None


class Ask(Protocol):
    """A step at work for a request: what a keeper needs of it. `name` is of this visit."""

    @property
    def name(self) -> str: ...

    @property
    def request(self) -> Request: ...


class Keeper:
    """A cache before one step under one plan: `space` names what the step computes there, `params` included."""

    __slots__ = ("params", "place", "space")

    def __init__(self, place: Place, space: bytes, params: Mapping[str, Any]) -> None:
        self.place = place
        self.space = space
        self.params = params

    async def value(
        self, ask: Ask, inputs: Mapping[str, Any], since: Since, compute: Callable[[Since], Awaitable[Any]]
    ) -> Any:
        """What the step gives for these inputs: kept, or computed and kept."""
        clock = ask.request.clock
        began = clock()
        sought, kept = await self._look(ask, inputs)
        began = began if since is None else since
        if kept is not None:
            ask.request.trace.rows.append((ask.name, VISIT, began, clock()))
            return handed(kept.value)
        if sought is None:
            return await compute(began)
        started, booked = clock(), len(ask.request.trace.spent)
        value = await compute(began)
        return await self._keep(sought, value, clock() - started, _spent(ask, booked))

    async def stream(
        self,
        ask: Ask,
        inputs: Mapping[str, Any],
        since: Since,
        compute: Callable[[Since], AsyncGenerator[Any, None]],
    ) -> AsyncGenerator[Any, None]:
        """As `value`, of increments: what was kept comes at once; what was not read to its end is not kept."""
        clock = ask.request.clock
        began = clock()
        sought, kept = await self._look(ask, inputs)
        began = began if since is None else since
        if kept is not None:
            try:
                for increment in handed(kept.value):
                    yield increment
            finally:
                ask.request.trace.rows.append((ask.name, VISIT, began, clock()))
            return
        started, booked = clock(), len(ask.request.trace.spent)
        taken = _Taken(self.place.tier.holdings().bound_bytes if sought else 0)
        async with aclosing(compute(began)) as increments:
            async for increment in increments:
                yield taken.take(increment)
        if sought is not None:
            await self._keep(sought, taken.whole(), clock() - started, _spent(ask, booked))

    async def _look(self, ask: Ask, inputs: Mapping[str, Any]) -> tuple[Sought | None, Kept | None]:
        """(what is sought, what was found); the time of it is the step's, as `lookup`."""
        trace, clock = ask.request.trace, ask.request.clock
        began = clock()
        for value in inputs.values():
            if isinstance(value, Media) and value.size_bytes > LONG_BYTES:
                await in_thread(getattr, value, "hash")
        sought = self._sought(ask.request, inputs)
        if sought is None:
            self.place.passed += 1
            return None, None
        kept = await self.place.tier.get(sought)
        trace.rows.append((ask.name, "lookup", began, clock()))
        if kept is None:
            self.place.misses += 1
        else:
            self.place.hits += 1
            self.place.saved_s += kept.saved_s
            trace.spent.append((ask.name, "cache_hits", 1.0))
            trace.spent.append((ask.name, "saved_s", kept.saved_s))
            trace.spent.extend((ask.name, unit, amount) for unit, amount in kept.spent)
        return sought, kept

    def _sought(self, request: Request, inputs: Mapping[str, Any]) -> Sought | None:
        """None for what cannot be named, and for what draws by lot."""
        if draws({**self.params, **inputs}):
            return None
        try:
            space = content_name(self.space, request.tenant, request.partition)
            return Sought(content_name(space, dict(inputs)), space, inputs)
        except Nameless:
            return None

    async def _keep(self, sought: Sought, value: Any, saved_s: float, spent: Spent) -> Any:
        """Keep a result and give it back as all others will get it: lists of his own, arrays that are read-only."""
        try:
            mine, size_bytes = held(value)
        except NotKept:
            self.place.passed += 1
            return value
        await self.place.tier.put(sought, Kept(mine, size_bytes, saved_s, spent))
        return handed(mine)


def _spent(ask: Ask, since: int) -> Spent:
    """What a step booked, by itself and by the steps that it called, as those book it who get its result later."""
    return tuple(
        (booked, amount)
        for step, unit, amount in ask.request.trace.spent[since:]
        if (step == ask.name or step.startswith(f"{ask.name}/")) and (booked := as_shared(unit))
    )


class _Taken:
    """Increments of a stream on their way past, as far as a cache could hold them."""

    __slots__ = ("increments", "left_bytes")

    def __init__(self, bound_bytes: int) -> None:
        self.left_bytes = bound_bytes
        self.increments: list[Any] = []

    def take(self, increment: Any) -> Any:
        """Note one; gives it as it is handed on."""
        if self.left_bytes <= 0:
            return increment
        try:
            mine, size_bytes = held(increment)
        except NotKept:
            self.increments, self.left_bytes = [], 0
            return increment
        self.left_bytes -= size_bytes
        if self.left_bytes <= 0:
            self.increments = []
            return increment
        self.increments.append(mine)
        return handed(mine)

    def whole(self) -> Any:
        """All of them; what cannot be kept where some were let go."""
        return tuple(self.increments) if self.left_bytes > 0 else _LET_GO


_LET_GO = object()  # of a class that no cache keeps
