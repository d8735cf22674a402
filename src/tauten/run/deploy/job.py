"""What waits at a batch deployment and is run there: one request's item, or that of several that came as one."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tauten.errors import Cancelled
from tauten.run.deploy.account import Account
from tauten.run.deploy.fair_queue import Waiter
from tauten.run.deploy.queueing import Entry
from tauten.run.request import Asked
from tauten.run.siblings import Family
from tauten.run.trace import Trace
from tauten.run.usage.call import Call


class Crowd:
    """What waits of one group."""

    __slots__ = ("count", "weight")

    def __init__(self) -> None:
        self.count = 0  # requests, 1 or more
        self.weight = 0.0


LEFT = Cancelled("who waited for it left before it began", help="send the request again")
"""The error of what was not computed."""


class Party(Waiter, Protocol):
    """Several requests that wait as one item."""

    gone: int  # of them, those that left while it ran for the others

    def split(self, count: int) -> Job:
        """Keep the first so many, and give the job of the others, who waited as these did."""

    def unfit(self, value: Any, /) -> Exception | None:
        """Why a result cannot be taken apart; None where it can."""


class Job(Entry):
    """One item on its way through a batch deployment, of one request or of several that came as one."""

    __slots__ = (
        "account",
        "busy_s",
        "calls",
        "family",
        "given",
        "group",
        "held",
        "item",
        "parted",
        "reason",
        "result",
        "retried",
        "seconds",
        "size",
        "weight",
    )

    def __init__(self, item: Any, weight: float, request: Asked, queued: float, waiter: Waiter) -> None:
        weight = weight or float(request.count)
        Entry.__init__(self, request, weight, queued, waiter)
        self.item = item
        self.weight = weight  # where items have none, one for each request
        self.group: Any = None
        self.held = -1.0  # since when it waited only because its batch was held; -1 for not at all
        self.size = 1  # of its batch
        self.reason = ""  # why that left
        self.seconds = 0.0  # its share of the replica's time, by weight
        self.retried = False
        self.result: Any = None
        self.family: Family | None = None
        self.given = queued  # to a replica
        self.busy_s = 0.0  # of the processor, where it ran alone and that was looked at
        self.calls: tuple[Call, ...] = ()  # that its backend made elsewhere for it
        self.account: Account | None = None  # whose they are
        self.parted: tuple[float, ...] = ()  # when some of its requests ended while this ran for the others

    def split(self, count: int, kept: Any, rest: Any) -> Job:
        """Keep the first `count` requests, whose item is `kept`; the job of the others, as it waited."""
        party: Any = self.waiter
        part = count / self.count
        other = Job(rest, self.weight * (1.0 - part), party, self.queued, party)
        for name in _SHARED:
            setattr(other, name, getattr(self, name))
        other.count, other.seconds = self.count - count, self.seconds * (1.0 - part)
        self.item, self.count, self.seconds = kept, count, self.seconds * part
        self.weight, self.cost = self.weight * part, self.cost * part
        return other

    def room(self, places: int, weight: float) -> int:
        """For how many of its requests there is room in so many places and so much weight."""
        if self.weight <= weight:
            return places
        return min(places, int(weight * self.count / self.weight)) if self.count > 1 else 0

    def zombies(self, before: float) -> int:
        """Requests that ended before an instant, and for which this runs on."""
        if self.left:
            return self.count if self.left < before and self.error is not LEFT else 0
        return sum(left < before for left in self.parted)

    def forget(self) -> None:
        """It is over and read: what it was about goes, when and with whom it ran stays."""
        self.item = self.result = self.error = self.account = None
        self.waiter = NOBODY

    def tell(self) -> None:
        """Let its request know of the calls that were made for it, also one that has left."""
        calls, self.calls = self.calls, ()
        if self.account is not None:
            self.account.took(calls)
            if self.left:
                self.account.settle()

    def write(self, trace: Trace, step: str, place: str, cause: str, back: float) -> None:
        """Where its time went, as rows, and what was asked of which place; `back` is when its request had it."""
        rows, started, ended = trace.rows, self.started, self.ended
        if self.held >= 0.0:
            rows.append((step, "queue", self.queued, self.held))
            rows.append((step, "batch_wait", self.held, started))
        else:
            rows.append((step, "queue", self.queued, started))
        rows.append((step, cause, started, ended))
        rows.append((step, "loop", ended, back))
        trace.spent.append((step, "replica_seconds", self.seconds / self.count))
        weight, group = self.weight / self.count, self.group
        trace.calls.append(
            (step, place, self.queued, started, ended, back, weight, group, self.size, self.reason)
        )


def extent(batch: Sequence[Job]) -> tuple[int, float]:
    """Requests and weight of a batch."""
    if len(batch) == 1:
        return batch[0].count, batch[0].weight
    return sum([job.count for job in batch]), sum([job.weight for job in batch])


_SHARED = (
    "account",
    "after",
    "due",
    "family",
    "group",
    "held",
    "lane",
    "reason",
    "retried",
    "started",
    "target",
)  # of a job's parts


class _Nobody:
    """Who waits for what is over."""

    def done(self) -> bool:
        return True

    def set_result(self, result: None, /) -> None:
        return


NOBODY = _Nobody()
