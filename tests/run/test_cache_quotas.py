"""Quotas of modalities in memory: step by step what plain lists would do, and never at another's expense."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from tauten.describe.view import Frames, Pixels, Samples
from tauten.run.caches.memory import ENTRY_BYTES, Memory
from tauten.run.caching.modality import SHARES, modality_of
from tauten.run.caching.sieve import CENT_S, LOOKS
from tauten.run.contracts import Kept, Sought

BOUND = 20_000
PLAIN = {"text": 0.3, "embedding": 0.2, "video": 0.3, "other": 0.2}


def sought(name: int) -> Sought:
    return Sought(b"%d" % name, b"", {})


@dataclass(eq=False)
class Item:
    name: int
    queue: str
    value: object
    saved_s: float
    size: int
    worth: float
    visited: bool = False


@dataclass
class Queue:
    quota: int
    items: list[Item] = field(default_factory=list)
    clock: float = 0.0
    hand: Item | None = None

    @property
    def used(self) -> int:
        return sum(item.size for item in self.items)

    def victim(self, worth: float) -> Item | None:
        looks = LOOKS
        while looks and self.items:
            item = self.hand if self.hand is not None else self.items[0]
            place = self.items.index(item) + 1
            self.hand = self.items[place] if place < len(self.items) else None
            if item.visited:
                item.visited = False
            elif item.worth <= worth:
                return item
            if worth != math.inf:
                looks -= 1
        return None

    def remove(self, item: Item) -> None:
        place = self.items.index(item)
        if self.hand is item:
            self.hand = self.items[place + 1] if place + 1 < len(self.items) else None
        self.items.pop(place)


class Reference:
    """The same policy over lists, the oldest first."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.queues = {name: Queue(int(bound * share)) for name, share in PLAIN.items()}

    @property
    def used(self) -> int:
        return sum(queue.used for queue in self.queues.values())

    def get(self, name: int) -> object:
        for queue in self.queues.values():
            for item in queue.items:
                if item.name == name:
                    item.visited, item.worth = True, queue.clock + item.saved_s / item.size
                    return item.value
        return None

    def put(self, name: int, of: str, value: object, bytes_: int, saved_s: float) -> bool:
        if any(item.name == name for queue in self.queues.values() for item in queue.items):
            return True
        queue, size = self.queues[of], bytes_ + ENTRY_BYTES
        worth = queue.clock + saved_s / size
        if size > self.bound:
            return False
        if self.used + size > self.bound:
            borrows = max(0, size - queue.quota)
            others = [each for each in self.queues.values() if each is not queue]
            if sum(min(each.used, each.quota + borrows) for each in others) + size > self.bound:
                return False
        while self.used + size > self.bound:
            excess = {key: each.used - each.quota for key, each in self.queues.items()}
            excess[of] = max(0, excess[of] + size)
            lender = of if excess[of] == max(excess.values()) else max(excess, key=lambda key: excess[key])
            found = self.queues[lender].victim(worth if lender == of else math.inf)
            if found is None:
                queue.clock = worth
                return False
            self.queues[lender].clock = max(self.queues[lender].clock, found.worth)
            self.queues[lender].remove(found)
        queue.items.append(Item(name, of, value, saved_s, size, worth))
        return True


Act = tuple[bool, int, int, float]
ACTS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 39),
        st.sampled_from([0, 100, 900, 4000, 12_000]),
        st.sampled_from([0.0, 0.001, 0.1, 2.0]),
    ),
    max_size=200,
)


@settings(max_examples=150, deadline=None)
@given(ACTS)
def test_it_does_what_plain_lists_do_and_never_goes_over(acts: list[Act]) -> None:
    async def main() -> None:
        memory, plain = Memory(BOUND, PLAIN), Reference(BOUND)
        for asks, name, size, saved_s in acts:
            of = list(PLAIN)[name % len(PLAIN)]
            if asks:
                kept = await memory.get(sought(name))
                assert (kept and kept.value) == plain.get(name)
                continue
            value = object()
            said = await memory.put(sought(name), Kept(value, size, saved_s, modality=of))
            assert said == plain.put(name, of, value, size, saved_s)
            assert memory.held_bytes() == {key: queue.used for key, queue in plain.queues.items()}
            assert memory.holdings().size_bytes == plain.used <= BOUND

    asyncio.run(main())


@settings(max_examples=150, deadline=None)
@given(ACTS)
def test_what_is_within_its_quota_finds_room_and_loses_none_to_others(acts: list[Act]) -> None:
    async def main() -> None:
        memory = Memory(BOUND, PLAIN)
        quotas = {name: int(BOUND * share) for name, share in PLAIN.items()}
        for _, name, size, saved_s in acts:
            of = list(PLAIN)[name % len(PLAIN)]
            before, there = memory.held_bytes(), await memory.get(sought(name)) is not None
            said = await memory.put(sought(name), Kept(name, size, saved_s, modality=of))
            after = memory.held_bytes()
            if not there and before[of] + size + ENTRY_BYTES <= quotas[of]:
                assert said, "it had that much of its own"
            for other in PLAIN:
                if other != of and after[other] < before[other]:
                    assert before[other] > quotas[other], "only what was borrowed goes for others"

    asyncio.run(main())


def test_one_video_does_not_push_out_ten_thousand_embeddings() -> None:
    async def main() -> None:
        share = 10_000 * (1536 + ENTRY_BYTES)
        memory = Memory(int(share / SHARES["embedding"]) + 1)
        for name in range(10_000):
            await memory.put(sought(name), Kept(name, 1536, 0.01, modality="embedding"))
        bound = memory.holdings().bound_bytes
        for clip in range(3):
            await memory.put(sought(20_000 + clip), Kept(clip, bound // 2, 60.0, modality="video"))
        assert all([await memory.get(sought(name)) is not None for name in range(10_000)])
        assert memory.held_bytes()["video"] > 0, "what is free, a clip may have"

    asyncio.run(main())


def test_what_a_clip_borrowed_goes_when_others_want_their_own() -> None:
    async def main() -> None:
        memory = Memory(BOUND, PLAIN)
        assert await memory.put(sought(0), Kept("clip", BOUND - 1000, 1e6, modality="video"))
        assert await memory.put(sought(1), Kept("words", 2000, 0.0, modality="text"))
        assert await memory.get(sought(0)) is None

    asyncio.run(main())


def test_a_cent_counts_as_seconds() -> None:
    async def main() -> None:
        room = 2 * (ENTRY_BYTES + 100)
        memory = Memory(room)
        await memory.put(sought(1), Kept("dear", 100, 0.0, saved_cents=3.0))
        await memory.put(sought(2), Kept("slow", 100, CENT_S))
        assert not await memory.put(sought(3), Kept("quick", 100, CENT_S / 2))
        assert await memory.put(sought(4), Kept("slower", 100, 2 * CENT_S))
        assert [await memory.get(sought(name)) is not None for name in (1, 2, 4)] == [True, False, True]

    asyncio.run(main())


def test_a_newer_result_replaces_an_older_one_and_a_label_forgets() -> None:
    async def main() -> None:
        memory = Memory(BOUND)
        await memory.put(sought(1), Kept("old", 10, 1.0, made_at=1.0, labels=("step:a", "tenant:x")))
        await memory.put(sought(1), Kept("new", 10, 1.0, made_at=2.0, labels=("step:a", "tenant:x")))
        await memory.put(sought(1), Kept("late", 10, 1.0, made_at=1.5))
        kept = await memory.get(sought(1))
        assert kept is not None
        assert kept.value == "new"
        await memory.put(sought(2), Kept("other", 10, 1.0, labels=("step:a", "tenant:y")))
        assert await memory.forget("tenant:x") == 1
        assert [await memory.get(sought(name)) is not None for name in (1, 2)] == [False, True]
        assert await memory.forget("step:a") == 1
        assert memory.holdings()[:2] == (0, 0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("value", "modality"),
    [
        ("words", "text"),
        (tt.Text("words"), "text"),
        (["a", "b"], "text"),
        (np.zeros(4, np.float32), "embedding"),
        ([np.zeros(4, np.float32)], "embedding"),
        (tt.Tensor(np.zeros(4, np.float32)), "embedding"),
        (tt.Image.from_array(np.zeros((4, 4, 3), np.uint8)), "image"),
        (Pixels(np.zeros((4, 4, 3), np.uint8), "p", 4, 4), "image"),
        (Samples(np.zeros(4, np.float32), 16000, "s"), "audio"),
        (Frames([], [], "f"), "video"),
        (7, "other"),
        ([], "other"),
    ],
)
def test_the_modality_of_a_result(value: object, modality: str) -> None:
    assert modality_of(value) == modality


def test_the_usual_shares_are_of_one_whole() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)
