"""A request that is one item of one deployment: it runs in no task of its own.

A task, its coroutines and the future between them cost as much as all the rest of a short request. Where
nothing but a model's run stands between question and answer, this object stands in for them: its request sees
a task that can be cancelled, its deployment a future that is told of the end.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tauten.errors import Cancelled, DeadlineExceeded, TautenError
from tauten.run.admission import Door
from tauten.run.deadline import arm, disarm
from tauten.run.deployment import Deployment
from tauten.run.opened import Opened
from tauten.run.replica import Job
from tauten.run.request import Request
from tauten.run.trace import VISIT

Ended = Callable[[Any, TautenError | None], None]
"""Told of the end once: the value, or why there is none."""


class Single:
    """One request through a plan whose only step, `step`, does nothing but run items of `deployment`.

    What `Engine.run` does for it is done here: the door, the deadline, the rows of its trace, the drain of its
    plan. `ended` is called once, on the loop, and never before `start` has returned.
    """

    __slots__ = (
        "_began",
        "_deployment",
        "_ended",
        "_job",
        "_opened",
        "_over",
        "_passage",
        "_step",
        "request",
    )

    def __init__(
        self, door: Door, opened: Opened, step: str, deployment: Deployment, request: Request, ended: Ended
    ) -> None:
        self.request = request
        self._opened = opened
        self._step = step
        self._deployment = deployment
        self._ended = ended
        self._passage = door.through(opened.path, request)
        self._over = False
        self._began = 0.0
        self._job: Job | None = None

    def start(self, item: Any) -> None:
        """Let it in; raises what admission, its deployment or a deadline that has passed raise."""
        request, opened = self.request, self._opened
        request.plan = opened.id
        self._passage.enter()
        try:
            arm(request)
            if request.failure is not None:
                raise request.failure
            self._open()
            self._job = self._deployment.submit(request, self._step, item, self)
        except BaseException as error:
            self._over = True
            self._close(error)
            raise

    def _open(self) -> None:
        request, opened = self.request, self._opened
        trace, lowered = request.trace, opened.lowered
        if lowered is not None:
            trace.edges, trace.order = lowered.edges, lowered.order
        trace.outputs = opened.outputs
        self._began = now = request.clock()
        trace.rows.append(("", "admission", trace.start + request.lag_s, now))
        request.task = self
        opened.requests.add(request)

    def _close(self, error: BaseException | None) -> None:
        """What is written and given back at the end, however it came."""
        request, step = self.request, self._step
        trace = request.trace
        disarm(request)
        request.task = None
        trace.end = now = request.clock()
        if error is None:
            trace.first_output = now
        if self._began:
            trace.rows.append((step, "user", self._began, now))
            trace.rows.append((step, VISIT, self._began, now))
        self._opened.requests.discard(request)
        passage = self._passage
        passage.whole = error is None
        passage.leave(isinstance(error, DeadlineExceeded))

    # -- as its deployment sees it -------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether nobody waits for the item any more."""
        return self._over

    def set_result(self, _: None, /) -> None:
        """The item is over."""
        self._over = True
        assert self._job is not None  # items end in later turns of the loop than they were given in
        job, self._job = self._job, None  # which knows its waiter: no circle for the garbage collector
        try:
            value = self._deployment.result(self.request, self._step, job)
        except TautenError as error:
            self._finish(None, error)
        else:
            self._finish(value, None)

    def _finish(self, value: Any, error: TautenError | None) -> None:
        self._close(error)
        self._ended(value, error)

    # -- as its request sees it ----------------------------------------------------------------------------

    def cancel(self) -> None:
        """The request was stopped: by its deadline, its client, or the engine."""
        if self._over:
            return
        self._over = True
        job, self._job = self._job, None
        if job is not None:
            self._deployment.leave(job)
        stopped = Cancelled("the request was cancelled", help="send it again")
        self._finish(None, self.request.failure or stopped)
