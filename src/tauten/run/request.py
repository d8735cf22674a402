"""One request on its way: id, deadline, trace, cancel, tenant, session."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tauten.clock import Clock, real
from tauten.describe.ports import Session
from tauten.errors import TautenError
from tauten.run.siblings import Family
from tauten.run.trace import Trace
from tauten.run.usage.payer import NOBODY as NO_PAYER
from tauten.run.usage.payer import Payer

if TYPE_CHECKING:
    from tauten.run.usage.budgets import Purse
    from tauten.run.usage.call import Call

LOWEST, HIGHEST = -8, 8  # priorities: sixteen to the eighth still counts exactly in fair shares
_PREFIX = os.urandom(4).hex()
_count = itertools.count(1)
NOTHING: dict[str, float] = {}  # never written to, as the next two
NOWHERE: set[Any] = set()
NOBODY: dict[str, Family] = {}


class Aim(NamedTuple):
    """What a request is admitted for: seconds from when it was whole to its end, and to its first output."""

    end_s: float = math.inf
    first_s: float = math.inf

    def less(self, spent_s: float) -> Aim:
        """What is left of it for a later part of the same work."""
        return Aim(self.end_s - spent_s, self.first_s - spent_s) if spent_s else self


ANY_TIME = Aim()  # until the deadline


def clipped(priority: int) -> int:
    """The nearest priority that there is."""
    return priority if LOWEST <= priority <= HIGHEST else (LOWEST if priority < 0 else HIGHEST)


class Asked(Protocol):
    """A request as admission, deadlines and deployments see it; the fields are those of `Request`."""

    start: float
    lag_s: float
    deadline: float
    aim: Aim
    target: float
    priority: int
    tenant: str
    admitted: bool
    after: dict[str, float]
    coming: set[Any]
    families: dict[str, Family]
    armed: list[Any] | None
    failure: TautenError | None
    purse: Purse | None

    @property
    def count(self) -> int: ...  # requests that it stands for

    @property
    def came(self) -> float: ...  # when the event loop had it, or had read it where that takes long

    @property
    def trace(self) -> Trace: ...

    def left(self) -> float: ...

    def fail(self, error: TautenError, /) -> None: ...

    def took(self, call: Call, /) -> None: ...


class Request:
    """What is handed down with every piece of work. `deadline` is absolute, on `clock`'s line: work stops there.

    `aim` is what admission refuses by, and `target` the instant that follows from it: work that is on its way
    is ordered by it, and goes on after it. Its trace begins with its first byte, `start` is what the aim counts from:
    how slowly its client sends, and the origins of its media answer, is nobody's fault here.
    """

    count = 1  # it stands for itself

    __slots__ = (
        "admitted",
        "after",
        "aim",
        "armed",
        "came",
        "cancelled",
        "clock",
        "coming",
        "deadline",
        "failure",
        "families",
        "id",
        "kind",
        "lag_s",
        "partition",
        "payer",
        "plan",
        "priority",
        "purse",
        "session",
        "start",
        "target",
        "task",
        "teaches",
        "tenant",
        "trace",
        "unread",
    )

    def __init__(
        self,
        clock: Clock = real,
        *,
        deadline: float = math.inf,
        id: str = "",
        session: Session | None = None,
        tenant: str = "",
        priority: int = 0,
        lag_s: float = 0.0,
        sent_s: float = 0.0,
        read_s: float = 0.0,
        aim: Aim = ANY_TIME,
    ) -> None:
        self.clock = clock
        self.deadline = deadline
        self.aim = aim
        self.target = math.inf  # before the deadline, once it was admitted for its aim
        self.id = id or f"{_PREFIX}{next(_count):08x}"
        self.session = session
        self.tenant = tenant
        self.partition = ""  # of caches, inside its tenant's: results of another are not for it
        self.payer: Payer = NO_PAYER  # on whose account it goes, beside its tenant
        self.purse: Purse | None = None  # its way to budgets, where there are any
        self.kind = ""  # of work behind another request: refresh, stale, learn
        self.priority = clipped(priority)
        self.lag_s = lag_s  # that it waited for the event loop, before anybody looked at it
        self.came = clock() - read_s  # when somebody did
        self.start = self.came - lag_s  # it was whole; later by what the origins of its media take
        self.trace = Trace(self.start - sent_s)  # from its arrival: so long its client took to send it
        if sent_s:
            self.trace.rows.append(("", "client", self.trace.start, self.start))
        if lag_s:
            self.trace.rows.append(("", "loop", self.start, self.came))
        self.plan = ""  # the one that runs it, once it runs
        self.teaches = True  # gates may learn of it: it is traffic, and no replay of what they have seen
        self.cancelled = False
        self.failure: TautenError | None = None  # why it was stopped from our side
        self.task: asyncio.Task[object] | None = None  # that runs it now; None while its reader is slow
        self.unread: Callable[[], None] | None = None  # ends a stream whose reader is away
        self.armed: list[Any] | None = None  # its place among the deadlines of its loop
        self.admitted = False  # at the door, for its whole path
        self.after: dict[str, float] = NOTHING  # step -> predicted seconds from its end to the request's
        self.coming: set[Any] = NOWHERE  # deployments that expect it
        self.families: dict[str, Family] = NOBODY  # step -> members of its map that run

    def read(self) -> None:
        """What it says has been read, which took it from when it came."""
        now = self.clock()
        self.trace.rows.append(("", "decode", self.came, now))
        self.came = now

    def behind(self) -> Request:
        """The same request's work that nobody waits for: it goes last, has no deadline, and is on the same account."""
        behind = Request(self.clock, id=self.id, tenant=self.tenant, priority=LOWEST)
        behind.partition, behind.plan, behind.teaches = self.partition, self.plan, self.teaches
        behind.payer, behind.purse = self.payer, self.purse
        return behind

    def conversation(self) -> Session:
        """Its session, for code that asks for one: a new one where nobody gave any, the same for all of its code."""
        if self.session is None:
            self.session = Session()
        return self.session

    def part(self, part: Request) -> Request:
        """A request that this one's own code makes: it has no more time, and is on the same account."""
        part.deadline = part.start + self.left()
        part.priority, part.tenant = self.priority, self.tenant
        part.partition, part.payer, part.teaches = self.partition, self.payer, self.teaches
        return part

    def family(self, step: str) -> Family:
        """The members of the map that `step` runs for this request."""
        if not self.families:
            self.families = {}
        return self.families.setdefault(step, Family())

    def took(self, call: Call) -> None:
        """A call to a provider that was made for it is over; it may have left by then."""
        self.trace.provider_calls.append(call)

    def left(self) -> float:
        """Seconds until the deadline; negative when it has passed, infinity without one."""
        return self.deadline - self.clock()

    def cancel(self) -> None:
        """Stop the work: flags it for threads, cancels the task that runs it, else ends what nobody reads now."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()
        elif self.unread is not None:
            self.unread()

    def fail(self, error: TautenError) -> None:
        """Stop the work from our side (deadline, shutdown); the caller gets `error`."""
        if self.failure is None:
            self.failure = error
            self.cancel()
