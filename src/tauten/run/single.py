"""A request that is one item of one deployment: no task of its own, and a trace only when somebody asks for it.

A task, its coroutines and the future between them, a request and its trace cost more than all the rest of a
short request. Where nothing but a model's run stands between question and answer, one object stands in for
them: admission and deadlines see a request in it, the deployment sees who waits for its item.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from tauten.errors import Cancelled, DeadlineExceeded, TautenError
from tauten.run.admission import Door, Passage
from tauten.run.deadline import arm, disarm
from tauten.run.deployment import Deployment
from tauten.run.opened import Opened
from tauten.run.replica import Job
from tauten.run.request import ANY_TIME, NOBODY, NOTHING, NOWHERE, Aim
from tauten.run.siblings import Family
from tauten.run.trace import VISIT, Trace


class Station(NamedTuple):
    """Where singles go: the only step of an opened plan, which does nothing but run items of `deployment`."""

    door: Door
    opened: Opened
    step: str
    deployment: Deployment


class Item(NamedTuple):
    """What is run: the deployment's item, its weight and group (`Deployment.kin`), and the rows it brings."""

    value: Any
    weight: float
    group: Any
    rows: float


def trace_of(kept: Trace | Single) -> Trace:
    """The trace of what was kept in place of it."""
    return kept if isinstance(kept, Trace) else kept.trace


class Single(ABC):
    """One request through a station.

    What `Engine.run` does for others is done here: the door, the deadline, the rows of its trace, the drain of its
    plan. `ended` is called once, on the loop, and never before `enter` has returned.
    """

    # what most never touch has its value in the class: an instance then costs half as much
    target = math.inf
    admitted = False
    after: dict[str, float] = NOTHING
    coming: set[Any] = NOWHERE
    families: dict[str, Family] = NOBODY
    armed: list[Any] | None = None
    failure: TautenError | None = None  # why it was stopped from our side
    rows = 1.0
    began = 0.0  # when its stage did
    end = 0.0
    over = False
    told = False  # by its deployment
    answered = False  # it came to its end as it should
    job: Job | None = None

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
        self.priority = priority
        self.tenant = tenant

    @abstractmethod
    def ended(self, value: Any, error: TautenError | None) -> None:
        """It is over: with a value, or why there is none."""

    def enter(self, item: Item) -> None:
        """Let it in; raises what admission, its deployment, or a deadline that has passed raise."""
        door, opened, step, deployment = self.station
        self._passage = Passage(door, opened.path, self)
        self._passage.enter()
        try:
            arm(self)
            if self.failure is not None:
                raise self.failure
            self.rows = item.rows
            self.began = now = door.clock()
            opened.requests.add(self)
            job = Job(item.value, item.weight, self, now, self)
            job.group = item.group
            deployment.push(self, step, job)
            self.job = job
        except BaseException as error:
            self.over = True
            self._leave(error)
            raise

    def _leave(self, error: BaseException | None) -> None:
        """What is given back at the end, however it came."""
        disarm(self)
        self.end = self.station.door.clock()
        self.answered = error is None
        self.station.opened.requests.discard(self)
        passage = self._passage
        passage.whole = error is None
        passage.leave(isinstance(error, DeadlineExceeded))
        del self._passage  # which knows this object

    # -- as its deployment sees it -------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether nobody waits for the item any more."""
        return self.over

    def set_result(self, _: None, /) -> None:
        """The item is over."""
        self.over = self.told = True
        job = self.job
        assert job is not None  # items end in later turns of the loop than they are given in
        try:
            value = self.station.deployment.outcome(job)
        except TautenError as error:
            self._finish(None, error)
        else:
            self._finish(value, None)

    def _finish(self, value: Any, error: TautenError | None) -> None:
        self._leave(error)
        self.ended(value, error)
        if self.told and self.job is not None:
            self.job.forget()
        else:
            self.job = None  # it may still run, for others' sake

    # -- as deadlines and whoever stops it see it ----------------------------------------------------------

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.station.door.clock()

    def fail(self, error: TautenError) -> None:
        """Stop the work: `ended` is told why."""
        if self.over:
            return
        self.failure = error
        self.over = True
        if self.job is not None:
            self.station.deployment.leave(self.job)
        self._finish(None, error)

    def cancel(self) -> None:
        """Stop the work for no reason of its own."""
        self.fail(Cancelled("the request was cancelled", help="send it again"))

    # -- as whoever asks where its time went sees it -------------------------------------------------------

    @property
    def trace(self) -> Trace:
        """Its trace so far, made anew at each call: the same rows that a task would have written."""
        opened, step = self.station.opened, self.station.step
        trace = Trace(self.start)
        if opened.lowered is not None:
            trace.edges, trace.order = opened.lowered.edges, opened.lowered.order
        trace.outputs = opened.outputs
        if self.lag_s:
            trace.rows.append(("", "loop", self.start, self.start + self.lag_s))
        if self.began:
            self._write(trace, step)
        return trace

    def _write(self, trace: Trace, step: str) -> None:
        end = self.end or self.station.door.clock()
        trace.rows.append(("", "admission", self.start + self.lag_s, self.began))
        trace.spent.append((step, "rows", self.rows))
        job = self.job
        if job is not None and self.told:
            job.write(trace, step, "compute", end)
        trace.rows.append((step, "user", self.began, end))
        trace.rows.append((step, VISIT, self.began, end))
        trace.end = end
        if self.answered:
            trace.first_output = end
