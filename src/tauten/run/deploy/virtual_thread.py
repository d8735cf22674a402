"""What stands for a replica's thread in virtual time: it runs batches one after the other, and never sleeps."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from tauten.clock import Clock
from tauten.run.deploy.job import Job


class Runs(Protocol):
    """The replica, as its virtual thread sees it."""

    backend: Any
    closed: bool

    def begins(self, batch: list[Job]) -> bool: ...

    def run(self, batch: list[Job]) -> bool: ...

    def staying(self, part: list[Job]) -> list[Job]: ...

    def judged(
        self, part: list[Job], results: Any, started: float, ended: float, parts: list[list[Job]]
    ) -> bool: ...

    def finished(self, batch: list[Job], dead: bool) -> None: ...

    def reopened(self) -> bool: ...


class VirtualThread:
    """Callbacks only: a task for each batch would cost as much as all else that a batch needs.

    A synthetic backend says how long a batch would take (`duration`), or takes it beside others and calls back
    (`spend`); any other takes no time.
    """

    __slots__ = ("_batch", "_clock", "_loop", "_parts", "_quiet", "_replica", "_retry_s", "_waiting", "busy")

    def __init__(self, replica: Runs, clock: Clock, loop: asyncio.AbstractEventLoop, retry_s: float) -> None:
        self.busy = False
        self._replica = replica
        self._clock = clock
        self._loop = loop
        self._retry_s = retry_s  # between looks whether a backend that died can be opened
        self._waiting: deque[list[Job]] = deque()
        self._batch: list[Job] = []
        self._parts: list[list[Job]] = []  # of the batch, that have not run
        self._quiet: asyncio.Future[None] | None = None

    def put(self, batch: list[Job]) -> None:
        self._waiting.append(batch)
        if not self.busy:
            self.busy = True
            self._loop.call_soon(self._next)

    async def quiet(self) -> None:
        """Wait until it has nothing more to do."""
        if self.busy:
            self._quiet = self._quiet or self._loop.create_future()
            await self._quiet

    def _next(self) -> None:
        replica = self._replica
        while self._waiting:
            self._batch = batch = self._waiting.popleft()
            if not replica.begins(batch):
                continue
            backend = replica.backend
            if hasattr(backend, "spend") or hasattr(backend, "duration"):
                self._parts = [batch]
                self._part()
                return
            dead = replica.run(batch)
            replica.finished(batch, dead)
            if dead:
                self._reopen()
                return
        self.busy = False
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _part(self) -> None:
        """Begin the next part of the batch: it has several once it failed as a whole."""
        while self._parts:
            part = self._replica.staying(self._parts.pop())
            if part:
                backend, items = self._replica.backend, [job.item for job in part]
                over: Callable[[], None] = partial(self._over, part, items, self._clock())
                if hasattr(backend, "spend"):
                    backend.spend(items, over)
                else:
                    self._loop.call_later(backend.duration(items), over)
                return
        self._replica.finished(self._batch, False)
        self._next()

    def _over(self, part: list[Job], items: list[Any], started: float) -> None:
        results: Any
        try:
            results = self._replica.backend.answer(items)
        except Exception as error:  # noqa: BLE001  # each member's task raises it
            results = error
        if self._replica.judged(part, results, started, self._clock(), self._parts):
            self._replica.finished(self._batch, True)
            self._reopen()
        else:
            self._part()

    def _reopen(self) -> None:
        if self._replica.closed or self._replica.reopened():
            self._next()
        else:
            self._loop.call_later(self._retry_s, self._reopen)
