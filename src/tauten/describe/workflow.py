"""Workflows: a `def` is drawn once into a graph, an `async def` is run and its graph observed.

The decorated object keeps the function's signature. It can be called (blocks), awaited (`acall`) and
streamed (`stream`, `astream`); inside another drawn workflow its stages are inlined under its name.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from tauten.describe.drawing import Drawing
from tauten.describe.graph import Graph
from tauten.describe.picture import as_svg, as_text
from tauten.describe.port import Port
from tauten.describe.ports import PortType, Session, port_type
from tauten.describe.slo import Slo
from tauten.describe.stage import AMBIENT, outside, place_of
from tauten.errors import InputError, WorkflowError, suggest

P = ParamSpec("P")
R = TypeVar("R")


class Runner(Protocol):
    """Who runs a workflow that is called outside any other; `run/` provides one."""

    def call(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Any: ...
    async def acall(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Any: ...
    def stream(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> Iterator[Any]: ...
    def astream(self, workflow: Workflow[..., Any], inputs: dict[str, Any]) -> AsyncIterator[Any]: ...


_drawing_now: ContextVar[tuple[str, ...]] = ContextVar("tauten_drawing_now", default=())


class Workflow(Generic[P, R]):
    """WHAT to do. Made by `@workflow`."""

    def __init__(
        self, function: Callable[P, R], *, slo: Slo | None = None, name: str = "", plan: str = ""
    ) -> None:
        self.function = function
        self.name = name or function.__name__
        self.slo = slo or Slo()
        self.plan = plan
        self.place = place_of(function)
        self.observed = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self.session = ""
        self.inputs: dict[str, PortType] = {}
        self._read_signature()
        functools.update_wrapper(self, function)
        self.graph: Graph | None = None if self.observed else self._draw()

    def _read_signature(self) -> None:
        try:
            hints = typing.get_type_hints(self.function)
        except (NameError, TypeError) as error:
            raise WorkflowError(
                f"cannot read the annotations of {self.name}: {error}",
                help="annotate with names that exist at module level",
                where=self.place,
                code="E111",
            ) from error
        self.signature = inspect.signature(self.function)
        for parameter in self.signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise WorkflowError(
                    f"{self.name}(*{parameter.name}) has no fixed ports",
                    help="name each input",
                    where=self.place,
                    code="E111",
                )
            if hints.get(parameter.name) is Session:
                self.session = parameter.name
                continue
            port = port_type(hints.get(parameter.name, Any))
            optional = port.optional or parameter.default is None
            self.inputs[parameter.name] = PortType(port.kinds, optional, port.many, port.stream)
        self.output = port_type(hints.get("return", Any))

    def _draw(self) -> Graph:
        entered = _drawing_now.get()
        if self.name in entered:
            raise WorkflowError(
                f"{self.name} calls itself: {' -> '.join([*entered, self.name])}",
                help="loops and recursion need `async def`",
                where=self.place,
                code="E107",
            )
        token = _drawing_now.set((*entered, self.name))
        try:
            return Drawing(self.inputs, self.name).run(self.function, self.output, self.session, self.place)
        except UnboundLocalError as error:
            raise WorkflowError(
                f"{self.name} uses a result before the stage that gives it: {error}",
                help="a drawn workflow has no cycles; loops need `async def`",
                where=self.place,
                code="E107",
            ) from error
        finally:
            _drawing_now.reset(token)

    @property
    def streams(self) -> bool:
        """Whether the result comes in increments."""
        return self.output.stream or inspect.isasyncgenfunction(self.function)

    # -- calling --------------------------------------------------------------------------------------

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Check a call's arguments and turn plain values into payloads; raises InputError."""
        unknown = [name for name in kwargs if name not in self.signature.parameters]
        if unknown:
            raise InputError(
                f"{self.name} has no input `{unknown[0]}`",
                help=suggest(unknown[0], self.signature.parameters),
                code="E205",
            )
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            inputs = ", ".join(f"{name}: {port}" for name, port in self.inputs.items())
            raise InputError(f"{self.name}: {error}", help=f"inputs are {inputs}", code="E205") from None
        bound.apply_defaults()
        values = dict(bound.arguments)
        for name, port in self.inputs.items():
            values[name] = port.coerce(values.get(name))
            if values[name] is None and not port.optional:
                raise InputError(
                    f"{self.name}: `{name}` is absent", help=f"give {name} ({port})", code="E205"
                )
        return values

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        ambient: Any = AMBIENT.get()
        if isinstance(ambient, Drawing):
            return self._inline(ambient, args, kwargs)  # type: ignore[return-value]
        if ambient is not None:
            return ambient.call_workflow(self, self.bind(*args, **kwargs))  # type: ignore[no-any-return]
        return self._runner.call(self, self.bind(*args, **kwargs))  # type: ignore[no-any-return]

    async def acall(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same as calling, without blocking the event loop."""
        return await self._runner.acall(self, self.bind(*args, **kwargs))  # type: ignore[no-any-return]

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        """Yield the increments of a streaming workflow as they come; blocks between them."""
        return self._runner.stream(self, self.bind(*args, **kwargs))

    def astream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        """Yield the increments without blocking the event loop."""
        return self._runner.astream(self, self.bind(*args, **kwargs))

    @property
    def _runner(self) -> Runner:
        return typing.cast(Runner, outside())

    def _inline(self, drawing: Drawing, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Port:
        """Draw this workflow's stages into the one that calls it, under its name and a dot."""
        if self.observed:
            raise WorkflowError(
                f"{self.name} is `async def`: its graph is only known when it runs, so `def` cannot hold it",
                help="call it from an `async def` workflow, or make it a stage: @tt.stage",
                code="E113",
            )
        name = str(kwargs.pop("name", "") or self.name)
        values = self.signature.bind(*args, **kwargs)
        values.apply_defaults()
        before, drawing.prefix = drawing.prefix, f"{drawing.prefix}{name}."
        try:
            return typing.cast(Port, self.function(**values.arguments))  # type: ignore[call-arg]
        finally:
            drawing.prefix = before

    # -- looking --------------------------------------------------------------------------------------

    def describe(self) -> str:
        """The workflow as text: inputs, stages, edges (``->`` whole, ``~>`` streamed), result."""
        return as_text(self.name, self.inputs, self.graph)

    def svg(self) -> str:
        """The graph as a self-contained SVG picture."""
        return as_svg(self.name, self.graph)

    def _repr_svg_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        kind = "observed" if self.observed else f"{len(self.graph.stages) if self.graph else 0} stages"
        return f"<workflow {self.name}: {kind}>"


@overload
def workflow(function: Callable[P, R], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, slo: Slo | None = None, name: str = "", plan: str = ""
) -> Callable[[Callable[P, R]], Workflow[P, R]]: ...
def workflow(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Make a workflow of a function. `def` is drawn at once (mistakes are errors here); `async def` runs.

    `slo` says how well; `plan` names a plan file, relative to the workflow's own file.
    """
    if function is not None:
        return Workflow(function)
    return lambda body: Workflow(body, **settings)
