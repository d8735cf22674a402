"""The caches of an engine: one for each step whose plan asks for it, kept over a swap as long as some plan does.

The tier in memory is the step's own. Tiers that are elsewhere (a file, a server) are shared by all steps: the names of
results tell them apart.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from tauten.clock import Clock, real
from tauten.errors import MachineError, PlanError, TautenError
from tauten.plan.caching import DISK_BYTES, cache_bytes
from tauten.plan.likeness import LIKENESS
from tauten.plan.plan import CachePlan
from tauten.run.caching.behind import Behind
from tauten.run.caching.likes import Likes
from tauten.run.caching.place import Place, Seen
from tauten.run.contracts import Cache, find, names
from tauten.run.request import Request

NEAR = "memory"  # the tier that is sized by `cache`, and the only one that simulations have

Make = Callable[[int], Cache]
R = TypeVar("R")


class Caches:
    """Places by (step, what they hold: results or views). A holder is the list of keys of an opened plan.

    With `make`, tiers are made by it, and there is none but the one in memory.
    """

    def __init__(self, make: Make | None = None, clock: Clock = real) -> None:
        self._make = make
        self._clock = clock
        self._ahead_s = time.time() - clock()  # steady from here on, whatever is done to the machine's date
        self._offered: dict[str, Make] = {}
        self._places: dict[tuple[str, str], Place] = {}
        self.behind = Behind()
        self.likes = Likes()
        self.told: Callable[[Request], None] | None = None  # of requests behind others, when they are over

    def now(self) -> float:
        """Seconds since 1970: what is kept is read by other processes, and tomorrow."""
        return self._clock() + self._ahead_s

    def told_behind(self, request: Request) -> None:
        """A request that was made behind others is over; the books have heard of it."""
        if self.told is not None:
            self.told(request)

    def offer(self, tier: str, make: Make) -> None:
        """A tier that needs more than a size: plans may name it from now on."""
        self._offered[tier] = make

    def likens(self) -> bool:
        """Whether plans get a tier that takes likeness for equality: simulations know the names of questions, not their
        words, and where one was offered, that is it."""
        return self._make is None and LIKENESS not in self._offered

    def take(
        self, holder: list[str], step: str, holds: str, size_bytes: int, rules: CachePlan | None = None
    ) -> Place | None:
        """The cache of a step, as large and in as many tiers as the plan that was opened last says."""
        rules = rules or CachePlan()
        makes = self._makes(rules, size_bytes)
        place = self._places.get((step, holds))
        before = {} if place is None else place.tiers
        tiers = {name: before[name] if name in before else make() for name, make in makes.items()}
        if place is None:
            place = self._places[step, holds] = Place(tiers, self.now, self.behind)
        place.tiers = tiers
        self._let_go({name: tier for name, tier in before.items() if name not in tiers})
        for name, tier in tiers.items():
            tier.resize(self._size(name, rules, size_bytes))
        if not any(each is holder for each in place.holders):
            place.holders.append(holder)
        return place

    def _makes(self, rules: CachePlan, size_bytes: int) -> dict[str, Callable[[], Cache]]:
        """How each tier is made; raises PlanError for one that there is not, before any is made."""
        if self._make is not None:
            make = self._make
            return {NEAR: lambda: make(size_bytes)}
        ours = LIKENESS not in self._offered  # then it is taken from `likes`
        exact = [name for name in rules.tiers if name != LIKENESS or not ours]
        return {name: self._maker(name, self._size(name, rules, size_bytes)) for name in exact}

    def _maker(self, name: str, size_bytes: int) -> Callable[[], Cache]:
        if name in self._offered:
            offered = self._offered[name]
            return lambda: offered(size_bytes)
        if name not in names("caches"):
            raise PlanError(
                f"no tier of a cache is called {name!r} here",
                help=f"known: {', '.join([*names('caches'), LIKENESS, *self._offered])}",
                code="E135",
            )
        made = _found(name)
        return lambda: made(size_bytes)

    @staticmethod
    def _size(name: str, rules: CachePlan, size_bytes: int) -> int:
        return cache_bytes(rules.disk or True, DISK_BYTES) if name == "disk" else size_bytes

    def release(self, holder: list[str]) -> None:
        """What no opened plan holds any more is forgotten; what its far tiers keep is there for the next."""
        for name, place in list(self._places.items()):
            place.holders = [each for each in place.holders if each is not holder]
            if not place.holders:
                del self._places[name]
                self._let_go(place.tiers)
        self.likes.release(holder)

    def _let_go(self, tiers: Mapping[str, Cache]) -> None:
        """Close far tiers, after what waits to be put into them."""
        for name, tier in tiers.items():
            if name != NEAR:
                self.behind.put(tier.close)

    def seen(self) -> dict[tuple[str, str], Seen]:
        """What metrics show of each."""
        return {name: self._seen(name, place) for name, place in self._places.items()}

    def _seen(self, name: tuple[str, str], place: Place) -> Seen:
        step, holds = name
        seen = place.seen()
        likes = self.likes.seen(step) if holds == "results" else {}
        return seen._replace(tiers={**seen.tiers, **likes}) if likes else seen

    async def settled(self) -> None:
        """Wait until nothing goes on behind."""
        await self.likes.behind.settled()
        await self.behind.settled()

    async def clear(self, tier: str = "") -> None:
        """Forget every result, of one tier or of all; raises what a tier raises that cannot, when the others have."""
        await self._part()
        await self._all(tier, lambda each: each.clear())

    async def forget(self, label: str, tier: str = "") -> int:
        """As `clear`, what carries a label (`step:ocr`, `model:...`, `tenant:...`, `tag:...`); says how many that were."""
        await self._part()
        return sum(await self._all(tier, lambda each: each.forget(label)))

    async def _all(self, tier: str, work: Callable[[Cache], Awaitable[R]]) -> list[R]:
        """What tiers say; one that fails keeps no other from it."""
        done: list[R] = []
        failed: TautenError | None = None
        for each in self._every(tier):
            try:
                done.append(await work(each))
            except TautenError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return done

    async def _part(self) -> None:
        """From what was asked for before now: it may have seen the world as it was, and is not kept any more."""
        for place in self._places.values():
            place.forgotten += 1
        await self.behind.written()
        await self.likes.behind.written()

    def _every(self, tier: str) -> list[Cache]:
        """All tiers, those that places share once."""
        found: Mapping[object, Cache] = {
            getattr(each, "shared", id(each)): each
            for place in self._places.values()
            for name, each in place.tiers.items()
            if tier in ("", name)
        }
        return [*found.values(), *(self.likes.every() if tier in ("", LIKENESS) else ())]

    async def close(self) -> None:
        """End what goes on behind, and let go of files and connections."""
        await self.likes.close()
        await self.behind.close()
        for place in self._places.values():
            for tier in place.tiers.values():
                await tier.close()


def _found(name: str) -> Make:
    """The tier of that name on the shelf; raises MachineError where what it needs is not installed."""
    try:
        made: Make = find("caches", name)
    except ImportError as error:
        raise MachineError(
            f"the tier `{name}` of a cache needs {error.name}, which is not installed",
            help="pip install 'tauten[serve]', or leave the tier out of the plan",
            code="E315",
        ) from error
    return made


class NoCaches(Caches):
    """For engines whose work itself is looked at: plans may ask for caches, nothing has one."""

    def likens(self) -> bool:
        return False

    def take(
        self, holder: list[str], step: str, holds: str, size_bytes: int, rules: CachePlan | None = None
    ) -> None:
        return None
