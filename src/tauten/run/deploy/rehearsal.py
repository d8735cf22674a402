"""What one replica ran while a plan warmed up, run by its others before they are given a request."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tauten.run.deploy.job import NOBODY, Job
from tauten.run.deploy.replica import Owner, Replica
from tauten.run.request import Request


class Rehearsal:
    """Stands in for a deployment towards replicas that are kept back: their runs are counted and learned from nowhere.

    Each is handed to `ready` when it has run all, or has died of it.
    """

    pure = False  # what fails as a whole is not looked into: the first replica has told

    def __init__(self, owner: Owner, kept: Sequence[Replica], ready: Callable[[Replica], None]) -> None:
        self.label, self.clock, self.make = owner.label, owner.clock, owner.make
        self._owner = owner
        self._kept = kept
        self._ready = ready
        self._ran: list[list[Any]] = []  # the items of each batch
        self._next = dict.fromkeys(kept, 0)  # batch of each replica
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(self, batch: Sequence[Job]) -> None:
        """Keep what is run, to be run again."""
        self._ran.append([job.item for job in batch])

    async def perform(self, *, all: bool = True) -> None:
        """Let each replica run all of it, side by side, or nothing."""
        self._ran = self._ran if all else []
        for replica in self._kept:
            replica.owner = self
            self._go_on(replica)
        try:
            await self._over
        finally:
            self._ran = []  # who still runs has no more to do

    def finished(self, replica: Replica, batch: list[Job]) -> None:
        self._go_on(replica)

    def opened(self, replica: Replica, error: BaseException | None) -> None:
        self._owner.opened(replica, error)

    def _go_on(self, replica: Replica) -> None:
        number = self._next[replica]
        if number < len(self._ran) and not replica.dead and not replica.closed:
            self._next[replica] = number + 1
            request, now = Request(self.clock), self.clock()
            replica.start([Job(item, 1.0, request, now, NOBODY) for item in self._ran[number]])
            return
        del self._next[replica]
        replica.owner = self._owner
        self._ready(replica)
        if not self._next and not self._over.done():
            self._over.set_result(None)
