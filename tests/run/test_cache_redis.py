"""The tier on a Redis server: shared, and never in the way: slow, hung, down and back, and full of strangers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

import tauten as tt
from run.kit_redis import BINARY, MISSING, RedisServer
from tauten.describe.stage import stage
from tauten.errors import MachineError, Unavailable
from tauten.plan.plan import CachePlan, Plan, StagePlan
from tauten.run.caches.memory import Memory
from tauten.run.caches.redis import LIVES_S, PREFIX, SPARE_S, VALUE_BYTES, Redis
from tauten.run.caching.breaker import FAILURES, LONGEST_S, PAUSE_S, Breaker
from tauten.run.caching.caches import Caches
from tauten.run.contracts import Kept, Sought
from tauten.run.engine import Engine

LONG_S = 5.0  # a budget for tests of what comes back: a busy machine is no miss
real = pytest.mark.skipif(BINARY is None, reason=MISSING)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    made.start()
    yield made
    made.kill()


def sought(name: int) -> Sought:
    return Sought(b"%032d" % name, b"", {})


@real
def test_two_machines_share_what_one_of_them_kept(server: RedisServer) -> None:
    async def main() -> None:
        one, two = (Redis(0, server.address, LONG_S) for _ in range(2))
        kept = Kept(["x", tt.Text("y")], 7, 1.5, labels=("tenant:a", "step:s"))
        assert await one.get(sought(1)) is None
        assert await one.put(sought(1), kept)
        assert await two.get(sought(1)) == kept
        assert one.events == two.events == dict.fromkeys(one.events, 0)
        await one.close()
        await two.close()

    asyncio.run(main())


@real
def test_results_are_forgotten_by_label_and_all_of_ours_cleared(server: RedisServer) -> None:
    async def main() -> None:
        tier = Redis(0, server.address, LONG_S)
        plain = redis.asyncio.Redis.from_url(server.address)
        await plain.set("theirs", "stays")
        for name in range(1200):
            await tier.put(sought(name), Kept(name, 7, 1.5, labels=(f"tenant:{name % 2}", "step:s")))
        assert await tier.forget("tenant:1") == 600
        assert [await tier.get(sought(name)) is not None for name in (0, 1)] == [True, False]
        assert await tier.forget("tenant:nobody") == 0
        await tier.clear()
        assert await tier.get(sought(0)) is None
        assert await plain.keys("*") == [b"theirs"]
        await plain.aclose()
        await tier.close()

    asyncio.run(main())


@real
def test_what_grows_old_leaves_the_server_by_itself(server: RedisServer) -> None:
    async def main() -> None:
        tier = Redis(0, server.address, LONG_S)
        plain = redis.asyncio.Redis.from_url(server.address)
        await tier.put(sought(1), Kept("x", 7, 1.5, lives_s=90.0))
        await tier.put(sought(2), Kept("x", 7, 1.5))
        assert 80_000 < await plain.pttl(PREFIX + sought(1).key) <= 90_000
        assert await plain.ttl(PREFIX + sought(2).key) > 86_400
        await plain.aclose()
        await tier.close()

    asyncio.run(main())


@real
def test_a_label_knows_of_no_more_results_than_there_are(server: RedisServer) -> None:
    async def main() -> None:
        now = [1000.0]
        tier = Redis(0, server.address, LONG_S, wall=lambda: now[0])
        plain = redis.asyncio.Redis.from_url(server.address)
        for name in range(50):
            await tier.put(sought(name), Kept("x", 7, 1.5, lives_s=60.0, labels=("step:s",)))
            now[0] += 60.0 + SPARE_S / 10
        assert await plain.zcard(PREFIX + b"labelled:step:s") < 10
        await tier.put(sought(99), Kept("x", 7, 1.5, lives_s=10 * LIVES_S, labels=("step:s",)))
        await tier.put(sought(98), Kept("x", 7, 1.5, lives_s=60.0, labels=("step:s",)))
        lives_s = await plain.ttl(PREFIX + sought(99).key)
        assert lives_s <= LIVES_S < await plain.ttl(PREFIX + b"labelled:step:s"), (
            "a label outlives its results"
        )
        now[0] += LIVES_S - 1.0
        await tier.put(sought(97), Kept("x", 7, 1.5, lives_s=60.0, labels=("step:s",)))
        await tier.forget("step:s")
        assert await tier.get(sought(99)) is None
        await plain.aclose()
        await tier.close()

    asyncio.run(main())


@real
def test_what_a_server_that_is_away_may_still_hold_is_said(server: RedisServer) -> None:
    async def main() -> None:
        tier = Redis(0, server.address, LONG_S)
        kept = Kept("x", 7, 1.5, labels=("step:s",))
        await tier.put(sought(1), kept)
        server.pause()
        near = Memory(1 << 20)
        await near.put(sought(1), kept)
        caches = Caches()
        place = caches.take([], "s", "results", 1 << 20)
        assert place is not None
        place.tiers = {"redis": tier, "memory": near}
        for asked in (caches.forget("step:s"), caches.clear()):
            await near.put(sought(1), kept)
            with pytest.raises(Unavailable, match="may still hold"):
                await asked
            assert near.holdings().entries == 0, "the other tiers have forgotten it"
        server.resume()
        assert await tier.forget("step:s") == 1, "also where nobody has probed it since"
        assert await tier.get(sought(1)) is None
        await caches.close()

    asyncio.run(main())


@real
def test_a_stranger_under_our_names_is_a_miss(server: RedisServer) -> None:
    async def main() -> None:
        tier = Redis(0, server.address, LONG_S)
        plain = redis.asyncio.Redis.from_url(server.address)
        await plain.set(PREFIX + sought(1).key, b"\x80\x04pickled")
        assert await tier.get(sought(1)) is None
        assert tier.events["damaged"] == 1
        await plain.aclose()
        await tier.close()

    asyncio.run(main())


@real
def test_a_result_that_is_too_large_for_a_shared_server_is_refused(server: RedisServer) -> None:
    async def main() -> None:
        tier = Redis(0, server.address, LONG_S)
        assert not await tier.put(sought(1), Kept(bytes(VALUE_BYTES + 1), VALUE_BYTES + 1, 1.5))
        assert tier.holdings().refused == 1
        await tier.close()

    asyncio.run(main())


@real
def test_a_server_that_hangs_costs_its_budget_thrice_and_then_nothing_and_is_found_when_it_is_back(
    server: RedisServer,
) -> None:
    async def main() -> None:
        tier = Redis(0, server.address, 0.05)
        tier.budget_s = LONG_S
        await tier.put(sought(1), Kept("x", 7, 1.5))
        tier.budget_s = 0.01
        server.pause()
        for _ in range(FAILURES):
            assert await tier.get(sought(1)) is None
        assert tier.events["late"] == FAILURES
        for _ in range(100):
            assert await tier.get(sought(1)) is None
        assert (tier.events["late"], tier.events["away"]) == (FAILURES, 100), "nobody asked it"
        server.resume()
        tier.budget_s = LONG_S
        await back(tier)
        assert await tier.get(sought(1)) is not None, "it kept what it had"
        await tier.close()

    asyncio.run(main())


@real
def test_a_server_that_is_killed_is_a_miss_at_once_and_is_used_again_after_its_restart(
    server: RedisServer,
) -> None:
    async def main() -> None:
        tier = Redis(0, server.address, LONG_S)
        assert await tier.put(sought(1), Kept("x", 7, 1.5))
        server.kill()
        for _ in range(FAILURES + 2):
            assert await tier.get(sought(1)) is None
            assert not await tier.put(sought(1), Kept("x", 7, 1.5))
        assert tier.events["away"] > 0
        server.start()
        await back(tier)
        assert await tier.get(sought(1)) is None, "it came back empty"
        assert await tier.put(sought(1), Kept("x", 7, 1.5))
        assert await tier.get(sought(1)) is not None
        await tier.close()

    asyncio.run(main())


async def back(tier: Redis) -> None:
    """Ask until the server is asked again, as requests would."""
    async with asyncio.timeout(30.0):
        while True:
            away = tier.events["away"]
            await tier.get(sought(0))
            if tier.events["away"] == away:
                return
            await asyncio.sleep(0.02)


def test_nobody_at_the_address_is_a_miss_and_told_of_once(caplog: Any) -> None:
    with socket.socket() as taken:  # bound, and not listening: nobody else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))

        async def main() -> None:
            tier = Redis(0, f"redis://127.0.0.1:{taken.getsockname()[1]}/0", LONG_S)
            for _ in range(10):
                assert await tier.get(sought(1)) is None
                assert not await tier.put(sought(1), Kept("x", 7, 1.5))
            assert tier.events["failed"] >= FAILURES
            assert tier.events["away"] > 0
            await tier.close()

        asyncio.run(main())
    assert len([each for each in caplog.records if "does not answer" in each.message]) == 1


def test_without_an_address_the_tier_is_empty(monkeypatch: Any) -> None:
    monkeypatch.delenv("TAUTEN_REDIS", raising=False)

    async def main() -> None:
        tier = Redis(0)
        assert await tier.get(sought(1)) is None
        assert not await tier.put(sought(1), Kept("x", 7, 1.5))
        assert await tier.forget("step:s") == 0
        await tier.clear()
        await tier.close()

    asyncio.run(main())


def test_an_address_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(MachineError) as refused:
        Redis(0, "http://user:hunter2@here")
    assert refused.value.code == "E304"
    assert "hunter2" not in str(refused.value)


def test_the_breaker_asks_one_probe_at_a_time_after_longer_and_longer_pauses() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(FAILURES):
        assert breaker.closed
        breaker.failed()
    assert not breaker.closed
    pause_s, pauses = PAUSE_S, []
    for _ in range(10):
        assert not breaker.probes(), "not before the pause is over"
        now[0] += pause_s
        assert breaker.probes()
        assert not breaker.probes(), "one at a time"
        breaker.failed()
        pauses.append(pause_s)
        pause_s = min(LONGEST_S, pause_s * 2)
    assert pauses[-1] == LONGEST_S
    now[0] += pause_s
    assert breaker.probes()
    breaker.worked()
    assert breaker.closed
    assert not breaker.probes()


CALLS: list[str] = []


@stage(pure=True)
async def shout(words: tt.Text) -> str:
    CALLS.append(words.text)
    return words.text.upper()


@tt.workflow
def loud(words: tt.Text) -> str:
    return shout(words)


@real
def test_a_plan_uses_it_over_engines_and_works_on_when_it_is_killed(
    server: RedisServer, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TAUTEN_REDIS", server.address)
    monkeypatch.setattr("tauten.run.caches.redis.BUDGET_S", LONG_S)
    monkeypatch.setattr(Redis.__init__, "__defaults__", ("", LONG_S))
    CALLS.clear()

    async def asked(words: str) -> str:
        assert loud.graph is not None
        rules = StagePlan(cache=CachePlan(tiers=("memory", "redis")))
        async with Engine() as engine:
            await engine.open(loud, Plan(graph=loud.graph.hash, stages={"shout": rules}))
            return str((await engine.run(loud.bind(words))).value)

    assert [asyncio.run(asked("a")) for _ in range(2)] == ["A", "A"]
    assert CALLS == ["a"]
    server.kill()
    assert asyncio.run(asked("a")) == "A"
    assert CALLS == ["a", "a"]
