"""What a running stage is given, and what a stage call means while a request runs.

A `BoundStep` is made once when a plan is opened: the step's models, files and parameters. A `StepContext`
joins it to one request. Stage calls made by running code (an `async def` workflow, or a stage that uses
other stages) become steps of their own: their call site is their identity.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import copy
import dis
import functools
import re
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from tauten.describe.payload import Payload, Text
from tauten.describe.port import Port, leaked
from tauten.describe.ports import PortType, Session
from tauten.describe.stage import AMBIENT, OURS, StageKind, caller_place
from tauten.describe.view import View
from tauten.errors import InternalError, PlanError, StageError, TautenError, WorkflowError, suggest
from tauten.run.contracts import find
from tauten.run.decoders import Decoders
from tauten.run.deployment import Deployment, SlotDeployment
from tauten.run.request import Request
from tauten.run.trace import VISIT
from tauten.run.workers import Workers

if TYPE_CHECKING:
    from tauten.describe.workflow import Workflow

R = TypeVar("R")
DecodeMode = Literal["thread", "process"]


class BoundStep:
    """A step with everything it needs, shared by all requests of an opened plan."""

    __slots__ = ("decode", "deployments", "files", "kind", "name", "ours", "params", "view", "workers")

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
        self.decode: DecodeMode = (
            "thread"  # where views of running code are decoded, and the plan's wishes for them
        )
        self.view: Mapping[str, Any] = {}
        self.ours = kind.body.__module__.startswith("tauten.describe.")

    def renamed(self, name: str) -> BoundStep:
        """The same step under another name (a member of a map, a second visit)."""
        other = copy.copy(self)
        other.name = name
        return other


class Dynamic(Protocol):
    """Where running code finds steps that no drawing announced; `engine` implements it per plan."""

    decoders: Decoders

    async def bound(
        self, name: str, kind: StageKind[..., Any], params: dict[str, Any], run: Request
    ) -> BoundStep: ...

    def ready(self, name: str, kind: StageKind[..., Any], params: Mapping[str, Any]) -> BoundStep | None: ...


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
        if asyncio._get_running_loop() is None:
            raise WorkflowError(
                f"stage '{self.bound.name}' calls {kind.name}() from a thread, where nothing can be awaited",
                help="make it `async def` and `await` the stages it calls",
                where=caller_place(),
                code="E117",
            )
        step = self._child(name or _call_site(kind))
        if kwargs or kind.prepare is not None or len(args) != len(kind.inputs):
            inputs, params = kind.bind(args, kwargs)
            if kind.prepare is not None:
                inputs, params = kind.prepare(inputs, params, _caller_folder())
        else:
            inputs, params = dict(zip(kind.inputs, args, strict=True)), {}
        for given in inputs.values():
            if given.__class__ is Port:
                raise leaked(given)
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
        return self._map(kind, items, concurrency, errors, fixed, name or _call_site(kind))

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

    __slots__ = ("_context", "_inputs", "_kind", "_params", "_step", "_used")

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
        self._used = False

    @property
    def streams(self) -> bool:
        return self._kind.streams

    def __bool__(self) -> bool:
        raise self._not_awaited()

    def __str__(self) -> str:
        raise self._not_awaited()

    def __eq__(self, other: object) -> bool:
        raise self._not_awaited()

    def __hash__(self) -> int:
        return id(self)

    def __len__(self) -> int:
        raise self._not_awaited()

    def __getitem__(self, key: object) -> Any:
        raise self._not_awaited()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("aclose", "asend", "athrow", "send", "throw", "close", "cancel"):
            raise AttributeError(name)  # asked by those who look what kind of awaitable this is
        raise self._not_awaited()

    def _not_awaited(self) -> WorkflowError:
        return WorkflowError(
            f"the result of {self._kind.name}() is used before it is there",
            help=f"write `await {self._kind.name}(...)`",
            where=caller_place(),
            code="E101",
        )

    def _take(self) -> None:
        if self._used:
            raise WorkflowError(
                f"one call of {self._kind.name}() is awaited twice",
                help="keep the value of the first `await`, or call the stage again",
                code="E114",
            )
        self._used = True

    def __await__(self) -> Generator[Any, None, Any]:
        return self._run().__await__()

    async def _bound(self) -> BoundStep:
        name = _VISITS.sub("", self._step) if "[" in self._step else self._step
        dynamic = self._context.dynamic
        bound = dynamic.ready(name, self._kind, self._params)
        if bound is None:
            bound = await dynamic.bound(name, self._kind, self._params, self._context.request)
        return bound if bound.name == self._step else bound.renamed(self._step)

    def _absent(self) -> bool:
        """Whether a needed input is absent, which skips the stage."""
        inputs = self._inputs
        return any(name in inputs and inputs[name] is None for name in required(self._kind))

    async def _ready(self) -> tuple[StepContext, dict[str, Any]]:
        """The step's own context, and its settings."""
        bound = await self._bound()
        context = StepContext(bound, self._context.request, self._context.dynamic, self._context.visits)
        return context, ({**bound.params, **self._params} if self._params else dict(bound.params))

    async def _run(self) -> Any:
        self._take()
        if self._absent():
            return None
        context, params = await self._ready()
        inputs = await fitted(context, self._kind, self._inputs, params)
        if self._kind.streams:
            async with aclosing(stream_stage(context, self._kind, inputs, params)) as values:
                return join([value async for value in values], self._kind.output)
        return await run_stage(context, self._kind, inputs, params)

    async def __aiter__(self) -> AsyncIterator[Any]:
        self._take()
        if self._absent():
            return
        context, params = await self._ready()
        inputs = await fitted(context, self._kind, self._inputs, params)
        if not self._kind.streams:
            yield await run_stage(context, self._kind, inputs, params)
            return
        async with aclosing(stream_stage(context, self._kind, inputs, params)) as values:
            async for value in values:
                yield value


async def fitted(
    context: StepContext, kind: StageKind[..., Any], inputs: dict[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain values as the payloads that a stage takes, and payloads as the views that it wants."""
    values = inputs
    for name, given in inputs.items():
        if given.__class__ is Running and not (name in kind.inputs and kind.inputs[name].stream):
            values = {**values, name: await given}  # a call passed on without `await`
    if not kind.converts:
        return values
    values = dict(values)
    for name, port in kind.inputs.items():
        if name in values:
            values[name] = unwrapped(port.coerce(values[name]), port)
    for name in kind.views:
        if name in values:
            view = kind.view_of(name, params, context.bound.view)
            values[name] = await decoded(context, name, values[name], view)
    return values


async def decoded(
    context: StepContext, port: str, value: Any, view: View, mode: DecodeMode | None = None
) -> Any:
    """One input as its stage wants to see it; what the codec does not read passes through."""
    codec = find("codecs", view.codec)()
    if not isinstance(value, Payload) or not codec.accepts(value):
        return value
    return await decode(
        context.dynamic.decoders,
        context.request,
        f"{context.bound.name}.{port}",
        value,
        view,
        mode or context.bound.decode,
    )


async def decode(
    decoders: Decoders,
    request: Request,
    name: str,
    payload: Payload,
    view: View,
    mode: DecodeMode,
    since: float | None = None,
) -> Any:
    """Decode one payload as the step `name`: its wait, its work and the way back are rows."""
    clock, rows = request.clock, request.trace.rows
    asked = clock()
    try:
        value, started, ended = await decoders.decode(payload, view, mode=mode)
        rows.append((name, "queue", asked, started))
        rows.append((name, "decode", started, ended))
        rows.append((name, "loop", ended, clock()))
    finally:
        rows.append((name, VISIT, asked if since is None else since, clock()))
    return value


# -- running one stage -----------------------------------------------------------------------------------


def required(kind: StageKind[..., Any]) -> list[str]:
    """Inputs without which a stage is skipped."""
    return [
        name for name, port in kind.inputs.items() if not port.optional and port.kinds not in ((), (Any,))
    ]


async def run_stage(
    context: StepContext,
    kind: StageKind[..., Any],
    inputs: dict[str, Any],
    params: Mapping[str, Any],
    since: float | None = None,
) -> Any:
    """Run a stage that gives one value; writes its visit, wraps what its code raises.

    The visit begins at `since`, where the step waited for streams that it wants whole.
    """
    request, name = context.request, context.bound.name
    clock, rows = request.clock, request.trace.rows
    started = clock()
    token = AMBIENT.set(context)
    try:
        arguments = arguments_of(kind, context, inputs, params)
        if kind.is_class or kind.max_batch > 1:
            return await _deployed(context, arguments)
        if kind.is_async:
            return await kind.body(**arguments)
        if kind.inline:
            return kind.body(**arguments)
        return await context.bound.workers.run(request.trace, name, "user", _call, kind.body, arguments)
    except TautenError:
        raise
    except (Exception, SystemExit) as error:
        raise stage_error(name, error) from error
    finally:
        AMBIENT.reset(token)
        ended = clock()
        if not context.bound.ours and (kind.is_async or kind.inline):
            rows.append((name, "user", started, ended))
        rows.append((name, VISIT, started if since is None else since, ended))


async def stream_stage(
    context: StepContext,
    kind: StageKind[..., Any],
    inputs: dict[str, Any],
    params: Mapping[str, Any],
    since: float | None = None,
) -> AsyncGenerator[Any, None]:
    """Iterate a stage that gives increments, and write its visit.

    A blocking generator runs in a thread, step by step. Closing the iterator closes the stage's own.
    """
    name, rows, clock = context.bound.name, context.request.trace.rows, context.request.clock
    owned = not context.bound.ours
    visited = clock() if since is None else since
    source: AsyncIterator[Any] | None = None
    try:
        source = await _opened_stream(context, kind, arguments_of(kind, context, inputs, params))
        while True:
            started = clock()
            token = AMBIENT.set(context)
            try:
                value = await anext(source, _END)
            finally:
                AMBIENT.reset(token)
                if kind.is_async and owned:
                    rows.append((name, "user", started, clock()))
            if value is _END:
                return
            yield value
    except TautenError:
        raise
    except (Exception, SystemExit) as error:
        raise stage_error(name, error) from error
    finally:
        if source is not None and hasattr(source, "aclose"):
            await source.aclose()
        rows.append((name, VISIT, visited, clock()))


async def _opened_stream(
    context: StepContext, kind: StageKind[..., Any], arguments: dict[str, Any]
) -> AsyncIterator[Any]:
    """The increments of a body that is a generator, or that returns a stream or a list."""
    if kind.is_generator:
        generator = kind.body(**arguments)
        return generator if kind.is_async else _Steps(context, generator)
    token = AMBIENT.set(context)
    try:
        if kind.is_async:
            given = await kind.body(**arguments)
        else:
            workers, trace = context.bound.workers, context.request.trace
            given = await workers.run(trace, context.bound.name, "user", _call, kind.body, arguments)
    finally:
        AMBIENT.reset(token)
    if hasattr(given, "__aiter__"):
        stream: AsyncIterator[Any] = aiter(given)
        return stream
    return _Steps(context, iter(given))


class _Steps:
    """A blocking iterator, advanced in a preparation thread."""

    def __init__(self, context: StepContext, source: Iterator[Any]) -> None:
        self._context = context
        self._source = source
        self._lock = threading.Lock()  # a step that was left alone still runs while we close
        self._busy = False

    def __aiter__(self) -> _Steps:
        return self

    async def __anext__(self) -> Any:
        workers, trace = self._context.bound.workers, self._context.request.trace
        self._busy = True
        try:
            value = await workers.run(trace, self._context.bound.name, "user", self._next)
        except asyncio.CancelledError:
            raise  # the thread is still in it
        except BaseException:
            self._busy = False
            raise
        self._busy = False
        if value is _END:
            raise StopAsyncIteration
        return value

    def _next(self) -> Any:
        with self._lock:
            return next(self._source, _END)

    async def aclose(self) -> None:
        """Close the generator in a thread; where a step still runs there, after it, without waiting."""
        if not hasattr(self._source, "close") or getattr(self._source, "gi_frame", True) is None:
            return
        workers = self._context.bound.workers
        if self._busy:
            workers.later(self._close)
        else:
            trace = self._context.request.trace
            await workers.run(trace, self._context.bound.name, "user", self._close)

    def _close(self) -> None:
        with self._lock:
            self._source.close()  # type: ignore[attr-defined]


async def _deployed(context: StepContext, arguments: dict[str, Any]) -> Any:
    """Run a stage that is a class, or that takes lists, in its own deployment."""
    deployment = context.bound.deployments["body"]
    assert isinstance(deployment, Deployment)  # bound so by the opener
    name = context.bound.name
    try:
        return await deployment.infer(context.request, name, ((), arguments), cause="user")
    except StageError as error:
        if isinstance(error.__cause__, Exception):  # said of the kind; the caller knows its step
            raise stage_error(name, error.__cause__) from error.__cause__
        raise


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


def stage_error(step: str, error: BaseException) -> StageError:
    """What a stage's own code raised, with its step."""
    return StageError(
        f"stage '{step}' raised {error.__class__.__name__}: {error}",
        help="the chained error shows the line in your code",
    )


async def gather_members(
    one: Callable[[Any], Awaitable[Any]], items: Any, concurrency: int, errors: str
) -> list[Any]:
    """Run `one` for each member, at most `concurrency` at once; order kept, siblings cancelled on failure.

    A stream is read no faster than its members are worked on, and is left when a member fails.
    """
    gate = asyncio.Semaphore(max(1, concurrency))
    tasks: list[asyncio.Task[Any]] = []
    stop = errors == "raise"

    def ended(task: asyncio.Task[Any]) -> None:
        gate.release()
        if stop and not task.cancelled() and task.exception() is not None:
            siblings.fail(task)

    async def start(member: Any) -> None:
        await gate.acquire()
        task = asyncio.ensure_future(one(member))
        task.add_done_callback(ended)
        tasks.append(task)

    async with Siblings(tasks) as siblings:
        if hasattr(items, "__aiter__"):
            async for member in items:
                await start(member)
        else:
            for member in items:
                await start(member)
        if tasks:
            await asyncio.wait(tasks)
    results = [_outcome(task) for task in tasks]
    if errors == "drop":
        return [each for each in results if not isinstance(each, BaseException)]
    return results


def _outcome(task: asyncio.Task[Any]) -> Any:
    return asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()


class Siblings:
    """Runs beside tasks: the first that fails stops this one, then all are cancelled and waited for."""

    __slots__ = ("_asked", "_failed", "_parent", "tasks")

    def __init__(self, tasks: list[asyncio.Task[Any]]) -> None:
        self.tasks = tasks
        self._failed: asyncio.Task[Any] | None = None
        self._parent: asyncio.Task[Any] | None = None
        self._asked = 0

    def fail(self, task: asyncio.Task[Any]) -> None:
        """Say that a task failed; stops the block, which raises the task's error."""
        if self._failed is None and self._parent is not None:
            self._failed = task
            self._parent.cancel()

    def watch(self, task: asyncio.Task[Any]) -> None:
        """A task's done callback."""
        if not task.cancelled() and task.exception() is not None:
            self.fail(task)

    async def __aenter__(self) -> Siblings:
        self._parent = asyncio.current_task()
        self._asked = self._parent.cancelling() if self._parent is not None else 0
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        parent, self._parent = self._parent, None
        left = parent.uncancel() if self._failed is not None and parent is not None else 0
        if error is not None or self._failed is not None:
            await cancel_all(self.tasks)
        if self._failed is not None and left <= self._asked:
            failure = self._failed.exception()
            assert failure is not None  # `fail` was told so
            raise failure


async def cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has really ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


def join(values: list[Any], port: PortType | None = None) -> Any:
    """Collected increments as one value: texts are joined, anything else stays a list.

    `port` tells of what type nothing is.
    """
    if not values:
        texts = port is not None and port.kinds and all(kind in (str, Text) for kind in port.kinds)
        return port.kinds[0]("") if texts and port is not None else values
    if all(isinstance(value, Text) for value in values):
        return Text("".join(value.text for value in values))
    if all(isinstance(value, str) for value in values):
        return "".join(values)
    return values


def unwrapped(value: Any, wanted: PortType) -> Any:
    """Text and str flow into each other, alone and in lists."""
    if isinstance(value, Text):
        return value.text if str in wanted.kinds and Text not in wanted.kinds else value
    if isinstance(value, str):
        return Text(value) if Text in wanted.kinds and str not in wanted.kinds else value
    if isinstance(value, list) and wanted.many:
        return [unwrapped(member, wanted) for member in value]
    return value


_END = object()
_OURS = re.compile(r"[/\\\\]tauten[/\\\\](describe|run)[/\\\\]")
_VISITS = re.compile(r"\[\d+\]")


def _call(body: Callable[..., R], arguments: dict[str, Any]) -> R:
    return body(**arguments)


def _wrong_kind(step: str, role: str, used: str, right: str) -> InternalError:
    return InternalError(
        f"stage '{step}' calls ctx.{used}({role!r}), whose backend is of the other kind",
        help=f"use ctx.{right}",
    )


def _call_site(kind: StageKind[..., Any]) -> str:
    """A call's name: the kind's, and the line where a kind is called from several places."""
    frame = sys._getframe(3)
    lines = _lines_naming(frame.f_code, kind.function.__name__)
    first = not lines or frame.f_lineno <= lines[0]
    return kind.name if first else f"{kind.name}@{frame.f_lineno}"


@functools.lru_cache(maxsize=4096)  # one entry per calling function and kind
def _lines_naming(code: CodeType, name: str) -> tuple[int, ...]:
    """The lines of a function that load `name`, so that a call site is the same in every request."""
    found: set[int] = set()
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        line = instruction.starts_line or line
        if instruction.argval == name and instruction.opname.startswith("LOAD_"):
            found.add(line)
    return tuple(sorted(found))


def _caller_folder() -> Path:
    """The folder of the user's file that calls a stage."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and OURS.search(frame.f_code.co_filename):
        frame = frame.f_back
    return Path(frame.f_code.co_filename).parent if frame is not None else Path()
