"""What both kinds of deployment share: a bounded fair queue, admission, shedding, counters."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from tauten.clock import Clock, in_ms
from tauten.errors import BackendError, DeadlineExceeded, Overloaded, TautenError
from tauten.run.deploy.fair_queue import SHARE, FairQueue, Waiter
from tauten.run.deploy.scheduling import retry_after
from tauten.run.door.admission import too_late
from tauten.run.door.feedback import Margin
from tauten.run.request import Asked

QUEUE_BOUND = 1024  # requests: at 10 ms each a wait of 10 s, beyond any deadline worth keeping
NO_DEADLINE_S = 60.0  # a request without a deadline is ordered as if it had this long: it never starves
_NEVER = math.inf
WORK_S = 1.0  # over which the work of a priority is averaged: bursts pass, loads stay
ZOMBIE_S = 0.1  # work for a request that has ended counts from here on


class Entry:
    """One piece of work that waits or runs at a deployment."""

    __slots__ = (
        "after",
        "cost",
        "count",
        "deadline",
        "due",
        "ended",
        "error",
        "lane",
        "left",
        "priority",
        "queued",
        "started",
        "taken",
        "target",
        "tenant",
        "waiter",
    )

    def __init__(self, request: Asked, cost: float, queued: float, waiter: Waiter) -> None:
        self.deadline = deadline = request.deadline
        # when it ought to be done, which is no later than when it must be
        self.target = target = request.target if request.target < deadline else deadline
        self.after = 0.0  # what is downstream
        # the latest start, by which the queue is ordered
        self.due = target if target != _NEVER else queued + NO_DEADLINE_S
        self.priority = request.priority
        self.tenant = request.tenant
        self.count = request.count  # requests that it stands for
        self.cost = cost
        self.queued = self.started = self.ended = queued
        self.taken = False  # by a replica or a slot
        self.left = 0.0  # when its request ended while this ran
        self.error: BaseException | None = None
        self.lane: Any = None  # of the queue
        self.waiter = waiter

    def settle(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """End it while it waits."""
        self.error = error
        self.settle()


class View(msgspec.Struct, frozen=True):
    """A deployment as metrics see it. Counts since it was opened; times in seconds."""

    label: str
    kind: str
    waiting: int
    oldest_wait_s: float
    running: int  # items in replicas, or open streams
    replicas: int
    idle: int  # replicas, or free slots
    batches: int
    batch_sizes: dict[int, int]
    reasons: dict[str, int]
    duration_ms: dict[str, float]
    wait_s: float  # that one more request would wait
    done: int
    rejected: int
    shed: int
    expired: int
    bisected: int
    restarts: int
    retried: int
    zombies: int


class Queued(ABC):
    """A deployment's queue and its door. Subclasses say how long what waits will take."""

    kind = ""

    def __init__(self, label: str, clock: Clock, bound: int) -> None:
        self.label = label
        self.clock = clock
        self.bound = bound
        self.queue: FairQueue[Any] = FairQueue()
        self.closed = False
        self.done = self.rejected = self.shed = self.expired = 0
        self.bisected = self.restarts = self.retried = self.batches = 0
        self.batch_sizes: dict[int, int] = {}
        self.reasons: dict[str, int] = {}
        self._latest = -math.inf  # the latest `due` that came
        self.coming = 0  # requests that were admitted and have yet to come here
        self.coming_of: defaultdict[str, int] = defaultdict(int)  # of those, the ones of each named tenant
        self._margins: defaultdict[int, Margin] = defaultdict(Margin)  # by priority
        self._mixed = False  # whether several priorities or tenants came
        self._work: dict[int, tuple[float, float]] = {}  # priority -> (its share of all work of late, when)

    @property
    def waiting(self) -> int:
        return self.queue.live

    @abstractmethod
    def _wait_for(self, ahead: int, now: float) -> float:
        """Seconds until an item with so many before it begins; 0.0 where nothing is known."""

    def _needs_s(self, ahead: int, others: int, own_s: float, now: float) -> float:
        """Seconds until an item with so many before it is done, where so many others wait, before it or not."""
        return self._wait_for(ahead, now) + own_s

    @abstractmethod
    def _known(self, now: float) -> bool:
        """Whether there are fresh estimates to refuse by."""

    def wait_s(self, priority: int, now: float, coming: int = 0, tenant: str | None = None) -> float:
        """Seconds that one more request of a priority would wait here; without the margin, for whoever adds up a
        whole path has one of his own.

        It waits behind all of that priority, and `coming` others; with a `tenant` behind its own and its fair part
        of the rest. Of those that come the ones beyond whom this place expects are its own.
        """
        if not self._known(now):
            return 0.0
        if tenant is None:
            ahead = self.queue.at_least(priority) + coming
        elif not coming:
            ahead = self.queue.ahead(priority, tenant)
        else:
            ahead = self.queue.ahead(priority, tenant, self._on_their_way(coming, tenant))
        needs_s = self._needs_s(ahead, self.queue.live + coming, 0.0, now)
        return max(0.0, needs_s * self._slowed(priority, now) - self._usual_s())

    def _on_their_way(self, coming: int, tenant: str) -> dict[str, int]:
        """So many requests by tenant: those that this place expects, and others of one tenant."""
        found = dict(self.coming_of)
        if self.coming:
            found[""] = self.coming - sum(found.values())
        found[tenant] = found.get(tenant, 0) + coming - self.coming
        return found

    @abstractmethod
    def _usual_s(self) -> float:
        """What one item takes by itself."""

    def _was_late(self, entry: Entry) -> None:
        """One that was admitted is late: predictions for its priority are widened until hardly any is."""
        self.expired += entry.count
        self._margins[entry.priority].late(self.clock(), entry.count)

    def _was_in_time(self, entry: Entry) -> None:
        self._margins[entry.priority].in_time(entry.count)

    def _span_s(self) -> float:
        """Over which the work of a priority is averaged."""
        return WORK_S

    def _note(self, request: Asked, work_s: float, now: float) -> None:
        """Count the work that a priority brings: seconds of all that works here; needed once several came."""
        span_s = self._span_s()
        share, when = self._work.get(request.priority, (0.0, now))
        self._work[request.priority] = (share * math.exp((when - now) / span_s) + work_s / span_s, now)

    def _slowed(self, priority: int, now: float) -> float:
        """How many times longer a priority waits because higher ones keep coming in between."""
        if not self._work:
            return 1.0
        span_s = self._span_s()
        busy = sum(
            share * math.exp((when - now) / span_s)
            for other, (share, when) in self._work.items()
            if other > priority
        )
        return 1.0 / (1.0 - min(busy, SHARE / (SHARE + 1)))

    def _takes_s(self, entry: Entry, ahead: int, own_s: float, now: float) -> float:
        """Seconds until an item with so many before it is done, with the margin. What comes in between holds up
        who waits, not who runs."""
        waits_s = self._needs_s(ahead, self.queue.live, own_s, now) - own_s
        return (own_s + waits_s * self._slowed(entry.priority, now)) * self._margins[entry.priority].at(now)

    # -- the door ---------------------------------------------------------------------------------------------

    def _check_room(self, request: Asked, places: int) -> None:
        """Refuse when the queue is full, unless somebody gives up a place: one of a lower priority, or of a tenant
        that holds more than its share; several that ask together come one by one then."""
        over = self.queue.live + request.count - places
        if over <= 0:
            return
        shed = self.queue.displaced(request.priority, request.tenant) if request.count == 1 else None
        if shed is None:
            self._rejects(request)
            raise Overloaded(
                f"{self.label}: {self.queue.live} requests are waiting",
                help="retry later, or add replicas",
                retry_after_s=self.wait_s(request.priority, self.clock(), tenant=request.tenant),
            )
        if shed.count > over:  # those who wait together need not go together
            kept, shed = shed, shed.waiter.split(shed.count - over)
            self.queue.parted(kept, shed)
        self.shed += shed.count
        self._drop(shed, self._shed_for(request, shed))

    def _shed_for(self, request: Asked, shed: Entry) -> Overloaded:
        wait_s = self.wait_s(shed.priority, self.clock(), tenant=shed.tenant)
        if shed.priority < request.priority:
            return Overloaded(
                f"{self.label}: shed for a request of a higher priority",
                help="retry later, or ask with a higher priority",
                retry_after_s=wait_s,
            )
        return Overloaded(
            f"{self.label}: shed for a tenant that has fewer requests waiting, of {self.queue.live}",
            help="retry later, or send less at once",
            retry_after_s=wait_s,
        )

    def came(self, request: Asked) -> None:
        """A request that was admitted for its path is here, or will never be."""
        if self in request.coming:
            request.coming.remove(self)
            self.coming -= (count := request.count)
            if tenant := request.tenant:
                left = self.coming_of[tenant] - count
                if left:
                    self.coming_of[tenant] = left
                else:
                    del self.coming_of[tenant]

    def _check_time(self, request: Asked, entry: Entry, own_s: float, now: float) -> None:
        """Refuse what would be late."""
        left_s = request.deadline - now - entry.after
        ahead = self.queue.ahead(entry.priority, entry.tenant)
        needs_s = self._takes_s(entry, ahead, own_s, now)
        if needs_s <= left_s:
            self._latest = max(self._latest, entry.due)
            return
        if ahead and entry.due < self._latest:  # some of them are less urgent: count
            due, priority = entry.due, entry.priority
            sooner = [each for each in self.queue if each.due <= due and each.priority >= priority]
            ahead = min(ahead, sum([each.count for each in sooner]))
            if self._takes_s(entry, ahead, own_s, now) <= left_s:
                return
        self._rejects(request)
        raise too_late(self.label, needs_s, left_s, retry_after(needs_s, left_s, own_s))

    def _rejects(self, request: Asked) -> None:
        """Count a refusal; of several that ask together each comes again, and is counted then."""
        if request.count == 1:
            self.rejected += 1

    def _hopeless(self, needs_s: float, left_s: float) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.label}: {in_ms(max(left_s, 0.0))} ms are left of the deadline, {in_ms(needs_s)} ms are needed",
            help="allow more time, or send less at once",
        )

    def _drop(self, entry: Entry, error: TautenError) -> None:
        """End what waits."""
        entry.fail(error)
        self.queue.left(entry)

    def gone(self) -> BackendError:
        return BackendError(
            f"{self.label} is closed", help="its plan was retired; send the request again", code="E406"
        )

    def as_error(self, error: BaseException) -> BaseException:
        if isinstance(error, TautenError):
            return error
        failed = BackendError(
            f"{self.label}: {error.__class__.__name__}: {error}", help="see the chained error"
        )
        failed.__cause__ = error
        return failed

    # -- for metrics ------------------------------------------------------------------------------------------

    @abstractmethod
    def zombies(self) -> int:
        """Work that still runs for requests that ended more than 100 ms ago."""

    def _view(
        self,
        running: int,
        replicas: int,
        idle: int,
        duration_ms: dict[str, float],
        least: Callable[[], float],
    ) -> View:
        now = self.clock()
        return View(
            label=self.label,
            kind=self.kind,
            waiting=self.queue.live,
            oldest_wait_s=now - min((each.queued for each in self.queue), default=now),
            running=running,
            replicas=replicas,
            idle=idle,
            batches=self.batches,
            batch_sizes=dict(self.batch_sizes),
            reasons=dict(self.reasons),
            duration_ms=duration_ms,
            wait_s=least(),
            done=self.done,
            rejected=self.rejected,
            shed=self.shed,
            expired=self.expired,
            bisected=self.bisected,
            restarts=self.restarts,
            retried=self.retried,
            zombies=self.zombies(),
        )
