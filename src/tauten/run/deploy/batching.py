"""The batches of a deployment: formed, held, given to replicas, and what becomes of them.

The decision to release is `scheduling.release`; here are the queue it looks at and the timer it asks for.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

from tauten.clock import Clock
from tauten.run.contracts import BatchBackend
from tauten.run.deploy.estimates import Arrivals, Durations
from tauten.run.deploy.hand_off import HandOff
from tauten.run.deploy.job import LEFT, Crowd, Job, Party, extent
from tauten.run.deploy.queueing import QUEUE_BOUND, Queued
from tauten.run.deploy.rehearsal import Rehearsal
from tauten.run.deploy.replica import Replica
from tauten.run.deploy.scheduling import (
    HALF,
    Queue,
    Release,
    Wait,
    fit,
    padded,
    part,
    release,
    stepped,
)

LOOK_PAST = 64  # items of other groups that are passed over for one batch: a bound on the work of a release


class Batching(Queued):
    """The part of a batch deployment behind its door."""

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
        self._rehearsal: Rehearsal | None = None  # while one replica runs what warms up
        self._opening: asyncio.Future[None] | None = None
        self._alive = 0
        self._armed = False
        self._hold: Release | None = None  # why the waiting batch has not left, and until when
        self._hold_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._groups: dict[Any, Crowd] = {}  # what waits, by group
        self._hand_off = HandOff()
        self._gap_s = math.inf  # between members of maps as they come
        self._when_idle: list[Callable[[], None]] = []
        self._prepares = False
        self._sizes: Sequence[int] = ()  # that the backend runs, where not any
        self._backend: BatchBackend | None = None

    def _count_in(self, job: Job) -> Crowd:
        """It waits from now on, among those of its group."""
        crowd = self._groups.get(job.group)
        if crowd is None:
            crowd = self._groups[job.group] = Crowd()
        crowd.count += job.count
        crowd.weight += job.weight
        return crowd

    def _uncount(self, job: Job) -> None:
        """It waits no more."""
        if self.max_batch > 1:
            crowd = self._groups[job.group]
            crowd.count -= job.count
            crowd.weight -= job.weight
            if not crowd.count:
                del self._groups[job.group]
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

    def _goes_at_once(self, job: Job, now: float) -> bool:
        """Whether an item with nobody before it, nor beside it, was given to a replica here and now, as it would be
        at the end of this turn: a full batch of its like is too short to be waited for."""
        most, several = self.max_batch, job.count > 1
        if self.queue.live or not self._idle or self.wait != "slack" or (several and len(self._idle) > 1):
            return False
        if most > 1:
            full_s = self.durations.of_weight(job.weight * most / job.count)
            if full_s >= _NO_HOLD_S or job.weight > self.max_weight:
                return False
            self.arrivals.came(now, job.count)
        job.taken, job.size = True, job.count
        job.reason = "full" if job.count == most else "gain" if several else "alone"
        self._start(self._idle.pop(), [job])
        return True

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
            batches = self._decide(head)
            if batches is None:
                return
            for batch in batches:
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

    def _decide(self, head: Job) -> list[list[Job]] | None:
        """The next batch, in parts where several replicas are idle; None where it is held."""
        now = self.clock()
        crowd = self._groups[head.group]
        found = self._decision(head, crowd, now)
        if not found.members:
            self._keep(found, now)
            return None
        held = self._hold_since if self._hold is not None else -1.0
        if self._hold is not None:
            if found.reason != "slack":
                self.arrivals.held(found.members >= self._hold.target or found.reason == "full")
            self._unhold()
        size, reason, bounds = found.members, found.reason, [self.max_weight]
        whole = min(crowd.weight * size / crowd.count, self.max_weight)
        parts = min(len(self._idle), crowd.count)
        if parts > 1 and self.wait == "slack":
            share = part(crowd.weight, whole, parts, stepped(self.durations.of_weight, self._sizes))
            if share < whole:
                reason = "spread"
                bounds = [share] * (parts - 1) + bounds  # the last one takes who is left
        if self._sizes and reason != "spread":
            bounds = [self._fitting(whole)]
        return [self._gather(size, bound, reason, held) for bound in bounds]

    def _fitting(self, weight: float) -> float:
        """The weight of a batch of about so many places, padded up or trimmed down to a size that runs."""
        run = fit(max(1, round(weight)), self._sizes, self.durations.of_weight)[1]
        return min(self.max_weight, run + HALF)

    def _decision(self, head: Job, crowd: Crowd, now: float) -> Release:
        count, weight, durations = crowd.count, crowd.weight, self.durations
        most = self.max_batch
        if self.max_weight < math.inf:
            most = min(most, count + int((self.max_weight - weight) * count / weight))
        if count >= most:
            return Release(min(count, self.max_batch), "full")
        if self.wait == "off":
            return Release(count, "off")
        if self.wait == "slack" and durations.of_weight(weight * most / count) < _NO_HOLD_S:
            return Release(count, "alone" if count == 1 else "gain")
        family = head.family
        due = head.target - head.after
        state = Queue(
            count,
            most,
            weight,
            due,
            due - head.queued,
            self._hold_since if self._hold is not None else now,
            self.queue.live - count,
            family.waiting[self] if family is not None else 0,
            family.missing(self) if family is not None else 0,
            self._gap_s,
        )
        seconds, high = stepped(durations.of_weight, self._sizes), stepped(durations.high_of, self._sizes)
        forecast = self.arrivals.forecast(now)
        found = release(now, state, seconds, high, forecast, self.wait)
        if not found.members:  # all are kept, whoever's turn it is
            due, budget_s = self._tightest(head.group)
            if due < state.due or budget_s < state.budget_s:
                state = state._replace(due=due, budget_s=budget_s)
                found = release(now, state, seconds, high, forecast, self.wait)
        if found.members or self.wait != "slack" or self._hold is not None or self.arrivals.may_hold():
            return found
        return Release(count, "gain")

    def _tightest(self, group: Any) -> tuple[float, float]:
        """When the first of a group that might be held must be done, and the least time that one had: they are
        fewer than a batch holds."""
        due = budget_s = math.inf
        for job in islice(self.queue, self.max_batch):
            if job.group == group:
                end = job.target - job.after
                due, budget_s = min(due, end), min(budget_s, end - job.queued)
        return due, budget_s

    def _keep(self, found: Release, now: float) -> None:
        """Hold the batch: until enough came, or a timer that may be early and then looks again."""
        if self._hold is None:
            self._hold_since = now
        self._hold = found
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

    def _gather(self, size: int, most: float, reason: str, held: float = -1.0) -> list[Job]:
        """The most urgent item and waiting items of its group, up to a size and a weight."""
        batch: list[Job] = []
        passed: list[Job] = []
        weight, count = 0.0, 0
        queue, now = self.queue, self.clock()
        known = self.durations.fresh(now)
        while count < size and weight < most and len(passed) < LOOK_PAST:
            job = queue.pop()
            if job is None:
                break
            if job.due < now and known and self._is_hopeless(job, now):
                self._expire(job, now)
            elif batch and job.group != batch[0].group:
                passed.append(job)
            elif batch and not job.room(size - count, most - weight):
                passed.append(job)
                if self._is_usual(job):
                    break  # for the others there is no room either
            else:
                if job.count > 1 and (room := job.room(size - count, most - weight)) < job.count:
                    passed.append(cast(Party, job.waiter).split(max(room, 1)))
                job.taken = True
                weight += job.weight
                count += job.count
                batch.append(job)
                self._uncount(job)
        for job in passed:
            queue.restore(job)
        for job in batch:
            job.size, job.reason = count, reason
            if held >= 0.0:
                job.held = max(held, job.queued)
        return batch

    def _is_usual(self, job: Job) -> bool:
        """Whether it weighs what those of its group that wait do in the mean, as where all are alike."""
        crowd = self._groups[job.group]
        return abs(job.weight * crowd.count / (crowd.weight * job.count) - 1.0) < _ALIKE

    def _is_hopeless(self, job: Job, now: float) -> bool:
        return job.deadline < now + job.after + self._quickest_s(job)

    def _quickest_s(self, job: Job) -> float:
        """Seconds of a quick run; of several that came as one, of one of them: they may be split."""
        return self.durations.low_of(job.weight / job.count)

    def _expire(self, job: Job, now: float) -> None:
        """Not even a quick run could be in time: what it would cost is given to others."""
        self._was_late(job)
        self._uncount(job)
        job.fail(self._hopeless(self._quickest_s(job) + job.after, job.deadline - now))

    def _start(self, replica: Replica, batch: list[Job]) -> None:
        first = batch[0]
        size, weight = extent(batch)
        weight = padded(weight, self._sizes)
        durations = self.durations
        now = self.clock()
        first.given = now
        if not self._idle:
            self.arrivals.busy()
        if replica.inline:
            if self.max_batch == 1 or self.wait != "slack":
                self.arrivals.came(now, size)  # else they were counted when they came
            if first.reason != "spread" and durations.fresh(now):
                usual_s, rate = durations.usual_of(weight), self.arrivals.rate(now)
                if self._hand_off.spared(usual_s, size, weight, self.queue.live, rate):
                    first.reason = "inline"
        if self._rehearsal is not None:
            self._rehearsal.note(batch)
        self.batches += 1
        self.batch_sizes[size] = self.batch_sizes.get(size, 0) + 1
        self.reasons[first.reason] = self.reasons.get(first.reason, 0) + 1
        replica.until = max(replica.until, now) + durations.of_weight(weight)
        if first.reason == "inline":
            replica.run_here(batch)
        else:
            replica.start(batch)

    def _feed_ahead(self) -> None:
        """Give a busy replica a full batch to prepare while it runs another."""
        for replica in self._replicas:
            if len(replica.held) != 1 or replica.dead or replica.kept:
                continue
            head = self.queue.head()
            if head is None or self._groups[head.group].count < self.max_batch:
                return
            if batch := self._gather(self.max_batch, self.max_weight, "full"):
                self._start(replica, batch)

    def finished(self, replica: Replica, batch: list[Job]) -> None:
        """A replica has done a batch; called on the loop."""
        now, ran = self.clock(), [job for job in batch if job.error is not LEFT]
        if replica.bisected:
            self.bisected, replica.bisected = self.bisected + replica.bisected, 0
        elif ran and ran[0].error is None:
            self._learn(ran, now)
        if replica.dead:
            self._lost(replica, batch)
        elif not replica.held and not self.closed:
            replica.until = now
            self._idle.append(replica)
            self.arrivals.idle(now)
        if self.max_batch > 1:
            self.queue.quantum = sum([job.cost for job in batch])
        over = [job for job in batch if job.taken and not (job.count > 1 and self._halved(job))]
        done = sum([job.count for job in over])
        self.done += done
        if self.wait == "slack" and self.max_batch > 1:
            self.arrivals.went(now, done)
        while self._when_idle:
            self._when_idle.pop()()
        if self.queue.live and len(over) == len(batch) and batch[0].reason != "inline":
            self._release()  # before the answers are written: the next batch need not wait for that
        for job in over:
            job.settle()
            if job.left:
                job.forget()
        if self.queue.live:
            self._arm()

    def _learn(self, members: list[Job], now: float) -> None:
        """Learn from a run that went well."""
        first, (size, weight) = members[0], extent(members)
        durations, took_s = self.durations, first.ended - first.started
        ran = padded(weight, self._sizes)  # what is filled up takes as long as the whole
        usual_s = durations.usual_of(ran)
        if first.busy_s > 0.0 and usual_s > 0.0:
            self._hand_off.learn(first, usual_s, now)
        own = first.reason == "inline" and size == 1  # has an estimate of its own
        if not own and (now - durations.last > _LEARN_S or durations.runs < _LEARN_ALL):
            self._hand_off.seen(weight)
            durations.observe(size * ran / weight if weight else size, ran or size, took_s, now)

    def _halved(self, job: Job) -> bool:
        """Let the halves of a party that failed as a whole run anew, so that each of it gets what is its own."""
        party = cast(Party, job.waiter)
        if job.error is None:
            job.error = party.unfit(job.result)
        error = job.error
        if not isinstance(error, Exception) or getattr(error, "dead", False):
            return False
        if not self.pure or job.left:
            return False
        if self.closed:
            job.error = self.gone()  # whose mistake it was is not found any more
            return False
        self.bisected += 1
        rest = party.split(job.count // 2)
        job.parted, rest.parted = job.parted[: party.gone], job.parted[party.gone :]
        for half in (rest, job):
            self._back(half)
        return True

    def _back(self, job: Job) -> None:
        """It waits once more."""
        job.error, job.taken, job.family = None, False, None
        if self.max_batch > 1:
            self._count_in(job)
        self.queue.push(job)

    def _lost(self, replica: Replica, batch: list[Job]) -> None:
        """The backend died: what may run twice and has the time goes back into the queue, once, and so does what
        had not begun."""
        self._alive -= 1
        now = replica.until = self.clock()
        for job in batch:
            again = self.pure and not job.retried and getattr(job.error, "dead", False)
            in_time = now + self._quickest_s(job) + job.after < job.deadline
            if again and in_time and not self.closed and not job.waiter.done():
                job.retried = True
                self.retried += job.count
                self._back(job)
        for job in replica.take_back():
            if job.waiter.done():
                job.tell()
                job.forget()
            elif self.closed:
                job.fail(self.gone())
            else:
                self._back(job)


_LEARN_S = 0.001  # between runs that teach: a model of less runs often enough
_LEARN_ALL = 64  # of the first runs all do
_ALIKE = 1e-6  # of a weight: sums are rounded
_NO_HOLD_S = 0.0005  # a full batch of less is not worth a timer that may be a millisecond late
