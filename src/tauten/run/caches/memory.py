"""An exact cache in this process's memory: bounded in bytes, with a quota for each modality.

Each modality has a queue of its own (`caching/sieve.py`) and a share of the bound. What is free of a share others
borrow. When there is no room, whoever borrows most gives it back; what a modality holds within its share, no other
one pushes out. Who borrows most itself lets its own results go, if they are worth no more than the newcomer.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from tauten.run.caching.modality import SHARES
from tauten.run.caching.sieve import Entry, Sieve
from tauten.run.contracts import Holdings, Kept, Sought

ENTRY_BYTES = 400  # of a key, an entry, its place in a dict and its headers, about


class Memory:
    """The first tier. Lives on the event loop; nothing in it waits."""

    name: ClassVar[str] = "memory"
    exact: ClassVar[bool] = True

    def __init__(self, size_bytes: int, shares: Mapping[str, float] = SHARES) -> None:
        self._shares = shares
        self._queues = {modality: Sieve() for modality in shares}
        self._entries: dict[bytes, Entry] = {}
        self._used_bytes = self._evictions = self._refused = 0
        self._bound(size_bytes)

    def _bound(self, size_bytes: int) -> None:
        self.bound_bytes = size_bytes
        for modality, share in self._shares.items():
            self._queues[modality].quota_bytes = int(size_bytes * share)

    async def get(self, sought: Sought) -> Kept | None:
        entry = self._entries.get(sought.key)
        if entry is None:
            return None
        entry.touch()
        return entry.kept

    async def put(self, sought: Sought, kept: Kept) -> bool:
        known = self._entries.get(sought.key)
        if known is not None:
            if known.kept.made_at >= kept.made_at:
                return True  # somebody computed it at the same time
            self._drop(known)
        queue = self._queues.get(kept.modality) or self._queues["other"]
        size = kept.size_bytes + ENTRY_BYTES
        worth = queue.worth(kept, size)
        if size > self.bound_bytes or not self._make_room(queue, size, worth):
            self._refused += 1
            return False
        entry = self._entries[sought.key] = Entry(queue, sought.key, kept, size, worth)
        queue.add(entry)
        self._used_bytes += size
        return True

    def resize(self, size_bytes: int) -> None:
        self._bound(size_bytes)
        while self._used_bytes > size_bytes:
            queue = max(self._queues.values(), key=lambda each: (each.oldest is not None, each.excess()))
            assert queue.oldest is not None  # bytes are used: so somebody holds them
            self._evictions += 1
            self._drop(queue.oldest)

    def holdings(self) -> Holdings:
        return Holdings(
            len(self._entries), self._used_bytes, self.bound_bytes, self._evictions, self._refused
        )

    def held_bytes(self) -> dict[str, int]:
        """What each modality holds."""
        return {modality: queue.used_bytes for modality, queue in self._queues.items()}

    async def clear(self) -> None:
        for entry in list(self._entries.values()):
            self._drop(entry)

    async def forget(self, label: str) -> int:
        found = [entry for entry in self._entries.values() if label in entry.kept.labels]
        for entry in found:
            self._drop(entry)
        return len(found)

    async def close(self) -> None:
        """There is nothing to let go of: whoever drops it frees it."""

    # -- eviction -----------------------------------------------------------------------------------------

    def _make_room(self, queue: Sieve, size_bytes: int, worth: float) -> bool:
        """Let go of what is borrowed most, or worth no more, until so much is free; else the newcomer goes at once."""
        if self._used_bytes + size_bytes <= self.bound_bytes:
            return True
        if not self._could(queue, size_bytes):
            return False
        while self._used_bytes + size_bytes > self.bound_bytes:
            lender = self._lender(queue, size_bytes)
            victim = lender.victim(worth if lender is queue else math.inf)
            if victim is None:
                queue.clock = worth
                return False
            lender.clock = max(lender.clock, victim.worth)
            self._evictions += 1
            self._drop(victim)
        return True

    def _could(self, queue: Sieve, size_bytes: int) -> bool:
        """Whether there can be room at all: its own queue's, and what others borrow beyond what it would."""
        borrows = max(0, size_bytes - queue.quota_bytes)
        others = (each for each in self._queues.values() if each is not queue)
        kept = sum(min(each.used_bytes, each.quota_bytes + borrows) for each in others)
        return kept + size_bytes <= self.bound_bytes

    def _lender(self, queue: Sieve, size_bytes: int) -> Sieve:
        """Whose results go for a newcomer of that queue: who borrows most, the newcomer counted."""
        found, most = queue, max(0, queue.excess(size_bytes))
        for each in self._queues.values():
            if each is not queue and each.excess() > most:
                found, most = each, each.excess()
        return found

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._used_bytes -= entry.size_bytes
        entry.queue.drop(entry)
