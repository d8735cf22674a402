"""The order in which a cache lets results go: SIEVE's hand, which passes over what is worth more than the newcomer.

SIEVE (Zhang et al., NSDI 2024) keeps entries in the order in which they came. A hand goes from the oldest to the
newest and takes out what nobody asked for since it passed last. What is worth more than the newcomer is passed
over: an entry's worth is what a byte of it saves, on top of a clock that rises to the worth of what went (Cao and
Irani's GreedyDual-Size, USITS 1997), so that what was worth much and is asked for no more goes in the end.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

from tauten.run.contracts import Kept

LOOKS = 16  # entries the hand passes for one place: a newcomer is not worth a walk through all of them
CENT_S = 1.0  # a cent counts as so many seconds: an hour of somebody who waits costs about 36 of the currency


def saving_s(kept: Kept) -> float:
    """What a hit saves: its seconds, and its cents as seconds."""
    return kept.saved_s + kept.saved_cents * CENT_S


class Entry:
    """A result in its place among those of its queue."""

    __slots__ = ("kept", "key", "newer", "older", "queue", "size_bytes", "visited", "worth")

    def __init__(self, queue: Sieve, key: bytes, kept: Kept, size_bytes: int, worth: float) -> None:
        self.queue = queue
        self.key = key
        self.kept = kept
        self.size_bytes = size_bytes
        self.worth = worth
        self.visited = False
        self.newer: Entry | None = None
        self.older: Entry | None = None

    def touch(self) -> None:
        """Somebody asked for it."""
        self.visited = True
        self.worth = self.queue.worth(self.kept, self.size_bytes)


class Sieve:
    """The entries of one modality. `quota_bytes` is its own; what it holds beyond that is borrowed."""

    __slots__ = ("_hand", "clock", "newest", "oldest", "quota_bytes", "used_bytes")

    def __init__(self, quota_bytes: int = 0) -> None:
        self.quota_bytes = quota_bytes
        self.used_bytes = 0
        self.clock = 0.0  # seconds a byte
        self.newest: Entry | None = None
        self.oldest: Entry | None = None
        self._hand: Entry | None = None  # None is before the oldest

    def worth(self, kept: Kept, size_bytes: int) -> float:
        return self.clock + saving_s(kept) / size_bytes

    def excess(self, coming_bytes: int = 0) -> int:
        """Bytes beyond its quota, once so many more have come; below 0 where some of it is free."""
        return self.used_bytes + coming_bytes - self.quota_bytes

    def add(self, entry: Entry) -> None:
        self.used_bytes += entry.size_bytes
        entry.older, self.newest = self.newest, entry
        if entry.older is None:
            self.oldest = entry
        else:
            entry.older.newer = entry

    def victim(self, worth: float) -> Entry | None:
        """What may go for something of that worth; infinite worth takes what it finds first."""
        looks = LOOKS
        while looks and self.oldest is not None:
            entry = self._hand or self.oldest
            self._hand = entry.newer
            if entry.visited:
                entry.visited = False
            elif entry.worth <= worth:
                return entry
            if worth != math.inf:
                looks -= 1
        return None

    def drop(self, entry: Entry) -> None:
        self.used_bytes -= entry.size_bytes
        if self._hand is entry:
            self._hand = entry.newer
        if entry.older is None:
            self.oldest = entry.newer
        else:
            entry.older.newer = entry.newer
        if entry.newer is None:
            self.newest = entry.older
        else:
            entry.newer.older = entry.older
