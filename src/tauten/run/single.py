"""Requests that are one item of one deployment: no task of their own, and a trace only when somebody asks for it.

A task, its coroutines and the future between them, a request and its trace cost more than all the rest of a
short request. Where nothing but a model's run stands between question and answer, one object stands in for
them: admission and deadlines see a request in it, the deployment sees who waits for its item. Requests that
came together and are alike may share it: it then counts as so many, in each book.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from tauten.errors import Cancelled, DeadlineExceeded, TautenError
from tauten.run.deadline import arm, disarm, late
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.job import Job
from tauten.run.door.admission import Door
from tauten.run.opened import Opened
from tauten.run.request import ANY_TIME, NOBODY, NOTHING, NOWHERE, Aim, clipped
from tauten.run.siblings import Family
from tauten.run.trace import VISIT, Trace
from tauten.run.usage.call import Call, divided
from tauten.run.usage.payer import NOBODY as NO_PAYER
from tauten.run.usage.payer import Payer

if TYPE_CHECKING:
    from tauten.run.usage.book import Book
    from tauten.run.usage.budgets import Purse


class Station:
    """Where singles go: the only step of an opened plan, which does nothing but run items of `deployment`."""

    __slots__ = ("_settling", "deployment", "door", "most", "opened", "step")

    def __init__(self, door: Door, opened: Opened, step: str, deployment: Deployment, most: int = 1) -> None:
        self.door = door
        self.most = most  # requests that may be one item
        self.opened = opened
        self.step = step
        self.deployment = deployment
        self._settling: list[Single] = []

    def settle(self, single: Single) -> None:
        """Let one be settled once all of its batch are answered: the next one's client waits, the books do not."""
        if not self._settling:
            asyncio.get_running_loop().call_soon(self._settle)
        self._settling.append(single)

    def _settle(self) -> None:
        settling, self._settling = self._settling, []
        for single in settling:
            try:
                single.settle()
            except Exception as mistake:  # noqa: BLE001  # the others are to be settled, too
                tell(mistake)


class Item(NamedTuple):
    """What is run: the deployment's item, its weight and group (`Deployment.kin`), and the rows it brings."""

    value: Any
    weight: float
    group: Any
    rows: float


class Single(ABC):
    """One request through a station, or `count` of them that came together.

    What `Engine.run` does for others is done here: the door, the deadline, the rows of its trace, the drain of its
    plan. `answer` or `refuse` is called once, on the loop; where it goes at once, before `enter` has returned.
    """

    # what most never touch has its value in the class: an instance then costs half as much
    target = math.inf
    admitted = False
    after: dict[str, float] = NOTHING
    coming: set[Any] = NOWHERE
    families: dict[str, Family] = NOBODY
    armed: list[Any] | None = None
    failure: TautenError | None = None  # why it was stopped from our side
    purse: Purse | None = None  # where budgets are to be asked it takes the longer way
    count = 1  # requests
    rows = 1.0  # of all of them
    began = -1.0  # when its stage did
    end = 0.0
    predicted = False  # when it would end
    over = False
    told = False  # by its deployment
    answered = False  # it came to its end as it should
    gathered = False  # its requests waited for one another, while others ran
    job: Job | None = None
    calls: tuple[Call, ...] = ()  # that were made elsewhere for it

    def __init__(
        self,
        station: Station,
        *,
        budget_s: float,
        aim: Aim = ANY_TIME,
        priority: int = 0,
        tenant: str = "",
        lag_s: float = 0.0,
    ) -> None:
        self.station = station
        self.start = start = station.door.clock() - lag_s
        self.lag_s = lag_s
        self.deadline = start + budget_s
        self.aim = aim
        self.priority = clipped(priority)
        self.tenant = tenant

    @property
    def came(self) -> float:
        """When the event loop had the first of them."""
        return self.start + self.lag_s

    @abstractmethod
    def answer(self, value: Any) -> None:
        """It came to its end as it should. What can wait is done in `settle`, a turn later."""

    @abstractmethod
    def refuse(self, error: TautenError) -> None:
        """It came to its end otherwise."""

    def enter(self, item: Item, *, at_once: bool = False) -> None:
        """Let it in; raises what admission, its deployment, or a deadline that has passed raise.

        `at_once` says that nobody else is about to come in this turn of the loop: it may run here and now.
        """
        station = self.station
        door, opened = station.door, station.opened
        try:
            self.predicted = door.enter(opened.path, self)
        except TautenError as error:
            if self.count == 1:  # of several each comes again
                self._book(error)
            raise
        try:
            now = door.clock()
            if now >= self.deadline:
                raise late(self)
            if self.failure is not None:
                raise self.failure
            self.rows = item.rows
            self.began = now
            opened.requests.add(self)
            self.job = job = Job(item.value, item.weight, self, now, self)
            job.group = item.group
            station.deployment.push(self, station.step, job, at_once=at_once)
            if not self.over:
                arm(self)
        except BaseException as error:
            self.over = True
            self.job = None
            self._leave(error)
            raise

    def settle(self) -> None:
        """Give back what it held, and let others learn from it, after its answer has left."""
        self._leave(None)

    def _leave(self, error: BaseException | None) -> None:
        """What is given back at the end, however it came."""
        station = self.station
        if error is not None:
            disarm(self)
            self.end = station.door.clock()
        station.opened.requests.discard(self)
        station.door.leave(
            station.opened.path,
            self,
            predicted=self.predicted,
            whole=error is None,
            late=isinstance(error, DeadlineExceeded),
        )
        self._book(error)

    def payers(self) -> Iterable[tuple[Payer, int]]:
        """On whose accounts its requests go, and how many on each."""
        return ((NO_PAYER, self.count),)

    def _book(self, error: BaseException | None) -> None:
        book = self.station.door.book
        if book is None:
            return
        if self.calls:
            self._book_calls(book, error)
            return
        for payer, count in self.payers():
            book.ended_together(self, payer, count, error=error)

    def _book_calls(self, book: Book, error: BaseException | None) -> None:
        """With what was asked elsewhere for all of them: each pays for his part."""
        payers = list(self.payers())
        parts = zip(*[divided(call, [count for _, count in payers]) for call in self.calls], strict=True)
        for (payer, count), calls in zip(payers, parts, strict=True):
            book.ended_together(self, payer, count, error=error, calls=calls)

    def took(self, call: Call) -> None:
        """A call to a provider that was made for it is over, maybe after it left."""
        book = self.station.door.book
        if not self.over:
            self.calls = (*self.calls, call)
        elif book is not None:
            payer = next((payer for payer, _ in self.payers()), NO_PAYER)
            book.ended_together(self, payer, 0, error=self.failure or _GONE, calls=(call,))

    # -- as its deployment sees it -------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether nobody waits for the item any more."""
        return self.over

    def set_result(self, _: None, /) -> None:
        """The item is over."""
        self.over = self.told = True
        job = self.job
        assert job is not None  # items end in later turns of the loop than they are given in
        station = self.station
        try:
            value = station.deployment.outcome(job)
        except TautenError as error:
            self._end_badly(error)
        else:
            disarm(self)
            self.end = station.door.clock()
            self.answered = True
            try:
                self.answer(value)
            except Exception as mistake:  # noqa: BLE001  # the others of its batch are to be answered, too
                tell(mistake)
            station.settle(self)
        job.forget()

    def _end_badly(self, error: TautenError) -> None:
        try:
            self._leave(error)
            self.refuse(error)
        except Exception as mistake:  # noqa: BLE001  # others whom the same has ended are to be told, too
            tell(mistake)
        error.__traceback__ = None  # of frames that hold it, and this

    @property
    def inside(self) -> bool:
        """Whether it was let in, however it went on."""
        return self.began >= 0.0

    # -- as deadlines and whoever stops it see it ----------------------------------------------------------

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.station.door.clock()

    def fail(self, error: TautenError) -> None:
        """Stop the work: `refuse` is told why."""
        if self.over:
            return
        self.failure = error
        self.over = True
        if self.job is not None:
            self.station.deployment.leave(self.job)
            self.job = None  # it may still run, for others' sake
        self._end_badly(error)

    # -- as whoever asks where its time went sees it -------------------------------------------------------

    @property
    def trace(self) -> Trace:
        """Its trace so far, made anew at each call: the same rows that a task would have written."""
        return self.trace_of(self.start, self.lag_s)

    def trace_of(self, start: float, lag_s: float) -> Trace:
        """The trace of one of its requests, which came at `start` and then waited for the loop."""
        opened, step = self.station.opened, self.station.step
        trace = Trace(start)
        if opened.lowered is not None:
            trace.edges, trace.order = opened.lowered.edges, opened.lowered.order
        trace.outputs = opened.outputs
        if lag_s:
            trace.rows.append(("", "loop", start, start + lag_s))
        if self.inside:
            came = start + lag_s
            began = min(came, self.began) if self.gathered else self.began
            trace.rows.append(("", "admission", came, began))
            self._write(trace, step, began)
        return trace

    def _write(self, trace: Trace, step: str, began: float) -> None:
        end = self.end or self.station.door.clock()
        trace.spent.append((step, "rows", self.rows / self.count))
        if self.gathered:
            trace.rows.append((step, "queue", began, self.began))
        job = self.job
        if job is not None and self.told:
            job.write(trace, step, self.station.deployment.label, self.station.deployment.cause, end)
        trace.rows.append((step, "user", began, end))
        trace.rows.append((step, VISIT, began, end))
        trace.end = end
        if self.answered:
            trace.first_output = end


_GONE = Cancelled("who waited left", help="send the request again")


def tell(mistake: Exception) -> None:
    """One that is ours, in what comes after the end: the loop's handler says so, and the work of others goes on."""
    context = {"message": "the end of a request raised", "exception": mistake}
    asyncio.get_running_loop().call_exception_handler(context)
