"""What a running stage is given, and what a stage call means while a request runs.

A `BoundStep` is made once when a plan is opened: the step's models, files and parameters. A `StepContext`
joins it to one request. Stage calls made by running code (an `async def` workflow, or a stage that uses
other stages) become steps of their own: their call site is their identity.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tauten.describe.ports import Session
from tauten.describe.stage import AMBIENT, StageKind
from tauten.errors import InternalError, PlanError, StageError, TautenError, suggest
from tauten.run.deployment import Deployment, SlotDeployment
from tauten.run.request import Request
from tauten.run.trace import VISIT
from tauten.run.workers import Workers

if TYPE_CHECKING:
    from tauten.describe.workflow import Workflow

R = TypeVar("R")


class BoundStep:
    """A step with everything it needs, shared by all requests of an opened plan."""

    __slots__ = ("deployments", "files", "kind", "name", "ours", "params", "workers")

    def __init__(
        self,
        name: str,
        kind: StageKind[..., Any],
        params: Mapping[str, Any],
        workers: Workers,
        deployments: dict[str, Deployment | SlotDeployment] | None = None,
        files: dict[str, Mapping[str, Path]] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.params = params
        self.workers = workers
        self.deployments = deployments or {}
        self.files = files or {}
        self.ours = kind.body.__module__.startswith("tauten.describe.")

    def renamed(self, name: str) -> BoundStep:
        """The same step under another name (a member of a map, a second visit)."""
        return BoundStep(name, self.kind, self.params, self.workers, self.deployments, self.files)


class Dynamic:
    """Where running code finds steps that no drawing announced; `engine` implements it."""

    async def bound(
        self, name: str, kind: StageKind[..., Any], params: dict[str, Any], run: Request
    ) -> BoundStep:
        raise NotImplementedError

    def ready(self, name: str) -> BoundStep | None:
        raise NotImplementedError


class StepContext:
    """A stage's hand on its request; implements `Context` and the ambient of running code."""

    __slots__ = ("bound", "dynamic", "request", "visits")

    def __init__(self, bound: BoundStep, request: Request, dynamic: Dynamic, visits: dict[str, int]) -> None:
        self.bound = bound
        self.request = request
        self.dynamic = dynamic
        self.visits = visits

    # -- Context ----------------------------------------------------------------------------------------

    @property
    def params(self) -> Mapping[str, Any]:
        return self.bound.params

    @property
    def session(self) -> Session | None:
        return self.request.session

    def deadline_left(self) -> float:
        return self.request.left()

    def files(self, role: str) -> Mapping[str, Path]:
        return self._of(self.bound.files, role)

    async def infer(self, role: str, item: Any) -> Any:
        deployment = self._of(self.bound.deployments, role)
        if not isinstance(deployment, Deployment):
            raise _wrong_kind(self.bound.name, role, "infer", "stream")
        return await deployment.infer(self.request, self.bound.name, item)

    def stream(self, role: str, item: Any) -> AsyncIterator[Any]:
        deployment = self._of(self.bound.deployments, role)
        if not isinstance(deployment, SlotDeployment):
            raise _wrong_kind(self.bound.name, role, "stream", "infer")
        return deployment.stream(self.request, self.bound.name, item)

    async def work(self, function: Callable[..., R], *args: Any, cause: str = "decode") -> R:
        return await self.bound.workers.run(self.request.trace, self.bound.name, cause, function, *args)

    @contextmanager
    def charge(self, cause: str) -> Iterator[None]:
        started = self.request.clock()
        try:
            yield
        finally:
            self.request.trace.rows.append((self.bound.name, cause, started, self.request.clock()))

    def spend(self, unit: str, amount: float) -> None:
        self.request.trace.spent.append((self.bound.name, unit, amount))

    def _of(self, table: Mapping[str, R], role: str) -> R:
        try:
            return table[role]
        except KeyError:
            raise InternalError(
                f"stage '{self.bound.name}' has no role {role!r}", help=suggest(role, table)
            ) from None

    # -- Ambient: stages called by running code -----------------------------------------------------------

    def call_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> Running:
        step = self._child(name or _call_site(kind, self))
        if kwargs or kind.prepare is not None or len(args) != len(kind.inputs):
            inputs, params = kind.bind(args, kwargs)
            if kind.prepare is not None:
                inputs, params = kind.prepare(inputs, params, _caller_folder())
        else:
            inputs, params = dict(zip(kind.inputs, args, strict=True)), {}
        return Running(self, kind, step, inputs, params)

    def call_map(
        self,
        kind: StageKind[..., Any],
        items: Any,
        concurrency: int,
        errors: str,
        fixed: dict[str, Any],
        name: str,
    ) -> Awaitable[list[Any]]:
        """`tt.map` in running code: an awaitable list, in order."""
        return self._map(kind, items, concurrency, errors, fixed, name or kind.name)

    async def _map(
        self,
        kind: StageKind[..., Any],
        items: Any,
        concurrency: int,
        errors: str,
        fixed: dict[str, Any],
        name: str,
    ) -> list[Any]:
        async def one(member: Any) -> Any:
            return await self.call_stage(kind, (member,), dict(fixed), name)

        return await gather_members(one, items, concurrency, errors)

    def call_workflow(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Awaitable[Any]:
        """A workflow called by running code runs its body here when it is `async def`."""
        if not workflow.observed:
            raise PlanError(
                f"'{workflow.name}' is a drawn workflow; running code calls it as its own request",
                help=f"await {workflow.name}.acall(...), or draw it into a `def` workflow",
                code="E113",
            )
        if workflow.session:
            inputs[workflow.session] = self.request.session
        called: Awaitable[Any] = workflow.function(**inputs)
        return called

    def _child(self, name: str) -> str:
        full = f"{self.bound.name}/{name}" if self.bound.name else name
        visit = self.visits.get(full, 0)
        self.visits[full] = visit + 1
        return f"{full}[{visit}]" if visit else full


class Running:
    """A stage called by running code: await it for its value, or iterate it when it streams."""

    __slots__ = ("_context", "_inputs", "_kind", "_params", "_step")

    def __init__(
        self,
        context: StepContext,
        kind: StageKind[..., Any],
        step: str,
        inputs: dict[str, Any],
        params: dict[str, Any],
    ) -> None:
        self._context = context
        self._kind = kind
        self._step = step
        self._inputs = inputs
        self._params = params

    def __await__(self) -> Generator[Any, None, Any]:
        return self._run().__await__()

    async def _bound(self) -> BoundStep:
        name = self._step.partition("[")[0]
        dynamic = self._context.dynamic
        bound = dynamic.ready(name)
        if bound is None:
            bound = await dynamic.bound(name, self._kind, self._params, self._context.request)
        return bound if bound.name == self._step else bound.renamed(self._step)

    async def _run(self) -> Any:
        if any(self._inputs.get(name) is None for name in required(self._kind)):
            return None  # a stage whose input is absent is skipped
        bound = await self._bound()
        context = StepContext(bound, self._context.request, self._context.dynamic, self._context.visits)
        if self._kind.is_generator:
            values = [value async for value in self._iterate(context, bound)]
            return join(values)
        return await run_stage(context, self._kind, self._inputs, bound.params | self._params)

    async def _iterate(self, context: StepContext, bound: BoundStep) -> AsyncIterator[Any]:
        clock, rows = context.request.clock, context.request.trace.rows
        started = clock()
        try:
            async for value in stream_stage(context, self._kind, self._inputs, bound.params | self._params):
                yield value
        finally:
            rows.append((bound.name, VISIT, started, clock()))

    async def __aiter__(self) -> AsyncIterator[Any]:
        bound = await self._bound()
        context = StepContext(bound, self._context.request, self._context.dynamic, self._context.visits)
        async for value in self._iterate(context, bound):
            yield value


# -- running one stage -----------------------------------------------------------------------------------


def required(kind: StageKind[..., Any]) -> list[str]:
    """Inputs without which a stage is skipped."""
    return [
        name for name, port in kind.inputs.items() if not port.optional and port.kinds not in ((), (Any,))
    ]


async def run_stage(
    context: StepContext, kind: StageKind[..., Any], inputs: dict[str, Any], params: Mapping[str, Any]
) -> Any:
    """Run a stage that gives one value; writes its visit, wraps what its code raises."""
    request, name = context.request, context.bound.name
    clock, rows = request.clock, request.trace.rows
    started = clock()
    token = AMBIENT.set(context)
    try:
        arguments = arguments_of(kind, context, inputs, params)
        if kind.is_class or kind.max_batch > 1:
            deployment = context.bound.deployments["body"]
            assert isinstance(deployment, Deployment)  # bound so by the opener
            return await deployment.infer(request, name, (kind.inputs, arguments), cause="user")
        if kind.is_async:
            return await kind.body(**arguments)
        if kind.inline:
            return kind.body(**arguments)
        return await context.bound.workers.run(request.trace, name, "user", _call, kind.body, arguments)
    except TautenError:
        raise
    except Exception as error:
        raise stage_error(name, error) from error
    finally:
        AMBIENT.reset(token)
        ended = clock()
        if not context.bound.ours and (kind.is_async or kind.inline):
            rows.append((name, "user", started, ended))
        rows.append((name, VISIT, started, ended))


async def stream_stage(
    context: StepContext, kind: StageKind[..., Any], inputs: dict[str, Any], params: Mapping[str, Any]
) -> AsyncIterator[Any]:
    """Iterate a stage that gives increments; a blocking generator runs in a thread, step by step."""
    name, rows, clock = context.bound.name, context.request.trace.rows, context.request.clock
    generator = kind.body(**arguments_of(kind, context, inputs, params))
    try:
        while True:
            started = clock()
            token = AMBIENT.set(context)
            try:
                if kind.is_async:
                    value = await anext(generator, _END)
                else:
                    value = await context.bound.workers.run(
                        context.request.trace, name, "user", next, generator, _END
                    )
            finally:
                AMBIENT.reset(token)
                if kind.is_async and not context.bound.ours:
                    rows.append((name, "user", started, clock()))
            if value is _END:
                return
            yield value
    except TautenError:
        raise
    except Exception as error:
        raise stage_error(name, error) from error
    finally:
        if kind.is_async:
            await generator.aclose()
        else:
            generator.close()


def arguments_of(
    kind: StageKind[..., Any], context: StepContext, inputs: dict[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """The body's keyword arguments: inputs, the settings it declares, context and session."""
    arguments = dict(inputs)
    for key in kind.params:
        arguments[key] = params[key]
    if kind.context_param:
        arguments[kind.context_param] = context
    if kind.session_param:
        arguments[kind.session_param] = context.request.session
    return arguments


def stage_error(step: str, error: Exception) -> StageError:
    """What a stage's own code raised, with its step."""
    return StageError(
        f"stage '{step}' raised {error.__class__.__name__}: {error}",
        help="the chained error shows the line in your code",
    )


async def gather_members(
    one: Callable[[Any], Awaitable[Any]], items: Any, concurrency: int, errors: str
) -> list[Any]:
    """Run `one` for each member, at most `concurrency` at once; order kept, siblings cancelled on failure."""
    gate = asyncio.Semaphore(max(1, concurrency))

    async def guarded(member: Any) -> Any:
        async with gate:
            return await one(member)

    tasks: list[asyncio.Task[Any]] = []
    try:
        if hasattr(items, "__aiter__"):
            async for member in items:
                tasks.append(asyncio.ensure_future(guarded(member)))
        else:
            tasks += [asyncio.ensure_future(guarded(member)) for member in items]
        results = await asyncio.gather(*tasks, return_exceptions=errors != "raise")
    except BaseException:
        await cancel_all(tasks)
        raise
    failed = [each for each in results if isinstance(each, BaseException)]
    if errors == "drop":
        return [each for each in results if not isinstance(each, BaseException)]
    if failed and errors == "raise":
        raise failed[0]
    return list(results)


async def cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has really ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


def join(values: list[Any]) -> Any:
    """Collected increments as one value: texts are joined, anything else stays a list."""
    from tauten.describe.payload import Text

    if values and all(isinstance(value, Text) for value in values):
        return Text("".join(value.text for value in values))
    if values and all(isinstance(value, str) for value in values):
        return "".join(values)
    return values[0] if len(values) == 1 else values


_END = object()


def _call(body: Callable[..., R], arguments: dict[str, Any]) -> R:
    return body(**arguments)


def _wrong_kind(step: str, role: str, used: str, right: str) -> InternalError:
    return InternalError(
        f"stage '{step}' calls ctx.{used}({role!r}), whose backend is of the other kind",
        help=f"use ctx.{right}",
    )


def _call_site(kind: StageKind[..., Any], context: StepContext) -> str:
    """A call's name: the kind's, and the line where a kind is called from several places."""
    frame = sys._getframe(3)
    site = f"{kind.name}:{id(frame.f_code)}"
    line = context.visits.setdefault(site, frame.f_lineno)
    return kind.name if line == frame.f_lineno else f"{kind.name}@{frame.f_lineno}"


def _caller_folder() -> Path:
    return Path(sys._getframe(3).f_code.co_filename).parent
