"""One model's queue, batches and replicas; every request goes through here to reach a backend.

The queue is bounded, fair and ordered by slack. When a replica is idle, `scheduling.release` decides
whether the waiting items of one group leave now or are held for others that are likely to come. Streams
of slot backends go through `slots_deployment`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tauten.clock import Clock
from tauten.errors import TautenError, Unavailable
from tauten.run.contracts import BatchBackend
from tauten.run.estimates import Arrivals, Durations
from tauten.run.queueing import QUEUE_BOUND, ZOMBIE_S, Queued, View
from tauten.run.replica import REOPEN_S, Job, Replica
from tauten.run.request import Request
from tauten.run.scheduling import Queue, Release, Wait, fit, queue_wait, release

LOOK_PAST = 64  # items of other groups that are passed over for one batch: a bound on the work of a release


class Deployment(Queued):
    """A batch backend's queue and replicas.

    `wait` is how long a batch may be held: by slack, never ("off"), or a fixed number of milliseconds.
    `pure` says that running an item twice does no harm: failed batches are bisected, and what a dead
    replica held is run once more. `cpus` gives each replica its processors.
    """

    kind = "batch"

    def __init__(
        self,
        make: Callable[[], BatchBackend],
        *,
        label: str,
        clock: Clock,
        replicas: int = 1,
        max_batch: int = 1,
        bound: int = QUEUE_BOUND,
        wait: Wait = "slack",
        max_weight: float = math.inf,
        cpus: Sequence[frozenset[int]] = (),
        pure: bool = True,
    ) -> None:
        super().__init__(label, clock, bound)
        self.make = make
        self.max_batch = max_batch
        self.max_weight = max_weight
        self.wait = wait
        self.pure = pure
        self.durations = Durations()
        self.arrivals = Arrivals()
        self._count = replicas
        self._cpus = cpus
        self._replicas: list[Replica] = []
        self._idle: list[Replica] = []
        self._opening: asyncio.Future[None] | None = None
        self._alive = 0
        self._armed = False
        self._free_at = 0.0  # when the first replica is predicted to be idle
        self._hold: Release | None = None  # why the waiting batch has not left, and until when
        self._hold_since = 0.0
        self._hold_due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._groups: dict[Any, int] = {}  # waiting items by group
        self._gap_s = math.inf  # between members of maps as they come
        self._prepares = False
        self._sizes: Sequence[int] = ()
        self._backend: BatchBackend | None = None

    async def open(self) -> None:
        """Load every replica; raises what the backend raises, and leaves nothing half open."""
        cpus = self._cpus
        self._opening = asyncio.get_running_loop().create_future()
        self._replicas = [
            Replica(self, index, cpus[index % len(cpus)] if cpus else frozenset())
            for index in range(self._count)
        ]
        try:
            for replica in self._replicas:
                replica.open()
            await self._opening
        except BaseException:
            await self.close()
            raise
        first = self._replicas[0]
        self._backend = first.backend
        self._prepares = self.max_batch > 1 and first.prepares
        self._sizes = tuple(getattr(first.backend, "sizes", ()))

    def opened(self, replica: Replica, error: BaseException | None) -> None:
        """A replica was opened, or opened anew, or could not be; called on the loop."""
        opening = self._opening
        if opening is not None and not opening.done():
            if error is not None:
                opening.set_exception(error)
                return
            self._alive += 1
            self._idle.append(replica)
            if self._alive == self._count:
                opening.set_result(None)
            return
        if self.closed or error is not None:
            return
        self.restarts += 1
        self._alive += 1
        replica.dead = False
        self._backend = replica.backend
        if not replica.held:
            self._idle.append(replica)
            self._arm()

    @property
    def properties(self) -> Mapping[str, str]:
        """What is really in force (precision, threads, device)."""
        return self._replicas[0].backend.properties() if self._replicas else {}

    # -- a request's way -------------------------------------------------------------------------------------

    async def infer(self, request: Request, step: str, item: Any, cause: str = "compute") -> Any:
        """Run one item; records queue, batch_wait, `cause` and loop rows.

        Raises Overloaded when the queue is full or the deadline could not be met, and what the backend
        raises.
        """
        backend = self._backend
        if backend is None or not self._alive or self.closed:
            raise self._not_there()
        now = self.clock()
        if self.queue.live >= self.bound:  # those that leave at the end of this turn hold no place
            self._check_room(request, self.bound + len(self._idle) * self.max_batch)
        job = Job(item, backend.weight(item), request, now)
        if request.deadline != _NEVER:
            self._check_deadline(request, step, job, now)
        if self.max_batch > 1:
            self._enter_group(request, step, job, backend.group(item), now)
        elif self._idle and not self._armed:
            self._arm()
        self.queue.push(job)
        try:
            await job.future
        except BaseException:
            self._left(job)
            raise
        trace = request.trace
        rows, started, ended = trace.rows, job.started, job.ended
        if job.held:
            rows.append((step, "queue", job.queued, job.held))
            rows.append((step, "batch_wait", job.held, started))
        else:
            rows.append((step, "queue", job.queued, started))
        rows.append((step, cause, started, ended))
        rows.append((step, "loop", ended, self.clock()))
        trace.spent.append((step, "replica_seconds", job.seconds))
        trace.batches.append((step, job.size, job.reason))
        if job.error is not None:
            raise self.as_error(job.error)
        return job.result

    def _not_there(self) -> TautenError:
        if self.closed or self._backend is None:
            return self.gone()
        return Unavailable(
            f"{self.label}: no replica is alive", help="retry later", retry_after_s=REOPEN_S[2]
        )

    def _check_deadline(self, request: Request, step: str, job: Job, now: float) -> None:
        """An item with a deadline: ordered by what is left of it, refused when that is too little."""
        if request.after:
            job.after = request.after.get(step.partition("[")[0] if "[" in step else step, 0.0)
        durations = self.durations
        own_s = durations.fixed_s + durations.slope_s * job.weight
        job.due = job.deadline - own_s - job.after
        if now - durations.last >= durations.stale_s:
            return
        ends = now + own_s * durations.high
        if not self._idle and self._free_at > now:
            ends += self._free_at - now
        ahead = self.queue.live
        if ahead >= self.max_batch:
            ends += ahead // self.max_batch * durations.expected(self.max_batch) / self._alive
        if ends + job.after > job.deadline:
            self._check_time(request, job, own_s * durations.high, now)
        elif job.due > self._latest:
            self._latest = job.due

    def _enter_group(self, request: Request, step: str, job: Job, group: Any, now: float) -> None:
        """An item that may share a batch; wakes the release when it changes what was decided."""
        job.group = group
        groups = self._groups
        groups[group] = groups.get(group, 0) + 1
        if self.wait == "slack":
            self.arrivals.came(now)
        if request.families:
            self._join(request, step, job, now)
        if self._armed:
            return
        if self._idle:
            hold = self._hold
            if (
                hold is None
                or self.queue.live + 1 >= hold.target
                or job.due < self._hold_due
                or len(groups) > 1
                or job.family is not None
            ):
                self._arm()
        elif self._prepares and self.queue.live + 1 >= self.max_batch:
            self._arm()

    def _join(self, request: Request, step: str, job: Job, now: float) -> None:
        """Note that a member of a map came."""
        family = request.families.get(step.partition("[")[0] if "[" in step else step)
        if family is None or family.active < 2:
            return
        job.family = family
        family.waiting[self] = family.waiting.get(self, 0) + 1
        if family.last >= 0.0:
            gap_s = now - family.last
            self._gap_s = gap_s if self._gap_s == math.inf else self._gap_s + (gap_s - self._gap_s) / 4
        family.last = now

    def _left(self, job: Job) -> None:
        """Its request ended: a waiting item goes at once, the result of a running one is thrown away."""
        now = self.clock()
        if job.taken:
            job.left = now
            return
        if now >= job.deadline:
            self.expired += 1
        self._uncount(job)
        self.queue.left()

    def _uncount(self, job: Job) -> None:
        """It waits no more."""
        if self.max_batch > 1:
            groups = self._groups
            groups[job.group] -= 1
            if not groups[job.group]:
                del groups[job.group]
            if job.family is not None:
                job.family.waiting[self] -= 1

    def _drop(self, entry: Any, error: Any) -> None:
        self._uncount(entry)
        super()._drop(entry, error)

    # -- batches -----------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Decide at the end of this turn of the loop, so that those who come together leave together."""
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._release)

    def _release(self) -> None:
        self._armed = False
        if self.max_batch == 1:
            self._release_singly()
            return
        while self._idle:
            head = self.queue.head()
            if head is None:
                self._unhold()
                break
            batch = self._decide(head)
            if batch is None:
                return
            if batch:
                self._start(self._idle.pop(), batch)
        if self._prepares and self.queue.live >= self.max_batch:
            self._feed_ahead()

    def _release_singly(self) -> None:
        queue, idle = self.queue, self._idle
        while idle and (job := queue.pop()) is not None:
            now = self.clock()
            if job.due < now and self.durations.fresh(now) and self._is_hopeless(job, now):
                self._expire(job, now)
                continue
            job.taken = True
            job.reason = "full"
            self._start(idle.pop(), [job])

    def _decide(self, head: Job) -> list[Job] | None:
        """The next batch, or None where it is held."""
        now = self.clock()
        found = self._decision(head, now)
        if not found.members:
            self._keep(found, head, now)
            return None
        held = self._hold_since if self._hold is not None else 0.0
        if self._hold is not None:
            if found.reason not in ("slack", "drain"):
                self.arrivals.held(found.members >= self._hold.target or found.reason == "full")
            self._unhold()
        size = found.members
        if self._sizes:
            size = min(size, fit(size, self._sizes, self.durations.expected)[0])
        return self._gather(size, found.reason, held)

    def _decision(self, head: Job, now: float) -> Release:
        count = self._groups.get(head.group, 1)
        most = self.max_batch
        if self.max_weight < math.inf:
            most = max(1, min(most, int(self.max_weight / head.cost)))
        if count >= most:
            return Release(most, "full")
        if self.wait == "off":
            return Release(count, "off")
        if self.wait == "slack" and self.durations.expected(most) < _NO_HOLD_S:
            return Release(count, "alone" if count == 1 else "gain")
        family = head.family
        due = head.deadline - head.after
        state = Queue(
            count,
            most,
            due,
            due - head.queued,
            self._hold_since if self._hold is not None else now,
            self.queue.live - count,
            family.waiting[self] if family is not None else 0,
            max(0, family.missing(self)) if family is not None else 0,
            self._gap_s,
        )
        durations = self.durations
        found = release(
            now,
            state,
            durations.expected,
            durations.high_of,
            self.arrivals.forecast(now),
            self.wait,
            draining=self.closed,
        )
        if found.members or self.wait != "slack" or self._hold is not None or self.arrivals.may_hold():
            return found
        return Release(count, "gain")

    def _keep(self, found: Release, head: Job, now: float) -> None:
        """Hold the batch: until enough came, or a timer that may be early and then looks again."""
        if self._hold is None:
            self._hold_since = now
        self._hold = found
        self._hold_due = head.due
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(loop.time() + max(0.0, found.wake_at - now), self._awake)

    def _unhold(self) -> None:
        self._hold = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _awake(self) -> None:
        self._timer = None
        if self._idle:
            self._release()

    def _gather(self, size: int, reason: str, held: float = 0.0) -> list[Job]:
        """The most urgent item and waiting items of its group, up to a size and a weight."""
        batch: list[Job] = []
        passed: list[Job] = []
        weight = 0.0
        queue, now = self.queue, self.clock()
        known = self.durations.fresh(now)
        while len(batch) < size and len(passed) < LOOK_PAST:
            job = queue.pop()
            if job is None:
                break
            if job.due < now and known and self._is_hopeless(job, now):
                self._expire(job, now)
            elif batch and (job.group != batch[0].group or weight + job.weight > self.max_weight):
                passed.append(job)
            else:
                job.taken = True
                weight += job.weight
                batch.append(job)
                self._uncount(job)
        for job in passed:
            queue.restore(job)
        for job in batch:
            job.size, job.reason = len(batch), reason
            if held:
                job.held = max(held, job.queued)
        return batch

    def _is_hopeless(self, job: Job, now: float) -> bool:
        return job.deadline < now + job.after + self.durations.low_of(job.weight)

    def _expire(self, job: Job, now: float) -> None:
        """Not even a quick run could be in time: what it would cost is given to others."""
        self.expired += 1
        self._uncount(job)
        job.fail(self._hopeless(self.durations.low_of(job.weight) + job.after, job.deadline - now))

    def _start(self, replica: Replica, batch: list[Job]) -> None:
        size, reason = len(batch), batch[0].reason
        self.batches += 1
        self.batch_sizes[size] = self.batch_sizes.get(size, 0) + 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        weight = batch[0].weight if size == 1 else sum([job.weight for job in batch])
        durations = self.durations
        now = self.clock()
        replica.until = max(replica.until, now) + durations.fixed_s + durations.slope_s * weight
        self._free_at = replica.until
        if len(self._replicas) > 1 and not self._idle:
            self._free_at = min([each.until for each in self._replicas])
        replica.start(batch)

    def _feed_ahead(self) -> None:
        """Give a busy replica a full batch to prepare while it runs another."""
        for replica in self._replicas:
            if len(replica.held) != 1 or replica.dead:
                continue
            head = self.queue.head()
            if head is None or self._groups.get(head.group, 0) < self.max_batch:
                return
            if batch := self._gather(self.max_batch, "full"):
                self._start(replica, batch)

    def finished(self, replica: Replica, batch: list[Job]) -> None:
        """A replica has done a batch; called on the loop."""
        now = self.clock()
        first, size = batch[0], len(batch)
        durations = self.durations
        if replica.bisected:
            self.bisected += replica.bisected
            replica.bisected = 0
        elif first.error is None and (now - durations.last > _LEARN_S or durations.runs < _LEARN_ALL):
            weight = first.weight if size == 1 else sum([job.weight for job in batch])
            durations.observe(size, weight or size, first.ended - first.started, now)
        if replica.dead:
            self._lost(batch)
        elif not replica.held and not self.closed:
            replica.until = now
            self._idle.append(replica)
        self.done += size
        if self.max_batch > 1:
            self.queue.quantum = sum([job.cost for job in batch])
            if self.wait == "slack":
                self.arrivals.went(now, size)
        for job in batch:
            if job.taken:
                job.settle()
        if self.queue.live:
            self._arm()

    def _lost(self, batch: list[Job]) -> None:
        """The backend died: what may run twice and has the time goes back into the queue, once."""
        self._alive -= 1
        now = self.clock()
        for job in batch:
            again = (
                getattr(job.error, "dead", False) and self.pure and not job.retried and not job.future.done()
            )
            if (
                again
                and not self.closed
                and now + self.durations.low_of(job.weight) + job.after < job.deadline
            ):
                job.retried, job.taken, job.error = True, False, None
                self.retried += 1
                if self.max_batch > 1:
                    self._groups[job.group] = self._groups.get(job.group, 0) + 1
                    job.family = None
                self.queue.push(job)

    # -- predictions -------------------------------------------------------------------------------------------

    def _known(self, now: float) -> bool:
        return self.durations.fresh(now)

    def _wait_for(self, ahead: int, now: float) -> float:
        first_free_s = 0.0
        if not self._idle:
            first_free_s = max(0.0, self._free_at - now)
        most = self.max_batch
        return queue_wait(ahead, most, max(self._alive, 1), self.durations.expected(most), first_free_s)

    def zombies(self) -> int:
        """Members of running batches whose request ended more than 100 ms ago."""
        late = self.clock() - ZOMBIE_S
        held = [job for replica in self._replicas for batch in replica.held for job in batch]
        return sum(1 for job in held if job.left and job.left < late)

    def view(self) -> View:
        """What metrics show of it."""
        running = sum(len(batch) for replica in self._replicas for batch in replica.held)
        now = self.clock()
        return self._view(
            running,
            self._alive,
            len(self._idle),
            self.durations.quantiles_ms(),
            lambda: self.wait_s(0, now),
        )

    async def close(self) -> None:
        """Stop the replicas after what they hold, and fail what still waits; may be called twice."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        for job in list(self.queue):
            self._drop(job, self.gone())
        replicas, self._replicas, self._idle = self._replicas, [], []
        for replica in replicas:
            replica.closed = True
            if replica.simulating is not None:
                await asyncio.wait([replica.simulating])
            replica.close()
        for replica in replicas:
            while replica.alive:
                await asyncio.sleep(0.005)  # the thread frees the model, then ends


_NEVER = math.inf
_LEARN_S = 0.001  # between runs that teach: a model of less runs often enough
_LEARN_ALL = 64  # of the first runs all do
_NO_HOLD_S = 0.0003  # a full batch of less is not worth a timer that may be a millisecond late
