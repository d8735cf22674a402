"""One model's queue, batches and replicas; every request goes through here to reach a backend.

The queue is bounded and ordered by deadline. A batch deployment gathers waiting items of one group up to
the plan's batch, and gives them to an idle replica, each in a thread of its own; an idle replica never
waits for company. A slot deployment hands streams to an engine that batches inside.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from queue import SimpleQueue
from typing import Any

from tauten.clock import Clock, VirtualLoop
from tauten.errors import BackendError, Overloaded, TautenError
from tauten.run.contracts import BatchBackend, Chunk, SlotBackend
from tauten.run.request import Request
from tauten.run.workers import wake

QUEUE_BOUND = 1024  # requests: at 10 ms each a wait of 10 s, beyond any deadline worth keeping


class _Job:
    """One item on its way through a batch deployment."""

    __slots__ = (
        "ended",
        "error",
        "future",
        "group",
        "item",
        "queued",
        "result",
        "share",
        "started",
        "taken",
        "weight",
    )

    def __init__(self, item: Any, group: Hashable, weight: float, queued: float) -> None:
        self.item = item
        self.group = group
        self.weight = weight
        self.queued = queued
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started = self.ended = queued
        self.share = 1.0  # of the batch's cost, by weight
        self.taken = False  # by a replica
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Replica:
    """One instance of a backend and the thread it lives in."""

    def __init__(self, deployment: Deployment, index: int) -> None:
        self.deployment = deployment
        self.backend: BatchBackend = deployment.make()
        self.batches: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self.loop = asyncio.get_running_loop()
        self.virtual = isinstance(self.loop, VirtualLoop)
        self.simulating: asyncio.Task[None] | None = None
        self.opened: asyncio.Future[None] = self.loop.create_future()
        name = f"tauten-{deployment.label}-{index}"
        self.thread = threading.Thread(target=self._serve, name=name, daemon=True)

    async def open(self) -> None:
        if self.virtual:
            self.backend.open()
            return
        self.thread.start()
        await self.opened

    def _serve(self) -> None:
        try:
            self.backend.open()
        except BaseException as error:  # noqa: BLE001  # handed to the task that opens the plan
            failure = error
            wake(self.loop, lambda: self._opened(failure))
            return
        wake(self.loop, lambda: self._opened(None))
        while (batch := self.batches.get()) is not None:
            self._run(batch)
            done = batch
            wake(self.loop, lambda jobs=done: self.deployment.finished(self, jobs))  # type: ignore[misc]
        self.backend.close()

    def _opened(self, error: BaseException | None) -> None:
        if self.opened.done():
            return
        if error is None:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(error)

    def _run(self, batch: list[_Job]) -> None:
        clock = self.deployment.clock
        started = clock()
        try:
            results = self.backend.run([job.item for job in batch])
        except BaseException as error:  # noqa: BLE001  # each member's task raises it
            results = [error] * len(batch)
        _fill(batch, results, started, clock(), self.deployment.label)

    def start(self, batch: list[_Job]) -> None:
        if self.virtual:
            self.simulating = self.loop.create_task(self._simulate(batch))
        else:
            self.batches.put(batch)

    async def _simulate(self, batch: list[_Job]) -> None:
        """In virtual time a synthetic backend says how long it would take; any other takes no time."""
        backend: Any = self.backend
        if hasattr(backend, "duration"):
            items = [job.item for job in batch]
            started = self.deployment.clock()
            await asyncio.sleep(backend.duration(items))
            _fill(batch, backend.answer(items), started, self.deployment.clock(), self.deployment.label)
        else:
            self._run(batch)
        self.deployment.finished(self, batch)

    def close(self) -> None:
        if self.virtual:
            self.backend.close()
        else:
            self.batches.put(None)


def _fill(batch: list[_Job], results: Any, started: float, ended: float, label: str) -> None:
    """Give each member its result and its share of the batch."""
    total = sum(job.weight for job in batch) or 1.0
    if not isinstance(results, list | tuple) or len(results) != len(batch):
        seen = f"{len(results)} results" if isinstance(results, list | tuple) else type(results).__name__
        wrong = BackendError(f"{label}: a batch of {len(batch)} gave {seen}", help="one result per item")
        results = [wrong] * len(batch)
    for job, result in zip(batch, results, strict=True):
        job.started, job.ended, job.share = started, ended, job.weight / total
        if isinstance(result, BaseException):
            job.error = result
        else:
            job.result = result


class Deployment:
    """A batch backend's queue and replicas."""

    def __init__(
        self,
        make: Callable[[], BatchBackend],
        *,
        label: str,
        clock: Clock,
        replicas: int = 1,
        max_batch: int = 1,
        bound: int = QUEUE_BOUND,
    ) -> None:
        self.make = make
        self.label = label
        self.clock = clock
        self.max_batch = max_batch
        self.bound = bound
        self._count = replicas
        self._replicas: list[_Replica] = []
        self._idle: list[_Replica] = []
        self._queue: list[tuple[float, int, _Job]] = []
        self._order = itertools.count()
        self._armed = False
        self._waiting = 0  # jobs in the queue whose requests have not left
        self._closed = False
        self.batches = 0

    async def open(self) -> None:
        """Load every replica; raises what the backend raises, and leaves nothing half open."""
        self._replicas = [_Replica(self, index) for index in range(self._count)]
        try:
            for replica in self._replicas:
                await replica.open()
        except BaseException:
            await self.close()
            raise
        self._idle = list(self._replicas)

    @property
    def properties(self) -> Mapping[str, str]:
        """What is really in force (precision, threads, device)."""
        return self._replicas[0].backend.properties() if self._replicas else {}

    @property
    def waiting(self) -> int:
        return self._waiting

    async def infer(self, request: Request, step: str, item: Any, cause: str = "compute") -> Any:
        """Run one item; records queue, `cause` and loop rows. Raises Overloaded when the queue is full."""
        leaving = len(self._idle) * self.max_batch  # at the end of this turn of the loop
        if self._waiting >= self.bound + leaving:
            raise Overloaded(
                f"{self.label}: {self.bound} requests are waiting", help="retry later, or add replicas"
            )
        if self._closed or not self._replicas:
            raise self._gone()
        backend = self._replicas[0].backend
        job = _Job(
            item, backend.group(item) if self.max_batch > 1 else None, backend.weight(item), self.clock()
        )
        heapq.heappush(self._queue, (request.deadline, next(self._order), job))
        self._waiting += 1
        self._arm()
        try:
            await job.future
        except BaseException:
            if not job.taken:
                self._waiting -= 1
                self._forget()
            raise
        trace = request.trace
        trace.rows.append((step, "queue", job.queued, job.started))
        trace.rows.append((step, cause, job.started, job.ended))
        trace.rows.append((step, "loop", job.ended, self.clock()))
        trace.spent.append((step, "replica_seconds", (job.ended - job.started) * job.share))
        if job.error is not None:
            raise self._as_error(job.error)
        return job.result

    def _gone(self) -> BackendError:
        return BackendError(
            f"{self.label} is closed", help="its plan was retired; send the request again", code="E406"
        )

    def _forget(self) -> None:
        """Drop the jobs whose requests left, once they outnumber what may wait."""
        if len(self._queue) > 2 * (self._waiting + 64):  # 64: not worth a sweep
            self._queue = [entry for entry in self._queue if not entry[2].future.done()]
            heapq.heapify(self._queue)

    def _as_error(self, error: BaseException) -> BaseException:
        if isinstance(error, TautenError):
            return error
        failed = BackendError(
            f"{self.label}: {error.__class__.__name__}: {error}", help="see the chained error"
        )
        failed.__cause__ = error
        return failed

    def _arm(self) -> None:
        """Release at the end of this turn of the loop, so that siblings leave together."""
        if not self._armed and self._idle:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._release)

    def _release(self) -> None:
        self._armed = False
        while self._idle and (batch := self._next_batch()):
            self.batches += 1
            self._idle.pop().start(batch)

    def _next_batch(self) -> list[_Job]:
        """The most urgent item and, up to the batch's bound, waiting items of its group."""
        batch: list[_Job] = []
        passed: list[tuple[float, int, _Job]] = []
        while self._queue and len(batch) < self.max_batch:
            entry = heapq.heappop(self._queue)
            job = entry[2]
            if job.future.done():
                continue  # its request left
            if batch and job.group != batch[0].group:
                passed.append(entry)
            else:
                job.taken = True
                self._waiting -= 1
                batch.append(job)
        for entry in passed:
            heapq.heappush(self._queue, entry)
        return batch

    def finished(self, replica: _Replica, batch: list[_Job]) -> None:
        """A replica is idle again; called on the loop."""
        if not self._closed:
            self._idle.append(replica)
        for job in batch:
            job.settle()
        if self._queue:
            self._arm()

    async def close(self) -> None:
        """Stop the replicas after what they hold, and fail what still waits; may be called twice."""
        self._closed = True
        for _, _, job in self._queue:
            job.error = self._gone()
            job.settle()
        replicas, self._replicas, self._idle = self._replicas, [], []
        for replica in replicas:
            if replica.simulating is not None:
                await asyncio.wait([replica.simulating])
            replica.close()
        for replica in replicas:
            while replica.thread.is_alive():
                await asyncio.sleep(0.005)  # the thread frees the model, then ends


class SlotDeployment:
    """A slot backend's queue: at most `slots` streams run, the rest wait by deadline."""

    def __init__(self, backend: SlotBackend, *, label: str, clock: Clock, bound: int = QUEUE_BOUND) -> None:
        self.backend = backend
        self.label = label
        self.clock = clock
        self.bound = bound
        self._running = 0
        self._waiting = 0  # those in the queue who have not left
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    async def open(self) -> None:
        await self.backend.open()

    @property
    def properties(self) -> Mapping[str, str]:
        return self.backend.properties()

    @property
    def waiting(self) -> int:
        return self._waiting

    async def stream(self, request: Request, step: str, item: Mapping[str, Any]) -> AsyncIterator[Chunk]:
        """Yield a stream's chunks; records queue, prefill, tokens and loop rows and books the usage."""
        asked = self.clock()
        await self._enter(request)
        started = last = self.clock()
        rows = request.trace.rows
        rows.append((step, "queue", asked, started))
        first = True
        chunks = self.backend.start(item)
        try:
            async for chunk in chunks:
                seen = self.clock()
                made = min(max(chunk.at or seen, last), seen)
                rows.append((step, "prefill" if first else "tokens", last, made))
                rows.append((step, "loop", made, seen))
                last, first = made, False
                for unit, amount in chunk.usage.items():
                    if amount:
                        request.trace.spent.append((step, unit, amount))
                yield chunk
        finally:
            try:
                if hasattr(chunks, "aclose"):
                    await chunks.aclose()  # a reader that leaves stops the engine before its slot is given on
            finally:
                self._leave()

    async def _enter(self, request: Request) -> None:
        if self._running < self.backend.slots and not self._waiting:
            self._running += 1
            return
        if self._waiting >= self.bound:
            raise Overloaded(
                f"{self.label}: {self.bound} requests are waiting", help="retry later, or add slots"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (request.deadline, next(self._order), turn))
        self._waiting += 1
        try:
            await turn
            self._waiting -= 1
        except BaseException:
            self._waiting -= 1
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave()  # the turn came as the request left: pass it on
            raise

    def _leave(self) -> None:
        while self._queue:
            turn = heapq.heappop(self._queue)[2]
            if not turn.done():
                turn.set_result(None)  # the slot changes hands
                return
        self._running -= 1

    async def close(self) -> None:
        """Fail what waits for a slot, then stop the engine."""
        for _, _, turn in self._queue:
            if not turn.done():
                turn.set_exception(
                    BackendError(
                        f"{self.label} is closed",
                        help="its plan was retired; send the request again",
                        code="E406",
                    )
                )
        self._queue.clear()
        await self.backend.close()
