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
from typing import TYPE_CHECKING, Any, Final

from tauten.errors import TautenError, Unavailable
from tauten.run.deploy.account import Account
from tauten.run.deploy.batching import Batching
from tauten.run.deploy.fair_queue import Waiter
from tauten.run.deploy.job import Job
from tauten.run.deploy.queueing import ZOMBIE_S, View
from tauten.run.deploy.rehearsal import Rehearsal
from tauten.run.deploy.replica import REOPEN_S, Replica
from tauten.run.deploy.scheduling import HALF, queue_wait
from tauten.run.request import Asked
from tauten.run.siblings import family_of
from tauten.run.trace import Trace
from tauten.run.visits import base_name

if TYPE_CHECKING:
    from tauten.run.usage.budgets import Hold


class Deployment(Batching):
    """A batch backend's queue and replicas.

    `wait` is how long a batch may be held: by slack, never ("off"), or a fixed number of milliseconds.
    `pure` says that running an item twice does no harm: failed batches are bisected, and what a dead
    replica held is run once more. `cpus` gives each replica its processors.
    """

    cause = "compute"  # of the time that a run takes
    _accounts = False  # its backend says what calls a run made elsewhere

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
        self._accounts = first.accounts
        if not getattr(first.backend, "local", True):
            self.cause = "remote"
        self._run_only(getattr(first.backend, "sizes", ()))
        self._prepares = self.max_batch > 1 and first.prepares

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

    def keep_back(self) -> None:
        """Let one replica work, and note what it runs, until `rehearse`."""
        kept, self._idle = self._idle[:-1], self._idle[-1:]
        for replica in kept:
            replica.kept, replica.until = True, math.inf
        if kept:
            self._rehearsal = Rehearsal(self, kept, self._joins)

    async def rehearse(self, *, all: bool = True) -> None:
        """Let the other replicas run what that one ran, or nothing of it; then they work, too."""
        rehearsal, self._rehearsal = self._rehearsal, None
        if rehearsal is not None:
            await rehearsal.perform(all=all)

    def finished(self, replica: Replica, batch: list[Job]) -> None:
        """As of all that batch; first those that waited are told what calls were made for them."""
        if self._accounts:
            for job in batch:
                job.tell()
        super().finished(replica, batch)

    def _joins(self, replica: Replica) -> None:
        """A replica was rehearsed."""
        replica.kept, replica.until = False, self.clock()
        if replica.dead:  # until it is opened anew
            self._alive -= 1
        elif not self.closed:
            self._idle.append(replica)
            if self.queue.live:
                self._arm()

    @property
    def properties(self) -> Mapping[str, str]:
        """What is really in force (precision, threads, device)."""
        return self._replicas[0].backend.properties() if self._replicas else {}

    @property
    def pays(self) -> bool:
        """Whether somebody may bill its runs."""
        return getattr(self._backend, "billed", None) is not None

    @property
    def capacity(self) -> int:
        """Items that run at once when all replicas are full."""
        return self._count * self.max_batch

    @property
    def at_work(self) -> int:
        """Items in replicas."""
        return sum(job.count for replica in self._replicas for batch in replica.held for job in batch)

    # -- a request's way -------------------------------------------------------------------------------------

    async def infer(self, request: Asked, step: str, item: Any, cause: str = "") -> Any:
        """Run one item; records queue, batch_wait, `cause` (or the deployment's own) and loop rows.

        Raises Overloaded when the queue is full or the deadline could not be met, and what the backend
        raises.
        """
        hold = await self._held(request) if self._accounts else None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        job: Job | None = None
        try:
            job = self.submit(request, step, item, future)
            if hold is not None and job.account is not None:
                job.account.hold = hold
            await future
        except BaseException:
            if job is not None:
                self.leave(job)
            raise
        finally:
            if hold is not None:
                # who leaves between the end of its item and being told of it waits for nothing
                self._settle(hold, job, over=future.done() and not future.cancelled())
        return self.result(request.trace, step, job, cause)

    async def _held(self, request: Asked) -> Hold | None:
        """Its way into the budgets, where there are any: one call, of which others may pay their part. Raises what
        they say, and then nothing is asked."""
        billed = getattr(self._backend, "billed", None)
        if request.purse is None or billed is None:
            return None
        provider, model = billed
        return await request.purse.reserve(provider, model, _ONE_CALL)

    @staticmethod
    def _settle(hold: Hold, job: Job | None, *, over: bool) -> None:
        """Its request has ended; what still runs for it is settled when it has."""
        if job is None or job.account is None:
            hold.settle(None)
        elif over or not job.left:
            job.account.settle()

    def submit(self, request: Asked, step: str, item: Any, waiter: Waiter) -> Job:
        """Let one item wait for its batch; `waiter` is told when it is over, and then reads `result`.

        A waiter that is done before calls `leave`. Raises Overloaded as `infer`.
        """
        backend = self._backend
        if backend is None:
            raise self._not_there()
        job = Job(item, backend.weight(item), request, self.clock(), waiter)
        if self.max_batch > 1:
            job.group = backend.group(item)
        self.push(request, step, job)
        return job

    def busy_s(self) -> float:
        """Seconds for which every replica is likely to be busy; 0.0 while one is idle, or runs are short."""
        if self._idle or not self._alive or self.durations.expected(1) < _LONG_S:
            return 0.0
        return max(_LONG_S, self._first_free_s(self.clock()))

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call back when a batch is over the next time, before the next one is formed."""
        self._when_idle.append(call)

    def push(self, request: Asked, step: str, job: Job, *, at_once: bool = False) -> None:
        """As `submit`, of an item whose weight and group are known. `at_once` says that nobody else is about to come
        in this turn of the loop: then it need not wait for the turn's end."""
        if not self._alive or self.closed:
            raise self._not_there()
        now = job.queued
        if self._accounts:
            job.account = Account(request, step)
        if request.deadline != _NEVER:  # before somebody gives up a place for it
            self._check_deadline(request, step, job, now)
        if self.queue.live + job.count > self.bound:  # those that leave at the end of this turn hold no place
            self._check_room(request, self.bound + len(self._idle) * self.max_batch)
        if self._mixed:
            unit_s = self.durations.expected(self.max_batch) / self.max_batch / max(self._alive, 1)
            self._note(request, unit_s * job.count, now)
        if at_once and self._goes_at_once(job, now):
            return
        if self.max_batch > 1:
            self._enter_group(request, step, job, now)
        elif self._idle and not self._armed:
            self._arm()
        self.queue.push(job)

    def kin(self, item: Any) -> tuple[float, Any]:
        """An item's weight, and the group that it may share a batch with."""
        backend = self._backend
        if backend is None:
            raise self._not_there()
        return backend.weight(item), backend.group(item)

    def result(self, trace: Trace, step: str, job: Job, cause: str = "") -> Any:
        """What an item gave, its rows written; raises what it failed with."""
        job.write(trace, step, self.label, cause or self.cause, self.clock())
        return self.outcome(job)

    def outcome(self, job: Job) -> Any:
        """What an item gave; raises what it failed with."""
        if job.error is not None:
            raise self.as_error(job.error)
        if self._margins[job.priority].value > 1.0:
            self._was_in_time(job)
        return job.result

    def _not_there(self) -> TautenError:
        if self.closed or self._backend is None:
            return self.gone()
        return Unavailable(
            f"{self.label}: no replica is alive", help="retry later", retry_after_s=REOPEN_S[2]
        )

    def _check_deadline(self, request: Asked, step: str, job: Job, now: float) -> None:
        """An item with a deadline: ordered by what is left of it, refused when that is too little.

        Who was admitted for a whole path is not asked again: it is late, or not, by its own deadline.
        """
        if request.after:
            job.after = request.after.get(base_name(step), 0.0)
        if request.coming:
            self.came(request)
        durations = self.durations
        own_s = durations.fixed_s + durations.slope_s * job.weight
        # of several that came as one each is as urgent as it would be alone: they shall not overtake others
        each_s = own_s if job.count == 1 else durations.fixed_s + durations.slope_s * job.weight / job.count
        job.due = job.target - each_s - job.after
        self._mixed = self._mixed or bool(request.priority or request.tenant)
        if not request.admitted and self._known(now):
            self._check_ends(request, job, own_s, now)
        elif job.due > self._latest:
            self._latest = job.due

    def _check_ends(self, request: Asked, job: Job, own_s: float, now: float) -> None:
        """Refuse what would be late; whoever has time enough behind all that wait, in a full batch, is not
        worth a closer look."""
        durations = self.durations
        if self.queue.live or not self._idle:
            most_s = (self._wait_for(self.queue.live, now) + own_s + durations.expected(self.max_batch)) * (
                self._margins[job.priority].value
            )
        else:
            most_s = own_s * durations.high
        if self._mixed or now + most_s + job.after > job.deadline:
            self._check_time(request, job, own_s, now)
        elif job.due > self._latest:
            self._latest = job.due

    def _enter_group(self, request: Asked, step: str, job: Job, now: float) -> None:
        """An item that may share a batch; wakes the release when it changes what was decided."""
        crowd = self._count_in(job)
        if self.wait == "slack":
            self.arrivals.came(now, job.count)
        if request.families:
            self._join(request, step, job, now)
        if self._armed:
            return
        if self._idle:
            hold = self._hold
            if (
                hold is None
                or self.queue.live + job.count >= hold.target
                or crowd.weight > hold.weight
                or job.target - job.after < hold.due
                or len(self._groups) > 1
                or job.family is not None
            ):
                self._arm()
        elif self._prepares and self.queue.live + job.count >= self.max_batch:
            self._arm()

    def _join(self, request: Asked, step: str, job: Job, now: float) -> None:
        """Note that a member of a map came."""
        family = family_of(request.families, step)
        if family is None or family.active < 2:
            return
        job.family = family
        family.come(self)
        if family.last >= 0.0:
            gap_s = now - family.last
            self._gap_s = gap_s if self._gap_s == math.inf else self._gap_s + (gap_s - self._gap_s) / 4
        family.last = now

    def leave(self, job: Job) -> None:
        """Its request ended before it: a waiting item goes at once, the result of a running one is thrown away."""
        now = self.clock()
        if now >= job.deadline:
            self._was_late(job)
        if job.taken:
            job.left = now
            for replica in self._replicas:
                replica.look()
        elif (
            job.error is None
        ):  # else it left the queue when it was given up, a moment before its request ended
            self._uncount(job)
            job.item = None  # the queue may keep its place for a while
            self.queue.left(job)

    def lessen(self, job: Job, item: Any) -> bool:
        """One of the requests of a job ended before it. While it waits it is `item` from now on, and lighter:
        true; what runs goes on for the others."""
        if job.taken:
            job.parted += (self.clock(),)
            return False
        each, job.item = job.weight / job.count, item
        job.weight -= each
        job.cost = job.weight or 1.0
        if self.max_batch > 1:
            crowd = self._groups[job.group]
            crowd.count -= 1
            crowd.weight -= each
        self.queue.lessen(job)
        return True

    # -- predictions -------------------------------------------------------------------------------------------

    def _usual_s(self) -> float:
        return self.durations.expected(1)

    def _known(self, now: float) -> bool:
        """Old estimates hold while every replica works: whatever runs will soon say better."""
        durations = self.durations
        return durations.fresh(now) or (durations.settled and not self._idle)

    def _needs_s(self, ahead: int, others: int, own_s: float, now: float) -> float:
        """Seconds until an item with so many before it is done: by then its batch has filled, also with those
        that it goes before."""
        most = self.max_batch
        if most > 1:
            own_s = max(own_s, self.durations.expected(min(others + 1, most)))
        return self._wait_for(ahead, now) + own_s

    def _wait_for(self, ahead: int, now: float) -> float:
        most = self.max_batch
        if self._idle and ahead < most:
            return 0.0  # they leave with it
        first_free_s = 0.0 if self._idle else self._first_free_s(now)
        durations = self.durations
        batch_s = durations.expected(most)
        return queue_wait(ahead, most, max(self._alive, 1), batch_s, first_free_s, durations.high - 1.0)

    def _first_free_s(self, now: float) -> float:
        """Seconds until the first replica is likely to be idle, where none is; of those that are dead or kept back nobody
        knows, and they count where there are no others.

        A run that is overdue has met something unforeseen: it is taken to last as long again as it is late.
        """
        replicas = self._replicas
        working = [each for each in replicas if not (each.dead or each.kept)]
        return min([abs(each.until - now) for each in working or replicas], default=0.0)

    def zombies(self) -> int:
        """Members of running batches whose request ended more than 100 ms ago."""
        late = self.clock() - ZOMBIE_S
        running = [job for replica in self._replicas for batch in replica.held[:1] for job in batch]
        return sum(job.zombies(late) for job in running)

    def view(self) -> View:
        """What metrics show of it."""
        now = self.clock()
        return self._view(
            self.at_work,
            self._alive,
            len(self._idle),
            self.durations.quantiles_ms(),
            lambda: self.wait_s(0, now),
        )

    def _run_only(self, sizes: Sequence[int]) -> None:
        """Keep to the sizes of a backend that runs no others; what its items weigh are places of them."""
        self._sizes = sorted(sizes)
        if sizes:
            self.max_batch = min(self.max_batch, max(sizes))
            self.max_weight = min(self.max_weight, max(sizes) + HALF)

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
            if replica.virtual is not None:
                await replica.virtual.quiet()
            replica.close()
        until = self.clock() + CLOSE_S
        for replica in replicas:
            while replica.alive and self.clock() < until:
                await asyncio.sleep(0.005)  # the thread frees the model, then ends


_NEVER = math.inf
_ONE_CALL: Final = {"requests": 1.0}
_LONG_S = 0.0015  # of a run: who comes in that much later is not late for the next one
CLOSE_S = 5.0  # for runs to end; a user's function that blocks longer outlives us, its thread is a daemon
