"""An exact cache in this process's memory: SIEVE eviction, bounded in bytes, admission by saved seconds a byte.

SIEVE (Zhang et al., NSDI 2024) keeps entries in the order in which they came. A hand goes from the oldest to the
newest and takes out what nobody asked for since it passed last. What is worth more than the newcomer is passed
over: an entry's worth is the seconds that a byte of it saves, on top of a clock that rises to the worth of what
went (Cao and Irani's GreedyDual-Size), so that what was worth much and is asked for no more goes in the end.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import ClassVar

from tauten.run.contracts import Holdings, Kept, Sought

ENTRY_BYTES = 400  # of a key, an entry, its place in a dict and its headers, about
LOOKS = 16  # entries the hand passes for one place: a newcomer is not worth a walk through all of them


class _Entry:
    __slots__ = ("kept", "key", "newer", "older", "size_bytes", "visited", "worth")

    def __init__(self, key: bytes, kept: Kept, size_bytes: int, worth: float) -> None:
        self.key = key
        self.kept = kept
        self.size_bytes = size_bytes
        self.worth = worth
        self.visited = False
        self.newer: _Entry | None = None
        self.older: _Entry | None = None


class Memory:
    """The first tier. Lives on the event loop; nothing in it waits."""

    name: ClassVar[str] = "memory"

    def __init__(self, size_bytes: int) -> None:
        self.bound_bytes = size_bytes
        self._entries: dict[bytes, _Entry] = {}
        self._newest: _Entry | None = None
        self._oldest: _Entry | None = None
        self._hand: _Entry | None = None  # None is before the oldest
        self._clock = 0.0  # seconds a byte
        self._used_bytes = self._evictions = self._refused = 0

    async def get(self, sought: Sought) -> Kept | None:
        entry = self._entries.get(sought.key)
        if entry is None:
            return None
        entry.visited = True
        entry.worth = self._clock + entry.kept.saved_s / entry.size_bytes
        return entry.kept

    async def put(self, sought: Sought, kept: Kept) -> bool:
        if sought.key in self._entries:
            return True  # somebody computed it at the same time
        size = kept.size_bytes + ENTRY_BYTES
        worth = self._clock + kept.saved_s / size
        if size > self.bound_bytes or not self._make_room(size, worth):
            self._refused += 1
            return False
        entry = _Entry(sought.key, kept, size, worth)
        self._entries[entry.key] = entry
        self._used_bytes += size
        entry.older, self._newest = self._newest, entry
        if entry.older is None:
            self._oldest = entry
        else:
            entry.older.newer = entry
        return True

    def resize(self, size_bytes: int) -> None:
        self.bound_bytes = size_bytes
        while self._used_bytes > size_bytes and self._oldest is not None:
            self._evictions += 1
            self._drop(self._oldest)

    def holdings(self) -> Holdings:
        return Holdings(
            len(self._entries), self._used_bytes, self.bound_bytes, self._evictions, self._refused
        )

    async def clear(self) -> None:
        while self._oldest is not None:
            self._drop(self._oldest)

    # -- eviction -----------------------------------------------------------------------------------------

    def _make_room(self, size_bytes: int, worth: float) -> bool:
        """Let go of what is worth no more, until so much is free; else the newcomer goes at once."""
        while self._used_bytes + size_bytes > self.bound_bytes:
            victim = self._victim(worth)
            if victim is None:
                self._clock = worth
                return False
            self._clock = max(self._clock, victim.worth)
            self._evictions += 1
            self._drop(victim)
        return True

    def _victim(self, worth: float) -> _Entry | None:
        for _ in range(LOOKS):
            entry = self._hand or self._oldest
            assert entry is not None  # there is no room: so there is an entry
            self._hand = entry.newer
            if entry.visited:
                entry.visited = False
            elif entry.worth <= worth:
                return entry
        return None

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry.key]
        self._used_bytes -= entry.size_bytes
        if self._hand is entry:
            self._hand = entry.newer
        if entry.older is None:
            self._oldest = entry.newer
        else:
            entry.older.newer = entry.newer
        if entry.newer is None:
            self._newest = entry.older
        else:
            entry.newer.older = entry.older
