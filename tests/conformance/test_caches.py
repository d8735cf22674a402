"""What every cache of the shelf keeps to, whichever tier it is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from run.kit_redis import BINARY, MISSING, RedisServer
from tauten.run.contracts import Cache, Kept, Sought, find, names

BOUND = 100_000
ELSEWHERE = ("redis",)  # a server bounds what it holds by itself, and tells it only to who asks it
LONG_S = 5.0  # a budget for tests of what comes back: a busy machine is no miss
caches = pytest.mark.parametrize("name", names("caches"))
bounded = pytest.mark.parametrize("name", [name for name in names("caches") if name not in ELSEWHERE])

Test = Callable[[Cache], Awaitable[None]]
Hold = Callable[[str, Test], None]


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Hold an empty cache of that name to a test; its folder and its server are its own."""
    servers = []
    monkeypatch.setenv("TAUTEN_RESULTS", str(tmp_path / "results"))

    def run(name: str, test: Test) -> None:
        if name == "redis":
            if BINARY is None:
                pytest.skip(MISSING)
            servers.append(RedisServer(tmp_path))
            servers[0].start()
            monkeypatch.setenv("TAUTEN_REDIS", servers[0].address)

        async def main() -> None:
            cache: Any = find("caches", name)(BOUND, **({"budget_s": LONG_S} if name == "redis" else {}))
            await test(cache)
            if hasattr(cache, "close"):
                await cache.close()

        asyncio.run(main())

    yield run
    for each in servers:
        each.kill()


def sought(key: str, space: str = "step") -> Sought:
    return Sought(f"{space}/{key}".encode(), space.encode(), {"question": key})


@caches
def test_what_was_put_is_given_and_nothing_else(name: str, hold: Hold) -> None:
    async def main(cache: Cache) -> None:
        assert await cache.get(sought("a")) is None
        assert await cache.put(sought("a"), Kept(("x", "y"), 100, 0.5))
        assert await cache.get(sought("a")) == Kept(("x", "y"), 100, 0.5)
        assert await cache.get(sought("b")) is None
        assert await cache.get(sought("a", "another step")) is None
        assert await cache.put(sought("none"), Kept(None, 0, 0.5))
        assert (await cache.get(sought("none")) or Kept(0, 0, 0)).value is None

    hold(name, main)


@bounded
def test_it_stays_within_its_bound_and_says_what_it_let_go(name: str, hold: Hold) -> None:
    async def main(cache: Cache) -> None:
        for number in range(300):
            await cache.put(sought(str(number)), Kept(number, 1000, 0.1))
            assert cache.holdings().size_bytes <= BOUND
        held = cache.holdings()
        assert held.entries + held.evictions + held.refused == 300
        assert not await cache.put(sought("huge"), Kept("h" * (BOUND + 1), BOUND + 1, 9.0))
        cache.resize(BOUND // 4)
        if not hasattr(cache, "shared"):
            assert cache.holdings().size_bytes <= cache.holdings().bound_bytes == BOUND // 4
        await cache.clear()
        assert cache.holdings()[:2] == (0, 0)
        assert await cache.get(sought("299")) is None

    hold(name, main)


@caches
def test_many_at_once_do_not_disturb_it(name: str, hold: Hold) -> None:
    async def main(cache: Cache) -> None:

        async def one(number: int) -> Any:
            await cache.put(sought(str(number % 7)), Kept(number % 7, 100, 0.1))
            return await cache.get(sought(str(number % 7)))

        found = await asyncio.gather(*(one(number) for number in range(100)))
        assert [each.value for each in found] == [number % 7 for number in range(100)]
        assert name in ELSEWHERE or cache.holdings().entries == 7

    hold(name, main)
