"""An exact cache on a Redis or Valkey server, shared by machines, and never in the way.

A look waits for as long as its budget says; past that it is a miss and the step works. A server that is down is a miss
at once: after three failures nobody asks it but one probe at a time, behind the requests. Where the server is, the
machine says (`$TAUTEN_REDIS`), never a plan; without that the tier is empty.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable
from typing import Any, ClassVar

import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tauten.clock import Clock
from tauten.errors import MachineError, Unavailable
from tauten.run.caching.breaker import Breaker
from tauten.run.caching.encoding import Damaged, decoded, encoded, secret
from tauten.run.caching.holding import NotKept
from tauten.run.contracts import Holdings, Kept, Sought
from tauten.run.workers import in_thread

log = logging.getLogger("tauten.run.caches.redis")

BUDGET_S = 0.005  # of a look: a server on this network answers in 0.2 to 1 ms; later than this it has trouble
PATIENCE_S = 1.0  # of a connection, and of what goes on behind: longer is away
CONNECTIONS = 32  # at once: further looks wait for one, as long as their budgets last
VALUE_BYTES = 8_000_000  # of one entry: the server sends it whole, and all others wait so long
LONG_BYTES = 1 << 18  # encoded in a thread: on the loop, that would hold others up for a millisecond
LIVES_S = 7 * 86_400.0  # the longest: the server's own bound may be none, and nobody tidies up there
SPARE_S = 300.0  # that a label knows of a result after its end: clocks of machines differ
FORGET_S = 60.0  # of what somebody wants forgotten: millions of results
AT_ONCE = 500  # keys of one command that deletes
PREFIX = b"tauten:1:"  # the 1 is that of the format


def address() -> str:
    """Where the server of this machine is; empty where there is none."""
    return os.environ.get("TAUTEN_REDIS", "")


class Redis:
    """A tier behind a network, of one event loop."""

    name: ClassVar[str] = "redis"
    exact: ClassVar[bool] = True

    def __init__(
        self, size_bytes: int, where: str = "", budget_s: float = BUDGET_S, *, wall: Clock = time.time
    ) -> None:
        self.where = where or address()
        self.budget_s = budget_s
        self._wall = wall
        self.shared = ("redis", self.where)
        self.events = {"late": 0, "failed": 0, "away": 0, "damaged": 0, "not_kept": 0}
        self._refused = 0
        self._secret = secret()
        self._client: Any = _client(self.where) if self.where else None  # which connects when it is asked
        self._breaker: Breaker | None = None
        self._under_way: set[asyncio.Future[Any]] = set()
        if not self.where:
            log.warning("a plan wants the tier `redis`, and $TAUTEN_REDIS does not say where: it stays empty")

    async def get(self, sought: Sought) -> Kept | None:
        if not self._asks():
            self.events["away"] += 1
            return None
        data = await self._within(self._client.get(PREFIX + sought.key))
        return None if data is None else self._read(sought.key, data)

    async def put(self, sought: Sought, kept: Kept) -> bool:
        if not self._asks():
            self.events["away"] += 1
            return False
        data = await self._encoded(sought.key, kept)
        if data is None or len(data) > VALUE_BYTES:
            self._refused += 1
            return False
        return await self._behind(self._write(sought.key, data, kept)) is not None

    def resize(self, size_bytes: int) -> None:
        """The server has a bound of its own (`maxmemory`)."""

    def holdings(self) -> Holdings:
        """What the server holds it says itself, to who asks it."""
        return Holdings(0, 0, VALUE_BYTES, 0, self._refused)

    async def clear(self) -> None:
        """Raises Unavailable where the server does not answer: it will be back, and with it what it holds."""
        if self.where:
            await self._surely(self._clear())

    async def forget(self, label: str) -> int:
        """As `clear`."""
        return int(await self._surely(self._forget(label))) if self.where else 0

    async def close(self) -> None:
        """Close the connections; a call after that opens new ones."""
        mine, self._client = self._client, None
        for each in self._under_way:
            each.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)
        if mine is not None:
            await mine.aclose()

    # -- asking -------------------------------------------------------------------------------------------

    def _asks(self) -> bool:
        """Whether the server may be asked now; a probe goes out where its pause is over."""
        if not self.where:
            return False
        self._reached()
        if self._breaker is None:
            self._breaker = Breaker(asyncio.get_running_loop().time)
        if self._breaker.probes():
            self._note(asyncio.ensure_future(self._behind(self._client.ping())))
        return self._breaker.closed

    async def _within(self, asked: Awaitable[Any]) -> Any:
        """Its answer within the budget, or None. What is late goes on behind, so that its connection stays good."""
        task = asyncio.ensure_future(asked)
        self._note(task)
        try:
            done, _ = await asyncio.wait([task], timeout=self.budget_s)
        except asyncio.CancelledError:
            task.add_done_callback(_looked_at)
            raise
        if done:
            return self._ended(task)
        self.events["late"] += 1
        self._failed()
        task.add_done_callback(_looked_at)
        return None

    async def _behind(self, asked: Awaitable[Any]) -> Any:
        """Its answer, or None where it fails."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await asked
        except (client.RedisError, OSError, TimeoutError) as error:
            self._fails(error)
            return None
        self._worked()
        return answer

    async def _surely(self, asked: Awaitable[Any]) -> Any:
        """Its answer, also where the server seemed away; raises Unavailable."""
        try:
            async with asyncio.timeout(FORGET_S):
                answer = await asked
        except (client.RedisError, OSError, TimeoutError) as error:
            self._fails(error)
            raise Unavailable(
                "the cache on the Redis server does not answer, and may still hold what is to be forgotten",
                help="forget it again when the server is back; the other tiers have forgotten it",
            ) from error
        self._worked()
        return answer

    def _ended(self, task: asyncio.Future[Any]) -> Any:
        """What a look gave; None where it failed."""
        if task.cancelled():
            return None
        error = task.exception()
        if error is None:
            self._worked()
            return task.result()
        if not isinstance(error, client.RedisError | OSError | TimeoutError):
            raise error
        self._fails(error)
        return None

    def _fails(self, error: BaseException) -> None:
        if not self.events["failed"]:
            log.warning("the cache on the Redis server does not answer, results are computed: %s", error)
        self.events["failed"] += 1
        self._failed()

    def _failed(self) -> None:
        if self._breaker is not None:
            self._breaker.failed()

    def _worked(self) -> None:
        if self._breaker is not None:
            self._breaker.worked()

    def _note(self, task: asyncio.Future[Any]) -> None:
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    # -- what is said to the server -----------------------------------------------------------------------

    def _read(self, key: bytes, data: bytes) -> Kept | None:
        try:
            return decoded(key, data, self._secret)
        except Damaged:
            self.events["damaged"] += 1
            return None

    async def _encoded(self, key: bytes, kept: Kept) -> bytes | None:
        try:
            if kept.size_bytes > LONG_BYTES:
                return await in_thread(encoded, key, kept, self._secret)
            return encoded(key, kept, self._secret)
        except NotKept:
            self.events["not_kept"] += 1
            return None

    async def _write(self, key: bytes, data: bytes, kept: Kept) -> bool:
        lives_s, now = min(kept.lives_s or LIVES_S, LIVES_S), self._wall()
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.set(PREFIX + key, data, px=max(1, int(1e3 * lives_s)))
            for label in map(_of, kept.labels):
                pipe.zremrangebyscore(label, "-inf", now)  # those whose results have gone
                pipe.zadd(label, {key: now + lives_s + SPARE_S})
                pipe.pexpire(label, int(1e3 * (LIVES_S + SPARE_S)))
            await pipe.execute()
        return True

    def _reached(self) -> Any:
        """The client, opened anew where it was closed."""
        if self._client is None:
            self._client = _client(self.where)
        return self._client

    async def _forget(self, label: str) -> int:
        """A few at a time, so that what was done stays done."""
        asked, name = self._reached(), _of(label)
        left, gone = await asked.zcard(name), 0
        while left > 0 and (keys := await asked.zrange(name, 0, AT_ONCE - 1)):
            async with asked.pipeline(transaction=False) as pipe:
                pipe.unlink(*(PREFIX + key for key in keys))
                pipe.zrem(name, *keys)
                gone += (await pipe.execute())[0]
            left -= len(keys)
        return gone

    async def _clear(self) -> int:
        asked, found, gone = self._reached(), list[bytes](), 0
        async for key in asked.scan_iter(match=PREFIX + b"*", count=AT_ONCE):
            found.append(key)
            if len(found) == AT_ONCE:
                gone += await asked.unlink(*found)
                found.clear()
        return gone + (await asked.unlink(*found) if found else 0)


def _of(label: str) -> bytes:
    """The sorted set of the keys that carry a label, by when they have gone."""
    return PREFIX + b"labelled:" + label.encode("utf-8", "surrogatepass")


def _looked_at(task: asyncio.Future[Any]) -> None:
    """A late answer is not waited for; that it failed was counted when it was late."""
    if not task.cancelled():
        task.exception()


def _client(where: str) -> Any:
    """Raises MachineError where the address is none."""
    try:
        pool = client.BlockingConnectionPool.from_url(
            where,
            timeout=PATIENCE_S,
            socket_timeout=PATIENCE_S,
            socket_connect_timeout=PATIENCE_S,
            max_connections=CONNECTIONS,
            retry=Retry(NoBackoff(), 0),  # the step that works is the retry
            protocol=2,
        )
        return client.Redis.from_pool(pool)
    except ValueError:  # the address may hold a password: it is not repeated
        raise MachineError(
            "$TAUTEN_REDIS is no address of a Redis server",
            help="write redis://HOST:6379/0, rediss://... for TLS, or unix:///PATH",
            code="E304",
        ) from None
