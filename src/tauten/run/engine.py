"""Runs requests through plans: a table of opened plans with weights, and the deployments they share.

Opening a plan binds it to models (nothing is loaded on request 1); several plans live at once, a request
keeps the plan it began with, and a retired plan drains before its models are freed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from msgspec.structs import replace

from tauten.clock import Clock, real
from tauten.describe.graph import FromStage
from tauten.describe.ports import Session
from tauten.describe.stage import StageKind
from tauten.describe.workflow import Workflow
from tauten.errors import InternalError, PlanError, suggest
from tauten.plan.lower import Lowered, lower
from tauten.plan.plan import Plan
from tauten.run.beside import ALONE, ROOT, behind, by_hand
from tauten.run.binding import Binder
from tauten.run.bound import BoundStep
from tauten.run.context import Running, StepContext, within
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.decode.decoders import Decoders
from tauten.run.deploy.deployments import Deployments, Models
from tauten.run.door.admission import Door, path_of
from tauten.run.ending import Ending
from tauten.run.opened import Answer, Opened
from tauten.run.request import ANY_TIME, Aim, Request
from tauten.run.siblings import cancel_all, outlasting
from tauten.run.slots import Run, settle, whole_streams
from tauten.run.steps import PlanSteps
from tauten.run.usage.book import Book
from tauten.run.values import join, unwrapped
from tauten.run.workers import Workers

PREPARATION_THREADS = 2  # decode and preparation release the GIL; two keep two cores busy
DRAIN_S = 30.0  # a retired plan's requests get this long, as a pod gets by default before it is killed


class Engine:
    """Opens plans and runs requests; lives on one event loop. `book` says what they took, where there is one.

    `store` gives model files (the default store when absent). All time is read from `clock`.
    """

    def __init__(
        self, store: Models | None = None, *, clock: Clock = real, seed: int = 0, book: Book | None = None
    ) -> None:
        self.clock = clock
        self.workers = Workers(PREPARATION_THREADS, "prepare", clock)
        self.decoders = Decoders(threads=PREPARATION_THREADS, clock=clock)
        self.deployments = Deployments(store, clock)
        self.plans: dict[str, Opened] = {}
        self.door = Door(clock, book)
        self._random = random.Random(seed)
        self._alone = Opened(Plan(), ALONE, None)  # holds the models of stages that are called alone
        self._alone.steps = self._plan_steps(self._alone)
        self._closed = False
        self._drains: set[asyncio.Task[Any]] = set()  # whoever retires a plan may leave before it has drained

    # -- opening --------------------------------------------------------------------------------------------

    async def open(
        self, workflow: Workflow[..., Any], plan: Plan | None = None, *, weight: float = 1.0
    ) -> str:
        """Load what a plan needs and add it to the table; returns its id. Failing leaves nothing open.

        A plan that is open already keeps its models and takes the new weight.
        """
        if self._closed:
            raise InternalError("the engine is closed", help="make a new one")
        plan = plan or Plan(graph=workflow.graph.hash if workflow.graph else "")
        if self._known(workflow, plan):
            self.plans[plan.id].weight = weight
            return plan.id
        opened = Opened(plan, workflow, None, plan.id, weight=weight)
        opened.steps = self._plan_steps(opened)
        try:
            if workflow.graph is not None:
                opened.lowered = lower(workflow.graph, plan)
                await self._bind(opened, opened.lowered, opened.steps)
            opened.path = path_of(opened.lowered, opened.steps.places)
            if self._known(workflow, plan):  # opened twice at once: the first stays
                await self.deployments.release(opened.keys)
                return plan.id
        except BaseException:
            await self.deployments.release(opened.keys)
            raise
        self.plans[plan.id] = opened
        return plan.id

    def _known(self, workflow: Workflow[..., Any], plan: Plan) -> bool:
        opened = self.plans.get(plan.id)
        if opened is None:
            return False
        if opened.workflow is not workflow:
            raise PlanError(
                f"plan {plan.id} is open for another workflow, '{opened.workflow.name}'",
                help="an engine runs the plans of one workflow: make one engine for each",
                code="E129",
            )
        return True

    def _plan_steps(self, opened: Opened) -> PlanSteps:
        about = (opened.workflow.name, partial(behind, self.door, opened), self.door.book)
        return PlanSteps(opened.plan, opened.keys, self.deployments, self.workers, self.decoders, *about)

    async def _bind(self, opened: Opened, lowered: Lowered, steps: PlanSteps) -> None:
        for step in lowered.steps:
            if step.kind is not None:
                opened.bound[step.name] = await steps.bind(step)
        binder = Binder(lowered, opened.bound, steps)
        opened.operators = binder.operators(lowered.program)
        wanted = replace(lowered.graph.output, optional=False, stream=self._streams(lowered))
        opened.result = binder.getter(lowered.result, "", wanted)
        opened.slots = len(binder.slots)
        graph = lowered.graph
        opened.streams = self._streams(lowered) or opened.workflow.streams
        opened.outputs = (lowered.result.name,) if isinstance(lowered.result, FromStage) else ()
        opened.inputs = (*graph.inputs, *([graph.session] if graph.session else []))

    @staticmethod
    def _streams(lowered: Lowered) -> bool:
        result = lowered.result
        return isinstance(result, FromStage) and lowered.graph.stages[result.name].output.stream

    # -- running --------------------------------------------------------------------------------------------

    async def run(
        self,
        inputs: Mapping[str, Any],
        *,
        plan: str = "",
        deadline_ms: float = math.inf,
        session: Session | None = None,
        request_id: str = "",
        request: Request | None = None,
        priority: int = 0,
        tenant: str = "",
    ) -> Answer:
        """Run one request to its end; a streamed result is collected (texts joined).

        Pass a `request` (of `Engine.request`) to be able to stop it. Raises Overloaded before work begins
        where the deadline could not be met, Unavailable while the door drains.
        """
        opened = self.pick(plan)
        request = request or self.request(
            deadline_ms=deadline_ms, session=session, id=request_id, priority=priority, tenant=tenant
        )
        request.plan = opened.id
        with self.door.through(opened.path, request, opened):
            arm(request)
            try:
                value = await stoppable(request, self._whole(opened, request, inputs))
            finally:
                disarm(request)
        return Answer(value, request.trace, opened.id, request.id)

    def _whole(self, opened: Opened, request: Request, inputs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        if opened.lowered is not None and not opened.streams:
            return self._straight(opened, request, inputs)
        return self._collected(opened, request, inputs)

    async def _collected(self, opened: Opened, request: Request, inputs: Mapping[str, Any]) -> Any:
        async with aclosing(self._values(opened, request, inputs)) as increments:
            values = [value async for value in increments]
        output = opened.workflow.output
        if opened.workflow.streams:
            return None if values == [None] else join(values, output)
        if len(values) == 1:
            return values[0]
        return join(values, output) if values else None

    async def _straight(self, opened: Opened, request: Request, inputs: Mapping[str, Any]) -> Any:
        """A drawn request with a whole result: the same steps as `_drawn`, without its generators."""
        trace = request.trace
        opened.requests.add(request)
        run = self._begin(opened, request, inputs)
        try:
            for operator in opened.operators:
                await operator(run)
            get, wait = opened.result  # type: ignore[misc]  # set when it was opened
            value = await get(run) if wait else get(run)
            trace.first_output = self.clock()
            run.begins(trace.first_output)
            if run.tasks:
                await settle(run)
            return value
        finally:
            try:
                if run.tasks:
                    await cancel_all([task for task in run.tasks if not task.done()])
            finally:  # also where it is cancelled once more meanwhile
                trace.end = self.clock()
                opened.requests.discard(request)

    def _begin(self, opened: Opened, request: Request, inputs: Mapping[str, Any]) -> Run:
        """The request's values by slot, its inputs filled in."""
        lowered = opened.lowered
        assert lowered is not None  # only drawn workflows have slots
        values: list[Any] = [inputs.get(name) for name in opened.inputs]
        values += [None] * (opened.slots - len(values))
        graph = lowered.graph
        if graph.session:
            given = request.session or inputs.get(graph.session)
            values[len(graph.inputs)] = request.session = given or Session()
        trace = request.trace
        trace.edges = lowered.edges
        trace.order = lowered.order
        trace.outputs = opened.outputs
        run = Run(request, values, self.clock())
        trace.rows.append(("", "admission", request.came, run.free))
        return run

    async def stream(
        self,
        inputs: Mapping[str, Any],
        *,
        plan: str = "",
        deadline_ms: float = math.inf,
        session: Session | None = None,
        request_id: str = "",
        request: Request | None = None,
        priority: int = 0,
        tenant: str = "",
    ) -> AsyncGenerator[Any, None]:
        """Yield a request's increments as they come; closing it stops the work. Else as `run`."""
        opened = self.pick(plan)
        request = request or self.request(
            deadline_ms=deadline_ms, session=session, id=request_id, priority=priority, tenant=tenant
        )
        request.plan = opened.id
        passage = self.door.through(opened.path, request, opened)
        passage.enter()
        values = self._values(opened, request, inputs)
        ending = Ending(request, passage, values)
        arm(request)
        try:
            while True:
                value = await stoppable(request, anext(values, _END))
                if value is _END:
                    passage.whole = True
                    return
                yield value  # meanwhile the caller's task is its own: a deadline only ends our work
        except GeneratorExit:
            request.cancelled = True
            raise
        finally:
            await ending.whole()

    def knock(
        self, deadline_ms: float, aim: Aim = ANY_TIME, priority: int = 0, tenant: str = "", lag_s: float = 0.0
    ) -> None:
        """Raise Overloaded or Unavailable where a request would be refused now; it reserves nothing."""
        ways = [opened.path for opened in self.plans.values() if opened.weight]
        self.door.knock(ways[0] if len(ways) == 1 else None, priority, deadline_ms / 1e3, lag_s, aim, tenant)

    def request(
        self,
        *,
        deadline_ms: float = math.inf,
        session: Session | None = None,
        id: str = "",
        priority: int = 0,
        tenant: str = "",
        aim: Aim = ANY_TIME,
        **since: float,
    ) -> Request:
        """A request to hand to `run` or `stream`; `since` its arrival passed `sent_s`, `lag_s` and `read_s`."""
        request = Request(
            self.clock, id=id, session=session, priority=priority, tenant=tenant, aim=aim, **since
        )
        request.deadline = request.trace.start + deadline_ms / 1000.0
        return request

    async def _values(
        self, opened: Opened, request: Request, inputs: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """The increments of one request (one value where the result is whole)."""
        trace = request.trace
        opened.requests.add(request)
        increments = (self._observed if opened.lowered is None else self._drawn)(opened, request, inputs)
        try:
            async for value in increments:
                if trace.first_output is None:
                    trace.first_output = self.clock()
                yield value
        finally:
            try:
                await increments.aclose()
            finally:
                trace.end = self.clock()
                opened.requests.discard(request)

    async def _drawn(
        self, opened: Opened, request: Request, inputs: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        run = self._begin(opened, request, inputs)
        try:
            for operator in opened.operators:
                await operator(run)
            get, wait = opened.result  # type: ignore[misc]  # set when it was opened
            value = await get(run) if wait else get(run)
            if hasattr(value, "__aiter__"):
                async for each in value:
                    yield each
                run.free = self.clock()
            else:
                yield value
            await settle(run)
            run.begins(self.clock())
        finally:
            await cancel_all([task for task in run.tasks if not task.done()])

    async def _observed(
        self, opened: Opened, request: Request, inputs: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        workflow = opened.workflow
        assert opened.steps is not None  # set when it was opened
        arguments = whole_streams(workflow.inputs, inputs)
        if workflow.session:
            request.session = request.session or inputs.get(workflow.session) or Session()
            arguments = {**arguments, workflow.session: request.session}
        root = BoundStep("", ROOT, {}, self.workers)
        context = StepContext(root, request, opened.steps, {})
        request.trace.rows.append(("", "admission", request.came, self.clock()))
        returned = workflow.function(**arguments)
        value = returned if hasattr(returned, "__aiter__") else await within(context, returned)
        if isinstance(value, Running) and not value.streams:
            value = await value  # `return stage(...)` without its `await`
        if not hasattr(value, "__aiter__"):
            yield unwrapped(value, workflow.output)
            return
        source = aiter(value)
        try:
            while (each := await within(context, anext(source, _END))) is not _END:
                yield unwrapped(each, workflow.output)  # the caller's code is not inside the request
        finally:
            if hasattr(source, "aclose"):
                await source.aclose()

    async def run_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one stage alone, as calling it outside a workflow does."""
        return await by_hand(self.door, self._alone, self.workers, kind, args, kwargs)

    # -- the table --------------------------------------------------------------------------------------------

    def draw(self) -> str:
        """The id of a plan for one more request, drawn by weight; pass it as `plan`."""
        return self.pick("").id

    def pick(self, plan: str) -> Opened:
        """The named plan, or one drawn by weight."""
        if plan:
            if plan not in self.plans:
                raise PlanError(f"no plan {plan!r} is open", help=suggest(plan, self.plans), code="E127")
            return self.plans[plan]
        open_plans = list(self.plans.values())
        if not open_plans:
            raise InternalError("the engine has no open plan", help="call open() first")
        if len(open_plans) == 1:
            return open_plans[0]
        weights = [opened.weight for opened in open_plans]
        if not sum(weights) > 0:
            raise PlanError("every open plan is parked (weight 0)", help="name one: plan=...", code="E127")
        return self._random.choices(open_plans, weights)[0]

    async def swap(self, workflow: Workflow[..., Any], plan: Plan) -> str:
        """Open a plan beside the others, send all new requests to it, and retire the others."""
        new = await self.open(workflow, plan)
        old = [self.plans.pop(name) for name in list(self.plans) if name != new]
        await asyncio.gather(*(outlasting(self._drains, self._drain(opened, DRAIN_S)) for opened in old))
        return new

    async def retire(self, plan: str, *, drain_s: float = DRAIN_S) -> None:
        """Take a plan from the table and free its models when its requests have ended.

        Requests that still run after `drain_s` seconds are stopped with `Unavailable`.
        """
        if plan not in self.plans:
            raise PlanError(f"no plan {plan!r} is open", help=suggest(plan, self.plans), code="E127")
        opened = self.plans.pop(plan)
        if not drain_s:
            opened.stop()  # in this very turn
        await outlasting(self._drains, self._drain(opened, drain_s))

    async def _drain(self, opened: Opened, drain_s: float) -> None:
        until = self.clock() + drain_s
        while opened.requests and self.clock() < until:
            await asyncio.sleep(0.01)
        opened.stop()
        for _ in range(_STOPPING):
            if not opened.requests:
                break
            await asyncio.sleep(0.01)
        await self.deployments.release(opened.keys)

    def zombies(self) -> int:
        """Work that still runs for requests that ended more than 100 ms ago."""
        return self.deployments.zombies() + self.workers.zombies() + self.decoders.zombies()

    def properties(self) -> dict[str, Mapping[str, str]]:
        """What is in force in each deployment: precision, threads, device."""
        return self.deployments.properties()

    def step_properties(self, plan: str) -> dict[str, dict[str, Mapping[str, str]]]:
        """For each step of a plan and each role, what is really in force."""
        opened = self.plans[plan]
        return {
            name: {role: each.properties for role, each in bound.deployments.items()}
            for name, bound in opened.bound.items()
            if bound.deployments
        }

    async def close(self) -> None:
        """Stop everything; may be called twice."""
        self._closed = True
        for plan in list(self.plans):
            await self._drain(self.plans.pop(plan), 0.0)
        await self.deployments.close()
        self.workers.close()
        await self.decoders.end()

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


_END: Any = object()
_STOPPING = 100  # looks, 10 ms apart, at whether stopped requests have ended: their clean-up is theirs
