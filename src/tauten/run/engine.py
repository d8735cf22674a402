"""Runs requests through plans: a table of opened plans with weights, and the deployments they share.

Opening a plan binds it to models (nothing is loaded on request 1); several plans live at once, a request
keeps the plan it began with, and a retired plan drains before its models are freed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tauten.clock import Clock, real
from tauten.describe.graph import FromStage
from tauten.describe.ports import PortType, Session
from tauten.describe.stage import AMBIENT, StageKind
from tauten.describe.workflow import Workflow
from tauten.errors import DeadlineExceeded, InternalError, PlanError, suggest
from tauten.plan.lower import Lowered, Step, lower, model_choices, step_params
from tauten.plan.plan import ModelChoice, Plan
from tauten.run.binding import Binder, Getter, Operator, Run
from tauten.run.context import BoundStep, Dynamic, StepContext, cancel_all, join, run_stage, stream_stage
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
    keys: list[str] = field(default_factory=list)  # of the deployments it holds
    weight: float = 1.0
    running: int = 0


class Engine(Dynamic):
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
        self._dynamic: dict[str, BoundStep] = {}
        self._current: Plan = Plan()

    # -- opening --------------------------------------------------------------------------------------------

    async def open(
        self, workflow: Workflow[..., Any], plan: Plan | None = None, *, weight: float = 1.0
    ) -> str:
        """Load what a plan needs and add it to the table; returns its id. Failing leaves nothing open."""
        plan = plan or Plan(graph=workflow.graph.hash if workflow.graph else "")
        opened = Opened(plan, workflow, None, weight=weight)
        if workflow.graph is not None:
            opened.lowered = lower(workflow.graph, plan)
            await self._bind(opened, opened.lowered)
        self._current = plan
        self.plans[plan.id] = opened
        return plan.id

    async def _bind(self, opened: Opened, lowered: Lowered) -> None:
        try:
            for step in lowered.steps:
                await self._bind_step(opened, step)
        except BaseException:
            await self._release(opened)
            raise
        binder = Binder(lowered, opened.bound, self, self.decoders)
        opened.operators = binder.operators(lowered.program)
        wanted = PortType((), stream=True) if self._streams(lowered) else PortType(())
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
        check_settings(step.name, step.kind, step.plan.settings, step.models)
        bound = await self._bound_step(opened.keys, step.name, step.kind, step.params, step.models)
        opened.bound[step.name] = bound

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
                await deployment.open()
            self._deployments[key] = (deployment, holders + 1)
            keys.append(key)
        return deployment

    def _make(self, choice: ModelChoice, files: dict[str, Path], batch: int) -> Deployment | SlotDeployment:
        backend = find("backends", choice.backend)
        spec = ModelSpec(
            choice.model, choice.variant, files, choice.threads, choice.precision, dict(choice.options)
        )
        label = f"{choice.model}/{choice.backend}"
        if hasattr(backend, "start"):
            return SlotDeployment(backend(spec), label=label, clock=self.clock)
        return Deployment(
            lambda: backend(spec), label=label, clock=self.clock, replicas=choice.replicas, max_batch=batch
        )

    # -- Dynamic: steps of running code ---------------------------------------------------------------------

    def ready(self, name: str) -> BoundStep | None:
        return self._dynamic.get(name)

    async def bound(
        self, name: str, kind: StageKind[..., Any], params: dict[str, Any], run: Request
    ) -> BoundStep:
        """Open the models of a step met for the first time; its time is `load`."""
        started = self.clock()
        chosen = self._current.stage(name)
        models = model_choices(kind, chosen, params)
        check_settings(name, kind, chosen.settings, models)
        settings = step_params(kind, {}, chosen, name)
        keys = self._observed_keys()
        bound = await self._bound_step(keys, name, kind, settings, models)
        self._dynamic[name] = bound
        run.trace.rows.append((name, "load", started, self.clock()))
        return bound

    def _observed_keys(self) -> list[str]:
        opened = next(reversed(self.plans.values()), None)
        return opened.keys if opened is not None else []

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
        values = [value async for value in self._values(opened, request, inputs)]
        if opened.workflow.streams:
            return join(values)
        return values[0] if values else None

    async def stream(
        self,
        inputs: Mapping[str, Any],
        *,
        plan: str = "",
        deadline_ms: float = math.inf,
        session: Session | None = None,
        request_id: str = "",
        request: Request | None = None,
    ) -> AsyncIterator[Any]:
        """Yield a request's increments as they come; closing the iterator stops the work.

        Pass a `request` to keep its trace.
        """
        opened = self._pick(plan)
        request = request or self._request(deadline_ms, session, request_id)
        values = self._values(opened, request, inputs)
        self._arm(request)
        try:
            async for value in values:
                yield value
        except asyncio.CancelledError:
            self._raise_expired(request)
            raise
        finally:
            await values.aclose()  # type: ignore[attr-defined]
            self._disarm(request)

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
            return await work
        except asyncio.CancelledError:
            self._raise_expired(request)
            raise
        finally:
            self._disarm(request)

    def _arm(self, request: Request) -> None:
        request.task = asyncio.current_task()
        if request.deadline < math.inf:
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
        request.expired = True
        request.cancel()

    def _raise_expired(self, request: Request) -> None:
        if not request.expired:
            return
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        budget_ms = (request.deadline - request.trace.start) * 1e3
        raise DeadlineExceeded(
            f"the deadline of {budget_ms:.0f} ms passed", help="allow more time, or tighten the plan"
        ) from None

    async def _values(
        self, opened: Opened, request: Request, inputs: Mapping[str, Any]
    ) -> AsyncIterator[Any]:
        """The increments of one request (one value where the result is whole)."""
        trace = request.trace
        opened.running += 1
        try:
            if opened.lowered is None:
                async for value in self._observed(opened, request, inputs):
                    if trace.first_output is None:
                        trace.first_output = self.clock()
                    yield value
            else:
                async for value in self._drawn(opened, request, inputs):
                    if trace.first_output is None:
                        trace.first_output = self.clock()
                    yield value
        finally:
            trace.end = self.clock()
            opened.running -= 1

    async def _drawn(self, opened: Opened, request: Request, inputs: Mapping[str, Any]) -> AsyncIterator[Any]:
        lowered, result = opened.lowered, opened.result
        assert lowered is not None  # opened so
        assert result is not None
        values: list[Any] = [inputs.get(name) for name in opened.inputs]
        values += [None] * (opened.slots - len(values))
        if lowered.graph.session:
            values[len(lowered.graph.inputs)] = request.session = request.session or Session()
        run = Run(request, values)
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
    ) -> AsyncIterator[Any]:
        workflow = opened.workflow
        request.session = request.session or (Session() if workflow.session else None)
        arguments = dict(inputs)
        if workflow.session:
            arguments[workflow.session] = request.session
        root = BoundStep("", _ROOT, {}, self.workers)
        context = StepContext(root, request, self, {})
        token = AMBIENT.set(context)
        try:
            returned = workflow.function(**arguments)
            if hasattr(returned, "__aiter__"):
                async for value in returned:
                    yield value
                return
            value = await returned
        finally:
            AMBIENT.reset(token)
        if hasattr(value, "__aiter__"):
            async for each in value:
                yield each
        else:
            yield value

    async def run_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one stage alone, as calling it outside a workflow does."""
        inputs, params = kind.bind(args, kwargs)
        if kind.prepare is not None:
            inputs, params = kind.prepare(inputs, params, Path.cwd())
        for name, port in kind.inputs.items():
            if name in inputs:
                inputs[name] = port.coerce(inputs[name])
        request = self._request(math.inf, Session() if kind.session_param else None, "")
        bound = await self._alone(kind, params, request)
        for name, view in kind.views.items():
            inputs[name] = await self._decoded(inputs.get(name), view)
        context = StepContext(bound, request, self, {})
        settings = {**bound.params, **params}
        if kind.streams:
            return join([value async for value in stream_stage(context, kind, inputs, settings)])
        return await run_stage(context, kind, inputs, settings)

    async def _alone(self, kind: StageKind[..., Any], params: dict[str, Any], request: Request) -> BoundStep:
        pinned = ",".join(f"{key}={params[key]}" for key in ("model", "backend") if key in params)
        name = f"{kind.name}({pinned})" if pinned else kind.name
        known = self.ready(name)
        return known if known is not None else await self.bound(name, kind, params, request)

    async def _decoded(self, value: Any, view: Any) -> Any:
        codec = find("codecs", view.codec)()
        if value is None or not hasattr(value, "data") or not codec.accepts(value):
            return value
        decoded, _, _ = await self.decoders.decode(value, view)
        return decoded

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
        return self._random.choices(open_plans, weights)[0]

    async def swap(self, workflow: Workflow[..., Any], plan: Plan) -> str:
        """Open a plan beside the others, send all new requests to it, and retire the others."""
        old = list(self.plans)
        new = await self.open(workflow, plan)
        for name in old:
            if name != new:
                await self.retire(name)
        return new

    async def retire(self, plan: str, *, drain_s: float = DRAIN_S) -> None:
        """Take a plan from the table; free its models when its requests have ended, or after `drain_s`."""
        opened = self.plans.pop(plan)
        until = self.clock() + drain_s
        while opened.running and self.clock() < until:
            await asyncio.sleep(0.01)
        await self._release(opened)

    async def _release(self, opened: Opened) -> None:
        for key in opened.keys:
            deployment, holders = self._deployments[key]
            if holders > 1:
                self._deployments[key] = (deployment, holders - 1)
            else:
                del self._deployments[key]
                await deployment.close()
        opened.keys.clear()

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
        for plan in list(self.plans):
            await self.retire(plan, drain_s=0.0)
        for deployment, _ in list(self._deployments.values()):
            await deployment.close()
        self._deployments.clear()
        self._dynamic.clear()
        self.workers.close()
        await in_thread(self.decoders.close)

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def check_settings(
    name: str, kind: StageKind[..., Any], settings: Mapping[str, Any], models: Mapping[str, ModelChoice]
) -> None:
    """The second phase of reading a plan: every key must be known to the stage kind or a backend."""
    known = set(kind.params)
    for choice in models.values():
        if choice.backend:
            known |= find("backends", choice.backend).option_keys
    for key in settings:
        if key not in known:
            raise PlanError(
                f"stage '{name}': unknown key `{key}`", help=suggest(key, known | _STAGE_KEYS), code="E109"
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


async def _nothing() -> None:
    """The body of a workflow's root step; never called."""


_ROOT: StageKind[..., Any] = StageKind(_nothing, name="")
