"""Work that nobody waits for: results computed anew, hits verified, results put into tiers that are far away.

All of it is bounded: what is too much is left out and counted, never queued without end. One key is worked at once.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

log = logging.getLogger("tauten.run.caching")

AT_ONCE = 8  # computations: behind means that they may wait, and steps in front want the processors
PUTS = 256  # that wait for a far tier: a burst; a tier that is slower than that for long is no help
FLUSH_S = 1.0  # at the end, for puts that wait: a disk writes them all in that time


class Behind:
    """Tasks behind the requests of one event loop."""

    def __init__(self) -> None:
        self.failed = self.left_out = self.done = 0
        self._tasks: dict[Any, asyncio.Task[None]] = {}
        self._puts: asyncio.Queue[Callable[[], Awaitable[Any]]] | None = None
        self._writer: asyncio.Task[None] | None = None

    def compute(self, key: Any, work: Callable[[], Awaitable[Any]]) -> bool:
        """Begin it, unless the same is under way or there is too much; says whether it begins."""
        if key in self._tasks:
            return False
        if len(self._tasks) >= AT_ONCE:
            self.left_out += 1
            return False
        self._tasks[key] = asyncio.ensure_future(self._compute(key, work))
        return True

    async def _compute(self, key: Any, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            await work()
            self.done += 1
        except Exception as error:  # noqa: BLE001  # nobody waits: what was kept stays, and the failure is counted
            self.failed += 1
            log.info("a result could not be computed behind its request: %s", error)
        finally:
            del self._tasks[key]

    def put(self, work: Callable[[], Awaitable[Any]]) -> bool:
        """Put something into a far tier when its turn comes; says whether there was room to wait."""
        if self._puts is None:
            self._puts = asyncio.Queue(PUTS)
        if self._puts.full():
            self.left_out += 1
            return False
        self._puts.put_nowait(work)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.ensure_future(self._write(self._puts))
        return True

    async def _write(self, puts: asyncio.Queue[Callable[[], Awaitable[Any]]]) -> None:
        """Ends when nothing waits: an engine that is idle has no task of ours."""
        while not puts.empty():
            work = puts.get_nowait()
            try:
                await work()
            except Exception as error:  # noqa: BLE001  # a tier that raises in `put` loses that result, no more
                self.failed += 1
                log.info("a result could not be put into a tier: %s", error)

    async def written(self) -> None:
        """Wait until what waits to be put is; not for long, where ever more comes or a tier hangs."""
        if self._writer is not None and not self._writer.done():
            await asyncio.wait([self._writer], timeout=FLUSH_S)

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while tasks := self._under_way():
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """End the computations, and let what waits be put."""
        for task in self._tasks.values():
            task.cancel()
        tasks = self._under_way()
        if tasks:
            await asyncio.wait(tasks, timeout=FLUSH_S)
        if self._writer is not None and not self._writer.done():
            self._writer.cancel()
            await asyncio.wait([self._writer])

    def _under_way(self) -> list[asyncio.Task[None]]:
        writer = [self._writer] if self._writer is not None and not self._writer.done() else []
        return [*self._tasks.values(), *writer]
