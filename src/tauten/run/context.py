"""What a running stage is given, and what a stage call means while a request runs.

A `BoundStep` is made once when a plan is opened: the step's models, files and parameters. A `StepContext`
joins it to one request. Stage calls made by running code (an `async def` workflow, or a stage that uses
other stages) become steps of their own: their call site is their identity.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import dis
import re
import sys
import sysconfig
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from tauten.describe.port import Port, leaked
from tauten.describe.ports import Session
from tauten.describe.stage import AMBIENT, OURS, StageKind, caller_place
from tauten.errors import InternalError, PlanError, StageError, WorkflowError, suggest
from tauten.extras import install
from tauten.run.bound import BoundStep, Dynamic
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.request import Request
from tauten.run.siblings import gather_members
from tauten.run.staging import fitted, run_simple, run_stage, stream_stage
from tauten.run.trace import BODY
from tauten.run.values import join

if TYPE_CHECKING:
    from tauten.describe.workflow import Workflow

R = TypeVar("R")


class StepContext:
    """A stage's hand on its request; implements `Context` and the ambient of running code."""

    __slots__ = ("bound", "dynamic", "name", "request", "visits")

    def __init__(
        self, bound: BoundStep, request: Request, dynamic: Dynamic, visits: dict[str, int], name: str = ""
    ) -> None:
        self.bound = bound
        self.name = name or bound.name  # of this visit: a member of a map, a second call
        self.request = request
        self.dynamic = dynamic
        self.visits = visits

    def again(self, request: Request) -> StepContext:
        """The same step for another request."""
        return StepContext(self.bound, request, self.dynamic, {}, self.name)

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

    def infer(self, role: str, item: Any) -> Coroutine[Any, Any, Any]:
        deployment = self._of(self.bound.deployments, role)
        if not isinstance(deployment, Deployment):
            raise _wrong_kind(self.name, role, "infer", "stream")
        return deployment.infer(self.request, self.name, item)

    def stream(self, role: str, item: Any) -> AsyncIterator[Any]:
        deployment = self._of(self.bound.deployments, role)
        if not isinstance(deployment, SlotDeployment):
            raise _wrong_kind(self.name, role, "stream", "infer")
        return deployment.stream(self.request, self.name, item)

    async def work(self, function: Callable[..., R], *args: Any, cause: str = "decode") -> R:
        bound = self.bound
        self.dynamic.waits(bound.name, bound.workers)
        return await bound.workers.run(self.request, self.name, cause, function, *args)

    @contextmanager
    def charge(self, cause: str) -> Iterator[None]:
        started = self.request.clock()
        try:
            yield
        finally:
            self.request.trace.rows.append((self.name, cause, started, self.request.clock()))

    def spend(self, unit: str, amount: float) -> None:
        self.request.trace.spent.append((self.name, unit, amount))

    def _of(self, table: Mapping[str, R], role: str) -> R:
        try:
            return table[role]
        except KeyError:
            raise InternalError(
                f"stage '{self.name}' has no role {role!r}", help=suggest(role, table)
            ) from None

    # -- Ambient: stages called by running code -----------------------------------------------------------

    def call_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> Running:
        if asyncio._get_running_loop() is None:
            raise WorkflowError(
                f"stage '{self.name}' calls {kind.name}() from a thread, where nothing can be awaited",
                help="make it `async def` and `await` the stages it calls",
                where=caller_place(),
                code="E117",
            )
        site = name or _call_site(kind)
        if self.name:
            site = f"{self.name}/{site}"
        visits = self.visits
        visit = visits[site] = visits.get(site, -1) + 1
        if kind.sole and len(args) == 1 and not kwargs:
            inputs, params = {kind.sole: args[0]}, _NO_PARAMS
        else:
            inputs, params = _given(kind, args, kwargs)
        simple = kind.simple
        for given in inputs.values():
            if given.__class__ is Port:
                raise leaked(given)
            if given.__class__ is Running:
                simple = False  # passed on without `await`
        return Running(self, kind, site, visit, inputs, params, simple)

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
        site = name or _call_site(kind)

        async def one(member: Any) -> Any:
            return await self.call_stage(kind, (member,), dict(fixed), site)

        async def all_of_them() -> Any:
            given = items
            if isinstance(items, Running) and not items.streams:  # passed on without `await`
                given = await items
                if given is None:  # it was skipped
                    return None
            return await gather_members(one, given, concurrency, errors, family)

        family = self.request.family(f"{self.name}/{site}" if self.name else site)
        return all_of_them()

    def call_workflow(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Awaitable[Any]:
        """A workflow called by running code runs its body here when it is `async def`."""
        if not workflow.observed:
            raise PlanError(
                f"'{workflow.name}' is a drawn workflow; running code calls it as its own request",
                help=f"await {workflow.name}.acall(...), or draw it into a `def` workflow",
                code="E113",
            )
        if workflow.session:
            inputs[workflow.session] = inputs.get(workflow.session) or self.request.conversation()
        called: Awaitable[Any] = workflow.function(**inputs)
        return called


class Running:
    """A stage called by running code: await it for its value, or iterate it when it streams."""

    __slots__ = ("_context", "_inputs", "_kind", "_params", "_simple", "_site", "_used", "_visit")

    def __init__(
        self,
        context: StepContext,
        kind: StageKind[..., Any],
        site: str,
        visit: int,
        inputs: dict[str, Any],
        params: dict[str, Any],
        simple: bool = False,
    ) -> None:
        self._context = context
        self._kind = kind
        self._site = site
        self._visit = visit  # how often this request came here before
        self._inputs = inputs
        self._params = params
        self._simple = simple  # a user's coroutine, to be awaited as it is
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

    def _open(self, bound: BoundStep) -> StepContext:
        """The step's own context."""
        parent, site = self._context, self._site
        if self._visit:
            site = f"{site}[{self._visit}]"
        return StepContext(bound, parent.request, parent.dynamic, parent.visits, site)

    async def _ready(self) -> tuple[StepContext, Mapping[str, Any]]:
        """The step's own context, its models opened where nobody came here before, and its settings."""
        parent, kind, params = self._context, self._kind, self._params
        name = self._site
        if "[" in name:
            name = _VISITS.sub("", name)
        bound = parent.dynamic.ready(name, kind, params)
        if bound is None:
            bound = await parent.dynamic.bound(name, kind, params, parent.request)
        return self._open(bound), ({**bound.params, **params} if params else bound.params)

    def _absent(self) -> bool:
        """Whether a needed input is absent, which skips the stage."""
        return any(self._inputs.get(name, self) is None for name in self._kind.required)

    async def _given(self, context: StepContext, params: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs as the stage wants them; calls that were passed on without `await` are awaited."""
        inputs = self._inputs
        for name, given in inputs.items():
            if given.__class__ is Running and name not in self._kind.streamed:
                inputs = {**inputs, name: await given}
        return await fitted(context, self._kind, inputs, params) if self._kind.converts else inputs

    def __await__(self) -> Generator[Any, None, Any]:
        self._take()
        kind = self._kind
        if self._simple and not (kind.required and self._absent()):
            bound = self._context.dynamic.ready(self._site, kind, self._params)
            if bound is not None and bound.results is None:
                return run_simple(self._open(bound), kind, self._inputs).__await__()
        return self._run().__await__()

    async def _run(self) -> Any:
        kind = self._kind
        if self._absent():
            return None
        context, params = await self._ready()
        inputs = await self._given(context, params)
        if kind.streams:
            async with aclosing(stream_stage(context, kind, inputs, params)) as values:
                return join([value async for value in values], kind.output)
        return await run_stage(context, kind, inputs, params)

    async def __aiter__(self) -> AsyncIterator[Any]:
        self._take()
        if self._absent():
            return
        context, params = await self._ready()
        inputs = await self._given(context, params)
        if not self._kind.streams:
            yield await run_stage(context, self._kind, inputs, params)
            return
        async with aclosing(stream_stage(context, self._kind, inputs, params)) as values:
            async for value in values:
                yield value


# -- what a call gives, and where it stands ---------------------------------------------------------------


_NO_PARAMS: dict[str, Any] = {}
_VISITS = re.compile(r"\[\d+\]")


def _given(
    kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a call gives: inputs by name, settings by name."""
    if not kwargs and kind.prepare is None and len(args) == len(kind.inputs):
        return dict(zip(kind.inputs, args, strict=True)), {}
    inputs, params = kind.bind(args, kwargs)
    return (inputs, params) if kind.prepare is None else kind.prepare(inputs, params, _caller_folder())


def _wrong_kind(step: str, role: str, used: str, right: str) -> InternalError:
    return InternalError(
        f"stage '{step}' calls ctx.{used}({role!r}), whose backend is of the other kind",
        help=f"use ctx.{right}",
    )


_sites: dict[tuple[int, int, str], tuple[CodeType, str]] = {}
"""Names by (id of the calling code, instruction, kind). The code is kept, so that its id stays its own;
hashing a code object would cost more than a whole step."""


def _call_site(kind: StageKind[..., Any]) -> str:
    """A call's name: the kind's, and the line where a kind is called from several places."""
    frame = sys._getframe(3)
    code = frame.f_code
    key = (id(code), frame.f_lasti, kind.name)
    known = _sites.get(key)
    if known is None:
        lines = _lines_naming(code, kind.function.__name__)
        first = not lines or frame.f_lineno <= lines[0]
        known = _sites[key] = (code, kind.name if first else f"{kind.name}@{frame.f_lineno}")
    return known[1]


def _lines_naming(code: CodeType, name: str) -> list[int]:
    """The lines of a function that load `name`, so that a call site is the same in every request.

    Python 3.13 made `starts_line` a truth and loads two names by one instruction; positions are the same in all.
    """
    found: set[int] = set()
    for instruction in dis.get_instructions(code):
        loaded = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        if name in loaded and instruction.opname.startswith("LOAD_") and instruction.positions is not None:
            found.add(instruction.positions.lineno or code.co_firstlineno)
    return sorted(found)


def _caller_folder() -> Path:
    """The folder of the user's file that calls a stage."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and OURS.search(frame.f_code.co_filename):
        frame = frame.f_back
    return Path(frame.f_code.co_filename).parent if frame is not None else Path()


async def within(context: StepContext, work: Awaitable[Any]) -> Any:
    """Await the workflow's own code, with the request as its surroundings; callers in Python get what it raises as it is."""
    clock = context.request.clock
    started = clock()
    token = AMBIENT.set(context)
    try:
        return await work
    finally:
        AMBIENT.reset(token)
        context.request.trace.rows.append((BODY, "user", started, clock()))


def own_error(error: BaseException) -> StageError | None:
    """What a workflow's own code raised as E404, for command lines and servers, with the last line that is no library's.

    None of whatever else was raised, and of what our code raised within it.
    """
    libraries = [sysconfig.get_path(each) for each in ("stdlib", "platstdlib", "purelib", "platlib")]
    inside, last = False, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        inside = inside or frame.f_code is within.__code__
        if OURS.search(file):
            last = ""
        elif not file.startswith(("<", *libraries)):
            last = f"{Path(file).name}:{line}"
    if not inside or not last:
        return None
    ours = StageError(
        f"the workflow raised {error.__class__.__name__}: {error}",
        where=last,
        help=install(error) or "mend the line; it is of your code",
    )
    ours.__cause__ = error
    return ours
