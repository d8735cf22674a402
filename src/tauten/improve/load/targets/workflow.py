"""A workflow in this process, through an engine: the network left out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from tauten.describe.payload import Payload
from tauten.describe.slo import Slo
from tauten.describe.workflow import Workflow
from tauten.errors import DeadlineExceeded, Overloaded, TautenError, Unavailable
from tauten.improve.load.target import Outcome, Response
from tauten.plan.plan import Plan
from tauten.run.door.objective import aim_of, budget_of
from tauten.run.engine import Engine
from tauten.run.request import ANY_TIME, Request
from tauten.run.trace import Trace


class WorkflowTarget:
    """One plan of a workflow on an engine that the caller opened; several plans may share it, so that what
    they agree on is in memory once and the idle one only waits.

    Requests without a deadline are refused and stopped by the SLO (the workflow's own where none is given), as
    a server does it. A recorded request that is sent once more stands for another one like it: caches give it
    only what they were given since the recording began anew.
    """

    shares_loop = True

    def __init__(
        self,
        engine: Engine,
        workflow: Workflow[..., Any],
        plan: Plan | None = None,
        slo: Slo | None = None,
    ) -> None:
        self.engine, self.workflow, self.plan = engine, workflow, plan
        self.name = plan.name if plan is not None and plan.name else "naive"
        self.slo = slo or workflow.slo
        self._id = ""
        self._number = next(_numbers)
        self._sent: Counter[int] = Counter()  # how often each prepared request

    async def open(self) -> None:
        """Load what the plan needs."""
        self._id = await self.engine.open(self.workflow, self.plan)

    def prepare(self, inputs: Mapping[str, Payload]) -> Any:
        return self.workflow.bind(**inputs)

    async def send(self, prepared: Any, budget_s: float) -> Response:
        request = self._request(budget_s)
        request.partition = f"{self._number}.{self._sent[id(prepared)]}"
        self._sent[id(prepared)] += 1
        if not self.engine.plans[self._id].streams:
            return await self._whole(prepared, request)
        outputs: list[float] = []
        try:
            stream = self.engine.stream(prepared, plan=self._id, request=request)
            async with aclosing(stream) as values:
                async for _ in values:
                    outputs.append(self.engine.clock())
        except TautenError as error:
            return Response(_outcome(error), outputs=tuple(outputs), error=_words(error))
        return Response(outputs=tuple(outputs), tokens=_tokens(request.trace))

    def _request(self, budget_s: float) -> Request:
        if budget_s < math.inf:
            request = self.engine.request(deadline_ms=budget_s * 1e3, aim=ANY_TIME)
        else:
            request = self.engine.request(deadline_ms=budget_of(self.slo) * 1e3, aim=aim_of(self.slo))
        request.teaches = False
        return request

    async def _whole(self, prepared: Any, request: Request) -> Response:
        try:
            answer = await self.engine.run(prepared, plan=self._id, request=request)
        except TautenError as error:
            return Response(_outcome(error), error=_words(error))
        return Response(tokens=_tokens(answer.trace))

    def zombies(self) -> int | None:
        """Requests that the engine still holds."""
        opened = self.engine.plans.get(self._id)
        return opened.running if opened is not None else 0

    async def close(self) -> None:
        """The engine is the caller's; nothing is left to give back."""


_numbers = itertools.count()


def _tokens(trace: Trace) -> int:
    return round(sum(amount for _, unit, amount in trace.spent if unit == "output_tokens"))


def _outcome(error: TautenError) -> Outcome:
    if isinstance(error, Overloaded | Unavailable):
        return "refused"  # before work began, as 429 and 503 of a server
    return "timed_out" if isinstance(error, DeadlineExceeded) else "failed"


def _words(error: TautenError) -> str:
    return f"{error.code} {error.message}"[:120]
