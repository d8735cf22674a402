"""The exact cache in memory: never over its bound, and step by step what a plain list would do."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.run.caches.memory import ENTRY_BYTES, Memory
from tauten.run.caching.sieve import LOOKS
from tauten.run.contracts import Kept, Sought

BOUND = 10 * (ENTRY_BYTES + 100)  # ten results of a hundred bytes


def sought(name: int) -> Sought:
    return Sought(b"%d" % name, b"", {})


@dataclass(eq=False)
class Item:
    name: int
    value: object
    saved_s: float
    size: int
    worth: float
    visited: bool = False


class Reference:
    """The same policy over a list, the oldest first."""

    def __init__(self, bound: int) -> None:
        self.bound, self.items, self.clock = bound, list[Item](), 0.0
        self.hand: Item | None = None  # before the oldest

    def get(self, name: int) -> object:
        for item in self.items:
            if item.name == name:
                item.visited, item.worth = True, self.clock + item.saved_s / item.size
                return item.value
        return None

    def put(self, name: int, value: object, bytes_: int, saved_s: float) -> bool:
        if any(item.name == name for item in self.items):
            return True
        size = bytes_ + ENTRY_BYTES
        worth = self.clock + saved_s / size
        if size > self.bound:
            return False
        while sum(item.size for item in self.items) + size > self.bound:
            found = self.victim(worth)
            if found is None:
                self.clock = worth
                return False
            self.clock = max(self.clock, found.worth)
            self.items.remove(found)
        self.items.append(Item(name, value, saved_s, size, worth))
        return True

    def victim(self, worth: float) -> Item | None:
        for _ in range(LOOKS):
            item = self.hand or self.items[0]
            place = self.items.index(item) + 1
            self.hand = self.items[place] if place < len(self.items) else None
            if item.visited:
                item.visited = False
            elif item.worth <= worth:
                return item
        return None


Act = tuple[bool, int, int, float]
SAVED_S = [0.0, 0.001, 0.01, 0.1, 2.0]
ACTS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 14), st.integers(0, 800), st.sampled_from(SAVED_S)), max_size=200
)


@settings(max_examples=100, deadline=None)
@given(ACTS)
def test_it_does_what_a_plain_list_does_and_stays_within_its_bound(acts: list[Act]) -> None:
    same_as_a_list(acts)


def test_so_it_does_for_long() -> None:
    draw = random.Random(1)
    same_as_a_list(
        [
            (draw.random() < 0.5, draw.randrange(30), draw.randrange(800), draw.choice(SAVED_S))
            for _ in range(5000)
        ]
    )


def same_as_a_list(acts: list[Act]) -> None:
    async def main() -> None:
        memory, plain = Memory(BOUND), Reference(BOUND)
        for asks, name, size, saved_s in acts:
            if asks:
                kept = await memory.get(sought(name))
                assert (kept and kept.value) == plain.get(name)
            else:
                value = object()
                said = await memory.put(sought(name), Kept(value, size, saved_s))
                assert said == plain.put(name, value, size, saved_s)
            now = memory.holdings()
            assert now.size_bytes == sum(item.size for item in plain.items) <= BOUND
            assert now.entries == len(plain.items)

    asyncio.run(main())


def test_what_is_asked_for_again_outlives_what_is_not() -> None:
    async def main() -> None:
        memory = Memory(BOUND)
        for name in range(10):
            await memory.put(sought(name), Kept(name, 100, 0.1))
        await memory.get(sought(0))
        await memory.put(sought(10), Kept(10, 100, 0.1))
        assert await memory.get(sought(0)) is not None, "it was asked for"
        assert await memory.get(sought(1)) is None, "the oldest that nobody asked for"
        assert memory.holdings().evictions == 1

    asyncio.run(main())


def test_what_saves_little_a_byte_does_not_push_out_what_saves_much_until_that_has_aged() -> None:
    async def main() -> None:
        memory = Memory(BOUND)
        for name in range(10):
            await memory.put(sought(name), Kept(name, 100, 0.1))
        cheap = Kept("cheap", 100, 0.04)
        assert [await memory.put(sought(50 + n), cheap) for n in range(3)] == [False, False, True]
        assert memory.holdings().refused == 2

    asyncio.run(main())


def test_what_is_larger_than_all_of_it_is_refused_and_changes_nothing() -> None:
    async def main() -> None:
        memory = Memory(BOUND)
        await memory.put(sought(1), Kept("small", 100, 0.1))
        assert not await memory.put(sought(2), Kept("huge", BOUND, 9.0))
        assert await memory.get(sought(1)) is not None
        memory.resize(10)
        assert memory.holdings()[:3] == (0, 0, 10)

    asyncio.run(main())
