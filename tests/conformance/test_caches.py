"""What every cache of the shelf keeps to, whichever tier it is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tauten.run.contracts import Cache, Kept, Sought, find, names

BOUND = 100_000
caches = pytest.mark.parametrize("name", names("caches"))


def made(name: str) -> Cache:
    cache: Cache = find("caches", name)(BOUND)
    return cache


def sought(key: str, space: str = "step") -> Sought:
    return Sought(f"{space}/{key}".encode(), space.encode(), {"question": key})


@caches
def test_what_was_put_is_given_and_nothing_else(name: str) -> None:
    async def main() -> None:
        cache = made(name)
        assert await cache.get(sought("a")) is None
        assert await cache.put(sought("a"), Kept(("x", "y"), 100, 0.5))
        assert await cache.get(sought("a")) == Kept(("x", "y"), 100, 0.5)
        assert await cache.get(sought("b")) is None
        assert await cache.get(sought("a", "another step")) is None
        assert await cache.put(sought("none"), Kept(None, 0, 0.5))
        assert (await cache.get(sought("none")) or Kept(0, 0, 0)).value is None

    asyncio.run(main())


@caches
def test_it_stays_within_its_bound_and_says_what_it_let_go(name: str) -> None:
    async def main() -> None:
        cache = made(name)
        for number in range(300):
            await cache.put(sought(str(number)), Kept(number, 1000, 0.1))
            assert cache.holdings().size_bytes <= BOUND
        held = cache.holdings()
        assert held.entries + held.evictions + held.refused == 300
        assert not await cache.put(sought("huge"), Kept("huge", BOUND + 1, 9.0))
        cache.resize(BOUND // 4)
        assert cache.holdings().size_bytes <= cache.holdings().bound_bytes == BOUND // 4
        await cache.clear()
        assert cache.holdings()[:2] == (0, 0)
        assert await cache.get(sought("299")) is None

    asyncio.run(main())


@caches
def test_many_at_once_do_not_disturb_it(name: str) -> None:
    async def main() -> None:
        cache = made(name)

        async def one(number: int) -> Any:
            await cache.put(sought(str(number % 7)), Kept(number % 7, 100, 0.1))
            return await cache.get(sought(str(number % 7)))

        found = await asyncio.gather(*(one(number) for number in range(100)))
        assert [each.value for each in found] == [number % 7 for number in range(100)]
        assert cache.holdings().entries == 7

    asyncio.run(main())
