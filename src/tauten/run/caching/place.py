"""The cache of one step: its tiers in order, what came of looking, and what becomes of what was computed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from tauten.run.caching.ageing import Draw
from tauten.run.caching.behind import Behind
from tauten.run.contracts import Cache, Holdings, Kept, Sought

Now = Callable[[], float]


class TierSeen(NamedTuple):
    """What one tier of a cache did."""

    hits: int
    holdings: Holdings
    events: Mapping[str, int]  # of its own: what was late, away, damaged


class Seen(NamedTuple):
    """What a cache did since it was made, and holds now."""

    hits: int
    misses: int
    passed: int  # asked for what has no name, draws by lot, or may not be kept
    saved_s: float
    holdings: Holdings  # of the first tier
    saved_cents: float = 0.0
    stale: int = 0  # of the hits
    refreshed: int = 0  # computed anew before or after their time was over
    tiers: Mapping[str, TierSeen] = {}


class Place:
    """The cache of one step, whichever plan runs it."""

    def __init__(
        self, tiers: Mapping[str, Cache], now: Now, behind: Behind, draw: Draw = random.random
    ) -> None:
        self.tiers = dict(tiers)
        self.now = now  # seconds since 1970
        self.behind = behind
        self.draw = draw
        self.holders: list[list[str]] = []
        self.hits = self.misses = self.passed = self.stale = self.refreshed = 0
        self.forgotten = 0  # how often something was: what was asked for before that is not kept after it
        self.saved_s = self.saved_cents = 0.0
        self.tier_hits: dict[str, int] = {}

    @property
    def tier(self) -> Cache:
        """The first one, which is asked by every request."""
        return next(iter(self.tiers.values()))

    @property
    def bound_bytes(self) -> int:
        """More than that is kept nowhere."""
        return max(tier.holdings().bound_bytes for tier in self.tiers.values())

    async def find(self, sought: Sought, *, near: bool = False) -> tuple[Kept, Cache] | None:
        """What the first tier that has it gives, and which that is; tiers before it have it from then on.

        `near` asks the first one only.
        """
        passed: list[Cache] = []
        before = self.forgotten
        for tier in self.tiers.values():
            kept = await tier.get(sought)
            if kept is not None:
                self.tier_hits[tier.name] = self.tier_hits.get(tier.name, 0) + 1
                if passed and tier.exact and before == self.forgotten:
                    await self._fill(passed, sought, kept)
                return kept, tier
            if near:
                return None
            if tier.exact:
                passed.append(tier)
        return None

    async def _fill(self, passed: list[Cache], sought: Sought, kept: Kept) -> None:
        near, *far = passed
        await near.put(sought, kept)
        for tier in far:
            self.behind.put(partial(self._put_far, tier, sought, kept, self.forgotten))

    async def put(self, sought: Sought, kept: Kept, before: int, *, near: bool = False) -> None:
        """Keep it: in the first tier now, in the others behind.

        `before` is what `forgotten` was when the work began: what was forgotten meanwhile was forgotten for a reason.
        """
        if before != self.forgotten:
            return
        first, *far = self.tiers.values()
        await first.put(sought, kept)
        if not near:
            for tier in far:
                self.behind.put(partial(self._put_far, tier, sought, kept, before))

    async def _put_far(self, tier: Cache, sought: Sought, kept: Kept, before: int) -> None:
        """When its turn comes; unless something was forgotten while it waited."""
        if before == self.forgotten:
            await tier.put(sought, kept)

    def hit(self, kept: Kept, *, stale: bool) -> None:
        self.hits += 1
        self.stale += stale
        self.saved_s += kept.saved_s
        self.saved_cents += kept.saved_cents

    def seen(self) -> Seen:
        tiers = {
            name: TierSeen(self.tier_hits.get(name, 0), tier.holdings(), _events(tier))
            for name, tier in self.tiers.items()
        }
        return Seen(
            self.hits,
            self.misses,
            self.passed,
            self.saved_s,
            self.tier.holdings(),
            self.saved_cents,
            self.stale,
            self.refreshed,
            tiers,
        )


def _events(tier: Cache) -> Mapping[str, int]:
    """What a tier counts of its own; one that counts nothing has no such attribute."""
    found: Mapping[str, int] = getattr(tier, "events", {})
    return dict(found)
