"""Runs requests through plans: a table of opened plans with weights, and the deployments they share.

Opening a plan binds it to models (nothing is loaded on request 1); several plans live at once, a request
keeps the plan it began with, and a retired plan drains before its models are freed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from tauten.clock import Clock, real
from tauten.describe.graph import FromStage
from tauten.describe.ports import Session
from tauten.describe.stage import AMBIENT, StageKind
from tauten.describe.workflow import Workflow
from tauten.errors import Cancelled, DeadlineExceeded, InternalError, PlanError, suggest
from tauten.plan.lower import Lowered, Step, lower, model_choices, step_params
from tauten.plan.plan import ModelChoice, Plan, StagePlan
from tauten.run.binding import Binder, Getter, Operator, Run
from tauten.run.context import (
    BoundStep,
    Dynamic,
    Running,
    StepContext,
    cancel_all,
    join,
    unwrapped,
)
from tauten.run.contracts import ModelSpec, find
from tauten.run.decoders import Decoders
from tauten.run.deployment import Deployment, SlotDeployment
from tauten.run.request import Request
from tauten.run.trace import Trace
from tauten.run.workers import Workers, in_thread

PREPARATION_THREADS = 2  # decode and preparation release the GIL; two keep two cores busy
DRAIN_S = 30.0  # a retired plan's requests get this long, as a pod gets by default before it is killed


class Models(Protocol):
    """Where model files come from; the store implements it."""

    def files(self, model: str, variant: str | None = None) -> dict[str, Path]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gave: its value, and the trace of how."""

    value: Any
    trace: Trace
    plan: str
    request_id: str


@dataclass(slots=True, eq=False)
class Opened:
    """A plan in the engine's table."""

    plan: Plan
    workflow: Workflow[..., Any]
    lowered: Lowered | None
    operators: tuple[Operator, ...] = ()
    result: tuple[Getter, bool] | None = None
    slots: int = 0
    inputs: tuple[str, ...] = ()
    bound: dict[str, BoundStep] = field(default_factory=dict)
    steps: PlanSteps | None = None
    keys: list[str] = field(default_factory=list)  # of the deployments it holds
    weight: float = 1.0
    requests: set[Request] = field(default_factory=set)  # that run it now

    @property
    def running(self) -> int:
        return len(self.requests)


class PlanSteps(Dynamic):
    """The steps that running code calls under one plan, each bound when it is first met."""

    def __init__(self, engine: Engine, plan: Plan, keys: list[str]) -> None:
        self.decoders = engine.decoders
        self._engine = engine
        self._plan = plan
        self._keys = keys
        self._bound: dict[tuple[Any, ...], BoundStep] = {}

    def ready(self, name: str, kind: StageKind[..., Any], params: Mapping[str, Any]) -> BoundStep | None:
        return self._bound.get((name, kind, params.get("model"), params.get("backend")))

    async def bound(
        self, name: str, kind: StageKind[..., Any], params: dict[str, Any], run: Request
    ) -> BoundStep:
        """Open the models of a step met for the first time; its time is `load`."""
        started = self._engine.clock()
        chosen = self._plan.stage(name)
        bound = await self._engine.bound_step(self._keys, name, kind, params, chosen)
        self._bound[name, kind, params.get("model"), params.get("backend")] = bound
        run.trace.rows.append((name, "load", started, self._engine.clock()))
        return bound


class Engine:
    """Opens plans and runs requests; lives on one event loop.

    `store` gives model files (the default store when absent). All time is read from `clock`.
    """

    def __init__(self, store: Models | None = None, *, clock: Clock = real, seed: int = 0) -> None:
        self._store = store
        self.clock = clock
        self.workers = Workers(PREPARATION_THREADS, "prepare", clock)
        self.decoders = Decoders(threads=PREPARATION_THREADS)
        self.plans: dict[str, Opened] = {}
        self._deployments: dict[str, tuple[Deployment | SlotDeployment, int]] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._random = random.Random(seed)
        self._alone = Opened(Plan(), _NO_WORKFLOW, None)  # holds the models of stages that are called alone
        self._alone.steps = PlanSteps(self, self._alone.plan, self._alone.keys)
        self._closed = False

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
        opened = Opened(plan, workflow, None, weight=weight)
        opened.steps = PlanSteps(self, plan, opened.keys)
        try:
            if workflow.graph is not None:
                opened.lowered = lower(workflow.graph, plan)
                await self._bind(opened, opened.lowered, opened.steps)
            if self._known(workflow, plan):  # opened twice at once: the first stays
                await self._release(opened)
                return plan.id
        except BaseException:
            await self._release(opened)
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

    async def _bind(self, opened: Opened, lowered: Lowered, steps: PlanSteps) -> None:
        for step in lowered.steps:
            await self._bind_step(opened, step)
        binder = Binder(lowered, opened.bound, steps)
        opened.operators = binder.operators(lowered.program)
        wanted = replace(lowered.graph.output, optional=False, stream=self._streams(lowered))
        opened.result = binder.getter(lowered.result, "", wanted)
        opened.slots = len(binder.slots)
        graph = lowered.graph
        opened.inputs = (*graph.inputs, *([graph.session] if graph.session else []))

    @staticmethod
    def _streams(lowered: Lowered) -> bool:
        result = lowered.result
        return isinstance(result, FromStage) and lowered.graph.stages[result.name].output.stream

    async def _bind_step(self, opened: Opened, step: Step) -> None:
        if step.kind is None:
            return
        check_settings(step.name, step.kind, step.plan, step.models)
        bound = await self._bound_step(opened.keys, step.name, step.kind, step.params, step.models)
        opened.bound[step.name] = bound

    async def bound_step(
        self,
        keys: list[str],
        name: str,
        kind: StageKind[..., Any],
        params: dict[str, Any],
        chosen: StagePlan,
    ) -> BoundStep:
        """Bind a step that no drawing announced; what it opens is added to `keys`."""
        models = model_choices(kind, chosen, params)
        check_settings(name, kind, chosen, models)
        settings = step_params(kind, {}, chosen, name)
        bound = await self._bound_step(keys, name, kind, settings, models)
        bound.decode, bound.view = chosen.decode, chosen.view
        return bound

    async def _bound_step(
        self,
        keys: list[str],
        name: str,
        kind: StageKind[..., Any],
        params: Mapping[str, Any],
        models: dict[str, ModelChoice],
    ) -> BoundStep:
        deployments: dict[str, Deployment | SlotDeployment] = {}
        files: dict[str, Mapping[str, Path]] = {}
        for role, choice in models.items():
            files[role] = await self._files(choice)
            if choice.backend:
                deployments[role] = await self._deployment(keys, choice, files[role])
        if kind.is_class or kind.max_batch > 1:
            body = ModelChoice(model=kind.name, backend="python", options={"kind": kind})
            deployments["body"] = await self._deployment(keys, body, {}, kind.max_batch)
        return BoundStep(name, kind, params, self.workers, deployments, files)

    async def _files(self, choice: ModelChoice) -> dict[str, Path]:
        if choice.backend.startswith("synthetic"):
            return {}
        if self._store is None:
            from tauten.models.store import Store

            self._store = Store()
        store, variant = self._store, choice.variant or None
        return await in_thread(store.files, choice.model, variant)  # may pull: seconds

    async def _deployment(
        self, keys: list[str], choice: ModelChoice, files: Mapping[str, Path], max_batch: int = 0
    ) -> Deployment | SlotDeployment:
        """The deployment of a choice: shared by all plans and steps that agree on it."""
        batch = max_batch or choice.batch.max
        key = _key(choice, batch)
        lock = self._opening.setdefault(key, asyncio.Lock())
        async with lock:
            if key in self._deployments:
                deployment, holders = self._deployments[key]
            else:
                deployment, holders = self._make(choice, dict(files), batch), 0
                await self._open(deployment)
            self._deployments[key] = (deployment, holders + 1)
            keys.append(key)
        return deployment

    @staticmethod
    async def _open(deployment: Deployment | SlotDeployment) -> None:
        try:
            await deployment.open()
        except BaseException:
            await deployment.close()
            raise

    def _make(self, choice: ModelChoice, files: dict[str, Path], batch: int) -> Deployment | SlotDeployment:
        backend = find("backends", choice.backend)
        options = {key: value for key, value in choice.options.items() if key in backend.option_keys}
        spec = ModelSpec(choice.model, choice.variant, files, choice.threads, choice.precision, options)
        label = f"{choice.model}/{choice.backend}"
        if hasattr(backend, "start"):
            return SlotDeployment(backend(spec), label=label, clock=self.clock)
        return Deployment(
            lambda: backend(spec), label=label, clock=self.clock, replicas=choice.replicas, max_batch=batch
        )

    # -- running --------------------------------------------------------------------------------------------

    async def run(
        self,
        inputs: Mapping[str, Any],
        *,
        plan: str = "",
        deadline_ms: float = math.inf,
        session: Session | None = None,
        request_id: str = "",
    ) -> Answer:
        """Run one request to its end; a streamed result is collected (texts joined)."""
        opened = self._pick(plan)
        request = self._request(deadline_ms, session, request_id)
        value = await self._guarded(request, self._whole(opened, request, inputs))
        return Answer(value, request.trace, opened.plan.id, request.id)

    async def _whole(self, opened: Opened, request: Request, inputs: Mapping[str, Any]) -> Any:
        async with aclosing(self._values(opened, request, inputs)) as increments:
            values = [value async for value in increments]
        output = opened.workflow.output
        if opened.workflow.streams:
            return None if values == [None] else join(values, output)
        if len(values) == 1:
            return values[0]
        return join(values, output) if values else None

    async def stream(
        self,
        inputs: Mapping[str, Any],
        *,
        plan: str = "",
        deadline_ms: float = math.inf,
        session: Session | None = None,
        request_id: str = "",
        request: Request | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield a request's increments as they come; closing the iterator stops the work.

        Pass a `request` to keep its trace.
        """
        opened = self._pick(plan)
        request = request or self._request(deadline_ms, session, request_id)
        values = self._values(opened, request, inputs)
        self._arm(request)
        try:
            while True:
                value = await self._stoppable(request, anext(values, _END))
                if value is _END:
                    return
                yield value  # meanwhile the caller's task is its own: a deadline only stops our work
        except GeneratorExit:
            request.cancelled = True
            raise
        finally:
            self._disarm(request)
            await values.aclose()

    def request(self, *, deadline_ms: float = math.inf, session: Session | None = None) -> Request:
        """A request on this engine's clock, to hand to `stream`."""
        return self._request(deadline_ms, session, "")

    def _request(self, deadline_ms: float, session: Session | None, id: str) -> Request:
        request = Request(self.clock, id=id, session=session)
        request.deadline = request.trace.start + deadline_ms / 1000.0
        return request

    async def _guarded(self, request: Request, work: Any) -> Any:
        """Await the work under the request's one deadline."""
        self._arm(request)
        try:
            return await self._stoppable(request, work)
        finally:
            self._disarm(request)

    async def _stoppable(self, request: Request, work: Any) -> Any:
        """Await a piece of work in the caller's task; where it was stopped from our side, raise why."""
        task = asyncio.current_task()
        assert task is not None  # engines run in tasks
        asked = task.cancelling()
        try:
            if request.failure is not None:
                raise request.failure
            request.task = task
            value = await work
        except BaseException as error:
            request.task = None
            if request.failure is not None and (task.cancelling() == asked or task.uncancel() <= asked):
                raise request.failure from (None if isinstance(error, asyncio.CancelledError) else error)
            request.cancelled = request.cancelled or isinstance(error, asyncio.CancelledError)
            raise
        finally:
            request.task = None
            if asyncio.iscoroutine(work):
                work.close()
        if request.failure is not None:  # its code swallowed the cancellation
            if task.cancelling() > asked:
                task.uncancel()
            raise request.failure
        return value

    def _arm(self, request: Request) -> None:
        if request.deadline == math.inf:
            return
        if not request.left() > 0:
            request.failure = self._late(request)
            return
        loop = asyncio.get_running_loop()
        request.timer = loop.call_at(loop.time() + request.left(), self._expire, request)

    def _disarm(self, request: Request) -> None:
        if request.timer is not None:
            request.timer.cancel()

    def _expire(self, request: Request) -> None:
        left = request.left()
        if left > 0:  # loops that round timers may fire early: look again
            loop = asyncio.get_running_loop()
            request.timer = loop.call_at(loop.time() + left, self._expire, request)
            return
        request.fail(self._late(request))

    @staticmethod
    def _late(request: Request) -> DeadlineExceeded:
        budget_ms = (request.deadline - request.trace.start) * 1e3
        return DeadlineExceeded(
            f"the deadline of {budget_ms:.0f} ms passed", help="allow more time, or tighten the plan"
        )

    async def _values(
        self, opened: Opened, request: Request, inputs: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """The increments of one request (one value where the result is whole)."""
        trace = request.trace
        opened.requests.add(request)
        source = self._observed if opened.lowered is None else self._drawn
        increments = source(opened, request, inputs)
        try:
            async for value in increments:
                if trace.first_output is None:
                    trace.first_output = self.clock()
                yield value
        finally:
            await increments.aclose()
            trace.end = self.clock()
            opened.requests.discard(request)

    async def _drawn(
        self, opened: Opened, request: Request, inputs: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        lowered, result = opened.lowered, opened.result
        assert lowered is not None  # opened so
        assert result is not None
        values: list[Any] = [inputs.get(name) for name in opened.inputs]
        values += [None] * (opened.slots - len(values))
        if lowered.graph.session:
            given = request.session or inputs.get(lowered.graph.session)
            values[len(lowered.graph.inputs)] = request.session = given or Session()
        run = Run(request, values)
        request.tasks = run.tasks
        request.trace.edges = lowered.edges
        request.trace.outputs = (lowered.result.name,) if isinstance(lowered.result, FromStage) else ()
        try:
            for operator in opened.operators:
                await operator(run)
            get, wait = result
            value = await get(run) if wait else get(run)
            if hasattr(value, "__aiter__"):
                async for each in value:
                    yield each
            else:
                yield value
            await _settle(run)
        finally:
            await cancel_all([task for task in run.tasks if not task.done()])

    async def _observed(
        self, opened: Opened, request: Request, inputs: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        workflow = opened.workflow
        assert opened.steps is not None  # set when it was opened
        if workflow.session:
            request.session = request.session or inputs.get(workflow.session) or Session()
        arguments = dict(inputs)
        if workflow.session:
            arguments[workflow.session] = request.session
        root = BoundStep("", _ROOT, {}, self.workers)
        context = StepContext(root, request, opened.steps, {})
        returned = workflow.function(**arguments)
        value = returned if hasattr(returned, "__aiter__") else await _within(context, returned)
        if isinstance(value, Running) and not value.streams:
            value = await value  # `return stage(...)` without its `await`
        if not hasattr(value, "__aiter__"):
            yield unwrapped(value, workflow.output)
            return
        source = aiter(value)
        try:
            while (each := await _within(context, anext(source, _END))) is not _END:
                yield unwrapped(each, workflow.output)  # the caller's code is not inside the request
        finally:
            if hasattr(source, "aclose"):
                await source.aclose()

    async def run_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one stage alone, as calling it outside a workflow does."""
        inputs, params = kind.bind(args, kwargs)
        if kind.prepare is not None:
            inputs, params = kind.prepare(inputs, params, Path.cwd())
        request = self._request(math.inf, Session() if kind.session_param else None, "")
        steps = self._alone.steps
        assert steps is not None  # set when the engine was made
        root = StepContext(BoundStep("", _ROOT, {}, self.workers), request, steps, {})
        return await Running(root, kind, kind.name, inputs, params)

    # -- the table --------------------------------------------------------------------------------------------

    def _pick(self, plan: str) -> Opened:
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
        await asyncio.gather(*(self._drain(opened, DRAIN_S) for opened in old))
        return new

    async def retire(self, plan: str, *, drain_s: float = DRAIN_S) -> None:
        """Take a plan from the table and free its models when its requests have ended.

        Requests that still run after `drain_s` seconds are stopped with `Cancelled`.
        """
        if plan not in self.plans:
            raise PlanError(f"no plan {plan!r} is open", help=suggest(plan, self.plans), code="E127")
        await self._drain(self.plans.pop(plan), drain_s)

    async def _drain(self, opened: Opened, drain_s: float) -> None:
        until = self.clock() + drain_s
        while opened.requests and self.clock() < until:
            await asyncio.sleep(0.01)
        for request in list(opened.requests):
            request.fail(
                Cancelled(
                    f"plan {opened.plan.id} was retired while the request ran", help="send the request again"
                )
            )
        for _ in range(_STOPPING):
            if not opened.requests:
                break
            await asyncio.sleep(0.01)
        await self._release(opened)

    async def _release(self, opened: Opened) -> None:
        keys = list(opened.keys)
        opened.keys.clear()
        for key in keys:
            deployment, holders = self._deployments[key]
            if holders > 1:
                self._deployments[key] = (deployment, holders - 1)
            else:
                del self._deployments[key]
                await deployment.close()

    def properties(self) -> dict[str, Mapping[str, str]]:
        """What is in force in each deployment: precision, threads, device."""
        return {key: deployment.properties for key, (deployment, _) in self._deployments.items()}

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
            await self.retire(plan, drain_s=0.0)
        for deployment, _ in list(self._deployments.values()):
            await deployment.close()
        self._deployments.clear()
        self.workers.close()
        await in_thread(self.decoders.close)

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def check_settings(
    name: str, kind: StageKind[..., Any], chosen: StagePlan, models: Mapping[str, ModelChoice]
) -> None:
    """The second phase of reading a plan: every key must be known to the stage kind or a backend."""
    options = {
        role: find("backends", choice.backend).option_keys if choice.backend else frozenset()
        for role, choice in models.items()
    }
    _check_keys(f"stage '{name}'", chosen.settings, frozenset(kind.params).union(*options.values()))
    for role, own in chosen.roles.items():
        _check_keys(f"stage '{name}', role '{role}'", own.options, options[role])


def _check_keys(where: str, settings: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in settings:
        if key not in known:
            raise PlanError(
                f"{where}: unknown key `{key}`", help=suggest(key, known | _STAGE_KEYS), code="E109"
            )


_STAGE_KEYS = frozenset(
    {"model", "variant", "backend", "precision", "threads", "replicas", "batch", "beside", "view"}
)


async def _settle(run: Run) -> None:
    """Raise what a producer raised unseen; streams that nobody reads are stopped by the caller."""
    for task in run.tasks:
        if task.done():
            await task


def _key(choice: ModelChoice, batch: int) -> str:
    """What makes two choices the same deployment."""
    options = {
        name: value if isinstance(value, str | int | float | bool | list | type(None)) else id(value)
        for name, value in choice.options.items()
    }
    parts = [
        choice.model,
        choice.variant,
        choice.backend,
        choice.precision,
        choice.threads,
        choice.replicas,
        batch,
    ]
    return msgspec.json.encode([*parts, options], order="deterministic").decode()


async def _within(context: StepContext, work: Awaitable[Any]) -> Any:
    """Await the user's code with the request as its surroundings."""
    token = AMBIENT.set(context)
    try:
        return await work
    finally:
        AMBIENT.reset(token)


async def _nothing() -> None:
    """The body of a workflow's root step; never called."""


_END: Any = object()
_STOPPING = 100  # looks, 10 ms apart, at whether stopped requests have ended: their clean-up is theirs
_ROOT: StageKind[..., Any] = StageKind(_nothing, name="")
_NO_WORKFLOW: Workflow[..., Any] = Workflow(_nothing, name="alone")
