"""A keeper stands before a step: gives what was kept under the name of what is asked, else lets the step work.

Kept are whole results only, and, where the plan says so, errors that are the input's fault; never what was cancelled.
Requests that ask the same at the same time each compute; the first to end is kept. Tenants share nothing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

from tauten.clock import Clock
from tauten.describe.payload import Media
from tauten.plan.caching import draws
from tauten.plan.plan import CachePlan
from tauten.run.caching.ageing import age_of, lives_s, ttl_s
from tauten.run.caching.holding import NotKept, handed, held
from tauten.run.caching.likes import Liked
from tauten.run.caching.modality import modality_of
from tauten.run.caching.naming import Nameless, content_name
from tauten.run.caching.place import Place
from tauten.run.caching.refused import Refused
from tauten.run.contracts import Cache, Kept, Sought
from tauten.run.request import Request
from tauten.run.trace import VISIT, as_shared
from tauten.run.workers import in_thread

LONG_BYTES = 1 << 18  # media hashed in a thread: on the loop, that would hold others up for a millisecond

Since = float | None
Spent = tuple[tuple[str, float], ...]
Compute = Callable[[Since], Awaitable[Any]]
Stream = Callable[[Since], AsyncGenerator[Any, None]]


class Ask(Protocol):
    """A step at work for a request: what a keeper needs of it. `name` is of this visit."""

    @property
    def name(self) -> str: ...

    @property
    def request(self) -> Request: ...


Anew = Callable[[], tuple[Ask, Callable[[Since], Any]]]
"""The same work for nobody: a request of its own, behind the one that asked, and what computes for it."""

Told = Callable[[Request, BaseException | None], None]
"""Hears of a request that was made behind another when it is over, and what it failed with."""

Behind = Callable[[Sought, str], Awaitable[Any]]
"""Computes anew what is sought, for a reason: refresh, stale."""


class Aside(NamedTuple):
    """A step at work behind a request, for nobody."""

    name: str
    request: Request


class _Found(NamedTuple):
    """What a look gave: what is sought, and what was kept of it."""

    sought: Sought | None
    kept: Kept | None


class _Before(NamedTuple):
    """As it was when a step began to work."""

    at: float  # by the clock of its request
    booked: int  # rows that the request had spent
    forgotten: int  # how often something had been


class Keeper:
    """A cache before one step under one plan: `space` names what the step computes there, `params` included."""

    __slots__ = ("labels", "liked", "params", "place", "rules", "space", "told")

    def __init__(
        self,
        place: Place,
        space: bytes,
        params: Mapping[str, Any],
        rules: CachePlan = CachePlan(),
        labels: tuple[str, ...] = (),
        told: Told | None = None,
        liked: Liked | None = None,
    ) -> None:
        self.place = place
        self.space = space
        self.params = params
        self.rules = rules
        self.labels = labels
        self.told = told  # of what was computed behind, when it is over: somebody pays for that, too
        self.liked = liked  # where likeness may be taken for equality

    async def value(
        self, ask: Ask, inputs: Mapping[str, Any], since: Since, compute: Compute, anew: Anew | None = None
    ) -> Any:
        """What the step gives for these inputs: kept, or computed and kept."""
        clock = ask.request.clock
        began = clock()
        sought, kept = await self._look(ask, inputs, partial(self._value_anew, anew) if anew else None)
        began = began if since is None else since
        if kept is not None:
            ask.request.trace.rows.append((ask.name, VISIT, began, clock()))
            return _given(kept)
        if sought is None:
            return await compute(began)
        return await self._computed(ask, sought, compute, began)

    async def stream(
        self, ask: Ask, inputs: Mapping[str, Any], since: Since, compute: Stream, anew: Anew | None = None
    ) -> AsyncGenerator[Any, None]:
        """As `value`, of increments: what was not read to its end is not kept."""
        clock = ask.request.clock
        began = clock()
        sought, kept = await self._look(ask, inputs, partial(self._stream_anew, anew) if anew else None)
        began = began if since is None else since
        if kept is not None:
            try:
                async for increment in self._replayed(ask, kept):
                    yield increment
            finally:
                ask.request.trace.rows.append((ask.name, VISIT, began, clock()))
            return
        async with aclosing(self._taken(ask, sought, compute, began)) as increments:
            async for increment in increments:
                yield increment

    # -- looking ------------------------------------------------------------------------------------------

    async def _look(self, ask: Ask, inputs: Mapping[str, Any], anew: Behind | None) -> _Found:
        """What is sought and what was found; the time of it is the step's, as `lookup`."""
        trace, clock = ask.request.trace, ask.request.clock
        began = clock()
        for value in inputs.values():
            if isinstance(value, Media) and value.size_bytes > LONG_BYTES:
                await in_thread(getattr, value, "hash")
        sought = self._sought(ask, inputs)
        if sought is None:
            self.place.passed += 1
            return _Found(None, None)
        found = await self.place.find(sought, near=bool(ask.request.partition))
        kept = self._fit(sought, found, anew) if found is not None else None
        trace.rows.append((ask.name, "lookup", began, clock()))
        if kept is None and self.liked is not None and not ask.request.partition:
            kept = await self._alike(ask, self.liked, sought)
        if kept is None:
            self.place.misses += 1
        else:
            _book(ask, kept)
        return _Found(sought, kept)

    def _sought(self, ask: Ask, inputs: Mapping[str, Any]) -> Sought | None:
        """None for what cannot be named, and for what draws by lot."""
        request = ask.request
        if draws({**self.params, **inputs}):
            return None
        try:
            space = content_name(self.space, request.tenant, request.partition)
            return Sought(content_name(space, dict(inputs)), space, inputs, request.tenant, ask)
        except Nameless:
            return None

    async def _alike(self, ask: Ask, liked: Liked, sought: Sought) -> Kept | None:
        """What was kept of a question that means the same."""
        kept = await liked.tier.get(sought)
        if kept is not None:
            self.place.hit(kept, stale=False)
            ask.request.trace.spent.append((ask.name, "semantic_hits", 1.0))
        return kept

    def _fit(self, sought: Sought, found: tuple[Kept, Cache], anew: Behind | None) -> Kept | None:
        """What was found, unless it is too old; computed anew behind where its time is over, or nearly."""
        kept, _ = found
        age = age_of(self.rules, kept, self.place.now(), self.place.draw)
        if age == "over" or (age == "stale" and anew is None):
            return None
        if anew is not None and age in ("early", "stale"):
            why = "refresh" if age == "early" else "stale"
            self.place.refreshed += self.place.behind.compute(sought.key, partial(anew, sought, why))
        self.place.hit(kept, stale=age == "stale")
        return kept

    # -- computing ----------------------------------------------------------------------------------------

    async def _computed(self, ask: Ask, sought: Sought, compute: Compute, began: Since) -> Any:
        """Let the step work, and keep what it gives."""
        before = self._before(ask)
        try:
            value = await compute(began)
        except Exception as error:
            refused = Refused.of(error) if self.rules.negative_s else None
            if refused is not None:
                await self._keep(ask, sought, refused, before)
            raise
        return await self._keep(ask, sought, value, before)

    async def _taken(
        self, ask: Ask, sought: Sought | None, compute: Stream, began: Since
    ) -> AsyncGenerator[Any, None]:
        """As `_computed`, of increments on their way past."""
        before = self._before(ask)
        taken = Taken(self.place.bound_bytes if sought else 0, ask.request.clock)
        async with aclosing(compute(began)) as increments:
            async for increment in increments:
                yield taken.take(increment)
        if sought is not None:
            await self._keep(ask, sought, taken.whole(), before, tuple(taken.times_s))

    def _before(self, ask: Ask) -> _Before:
        return _Before(ask.request.clock(), len(ask.request.trace.spent), self.place.forgotten)

    async def _keep(
        self,
        ask: Ask,
        sought: Sought,
        value: Any,
        before: _Before,
        times_s: tuple[float, ...] = (),
    ) -> Any:
        """Keep a result and give it back as all others will get it: lists of his own, arrays that are read-only.

        Its age counts from when the step began: nobody knows when in its work it looked at the world.
        """
        request = ask.request
        saved_s = request.clock() - before.at
        try:
            mine, size_bytes = held(value)
        except NotKept:
            self.place.passed += 1
            return value
        kept = Kept(
            mine,
            size_bytes,
            saved_s,
            _spent(ask, before.booked),
            _cents(ask, before.booked),
            self.place.now() - saved_s,
            lives_s(self.rules, mine),
            modality_of(mine),
            (*self.labels, f"tenant:{request.tenant}"),
            times_s,
        )
        await self.place.put(sought, kept, before.forgotten, near=bool(request.partition))
        if self.liked is not None and not request.partition:
            self._liken(ask, self.liked, sought, kept, before.forgotten)
        return handed(mine)

    def _liken(self, ask: Ask, liked: Liked, sought: Sought, kept: Kept, before: int) -> None:
        """Have the tier of likeness learn of it, behind: of an answer that is given as long as it is fresh, no longer."""
        fresh_s = ttl_s(self.rules, kept.value)
        labels = (*kept.labels, liked.mark)
        kept = kept._replace(lives_s=0.0 if fresh_s == math.inf else fresh_s, labels=labels)
        aside = Aside(ask.name, ask.request.behind())
        liked.behind.put(partial(self._likened, aside, liked, sought, kept, before))

    async def _likened(self, aside: Aside, liked: Liked, sought: Sought, kept: Kept, before: int) -> None:
        """When its turn comes; unless something was forgotten since the step began."""
        if before != self.place.forgotten:
            return
        with self._telling(aside.request, "learn"):  # a question was embedded, which somebody pays for
            await liked.tier.put(sought._replace(ask=aside), kept)

    async def _value_anew(self, anew: Anew, sought: Sought, why: str) -> Any:
        ask, compute = anew()
        with self._telling(ask.request, why):
            return await self._computed(ask, sought, compute, None)

    async def _stream_anew(self, anew: Anew, sought: Sought, why: str) -> Any:
        ask, compute = anew()
        with self._telling(ask.request, why):
            return tuple([each async for each in self._taken(ask, sought, compute, None)])

    @contextmanager
    def _telling(self, request: Request, why: str) -> Iterator[None]:
        """Whoever keeps books hears of it, however it ends, where it took anything."""
        request.kind = why
        trace = request.trace
        failed: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            trace.end = request.clock()
            if self.told is not None and (why != "learn" or trace.spent or trace.provider_calls):
                self.told(request, failed)

    # -- replaying ----------------------------------------------------------------------------------------

    async def _replayed(self, ask: Ask, kept: Kept) -> AsyncGenerator[Any, None]:
        """The increments of a stream: at once, or as they came when it was made."""
        given = _given(kept)
        if self.rules.replay == "at once" or len(kept.times_s) != len(given):
            for increment in given:
                yield increment
            return
        clock, rows = ask.request.clock, ask.request.trace.rows
        began = clock()
        for due_s, increment in zip(kept.times_s, given, strict=True):
            asked = clock()
            if (wait_s := began + due_s - asked) > 0:
                await asyncio.sleep(wait_s)
                rows.append((ask.name, "lookup", asked, clock()))
            yield increment


def _given(kept: Kept) -> Any:
    """What was kept, for one more reader; raises it where it is an error."""
    if kept.value.__class__ is Refused:
        raise kept.value.error()
    return handed(kept.value)


def _book(ask: Ask, kept: Kept) -> None:
    """Note a hit with its request: what it saved, and what is booked as shared with it."""
    spent = ask.request.trace.spent
    spent.append((ask.name, "cache_hits", 1.0))
    spent.append((ask.name, "saved_s", kept.saved_s))
    if kept.saved_cents:
        spent.append((ask.name, "saved_cents", kept.saved_cents))
    spent.extend((ask.name, unit, amount) for unit, amount in kept.spent)


def _own(ask: Ask, since: int) -> list[tuple[str, float]]:
    """What a step booked, by itself and by the steps that it called."""
    return [
        (unit, amount)
        for step, unit, amount in ask.request.trace.spent[since:]
        if step == ask.name or step.startswith(f"{ask.name}/")
    ]


def _spent(ask: Ask, since: int) -> Spent:
    """The same, as those book it who get its result later."""
    return tuple((booked, amount) for unit, amount in _own(ask, since) if (booked := as_shared(unit)))


def _cents(ask: Ask, since: int) -> float:
    """What it cost, and what a hit of one of its steps saved: a hit of the whole saves that again."""
    return sum(amount for unit, amount in _own(ask, since) if unit in ("cents", "saved_cents"))


class Taken:
    """Increments of a stream on their way past, as far as a cache could hold them, and when each came."""

    __slots__ = ("_began", "_clock", "increments", "left_bytes", "times_s")

    def __init__(self, bound_bytes: int, clock: Clock) -> None:
        self.left_bytes = bound_bytes
        self.increments: list[Any] = []
        self.times_s: list[float] = []
        self._clock = clock
        self._began = clock()

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
        self.times_s.append(self._clock() - self._began)
        return handed(mine)

    def whole(self) -> Any:
        """All of them; what cannot be kept where some were let go."""
        return tuple(self.increments) if self.left_bytes > 0 else _LET_GO


_LET_GO = object()  # of a class that no cache keeps
