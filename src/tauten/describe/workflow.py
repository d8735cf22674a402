"""Workflows: a `def` is drawn once into a graph, an `async def` is run and its graph observed.

The decorated object keeps the function's signature. It can be called (blocks), awaited (`acall`) and
streamed (`stream`, `astream`); inside another drawn workflow its stages are inlined under its name.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import inspect
import traceback
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from tauten.describe.drawing import Drawing
from tauten.describe.graph import Graph
from tauten.describe.picture import as_svg, as_text
from tauten.describe.port import Port, leaked, step_name
from tauten.describe.ports import PortType, Session, port_type
from tauten.describe.slo import Slo
from tauten.describe.stage import AMBIENT, caller_place, name_of, outside, place_of, refuse_ports
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
        self.name = name or name_of(function)
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
            plain = self.function.func if isinstance(self.function, functools.partial) else self.function
            hints = typing.get_type_hints(plain)
        except (NameError, TypeError) as error:
            raise WorkflowError(
                f"cannot read the annotations of {self.name}: {error}",
                help="annotate with names that exist at module level",
                where=self.place,
                code="E111",
            ) from error
        self.signature = inspect.signature(self.function)
        given = self.function.keywords if isinstance(self.function, functools.partial) else {}
        for parameter in self.signature.parameters.values():
            if parameter.name in given:
                continue  # functools.partial fixed it
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise WorkflowError(
                    f"{self.name}(*{parameter.name}) has no fixed ports",
                    help="name each input",
                    where=self.place,
                    code="E111",
                )
            if isinstance(parameter.default, Port):
                raise leaked(parameter.default)
            if parameter.name == "self":
                raise WorkflowError(
                    f"{self.name} is a method; a workflow has no instance",
                    help="write a function, or give tt.workflow(object.method)",
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
            raise self._calls_itself(" -> ".join([*entered, self.name]))
        token = _drawing_now.set((*entered, self.name))
        try:
            return Drawing(self.inputs, self.name).run(self.function, self.output, self.session, self.place)
        except UnboundLocalError as error:
            raise WorkflowError(
                f"{self.name} uses a result before the stage that gives it: {error}",
                help="a drawn workflow has no cycles; loops need `async def`",
                where=_raised_at(error) or self.place,
                code="E107",
            ) from error
        except NameError as error:
            if error.name != getattr(self.function, "__name__", ""):
                raise
            raise self._calls_itself(f"{self.name} -> {self.name}", _raised_at(error)) from error
        finally:
            _drawing_now.reset(token)

    def _calls_itself(self, chain: str, place: str = "") -> WorkflowError:
        return WorkflowError(
            f"{self.name} calls itself: {chain}",
            help="loops and recursion need `async def`",
            where=place or self.place,
            code="E107",
        )

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
            if self.session and self.session not in self.signature.bind_partial(*args, **kwargs).arguments:
                kwargs[self.session] = None  # the engine injects it
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
        if ambient is None:
            refuse_ports(args, kwargs)
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
                where=caller_place(),
                code="E113",
            )
        entered = _drawing_now.get()
        if self.name in entered:
            raise self._calls_itself(" -> ".join([*entered, self.name]), caller_place())
        own_name = "name" in self.signature.parameters
        name = self.name if own_name else step_name(self.name, kwargs.pop("name", "")) or self.name
        if self.session and self.session not in kwargs:
            kwargs[self.session] = drawing.session_port()
        values = self._inlined(args, kwargs)
        before, drawing.prefix = drawing.prefix, f"{drawing.prefix}{name}."
        token = _drawing_now.set((*entered, self.name))
        try:
            return typing.cast(Port, self.function(**values))  # type: ignore[call-arg]
        finally:
            _drawing_now.reset(token)
            drawing.prefix = before

    def _inlined(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call inside a drawing: ports, and plain values as payloads."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = [name for name in kwargs if name not in self.signature.parameters]
            inputs = ", ".join(f"{name}: {port}" for name, port in self.inputs.items())
            hint = suggest(unknown[0], self.signature.parameters) if unknown else f"inputs are {inputs}"
            raise WorkflowError(
                f"{self.name}(): {error}", help=hint, where=caller_place(), code="E102"
            ) from None
        bound.apply_defaults()
        values = dict(bound.arguments)
        for name, wanted in self.inputs.items():
            given = values.get(name)
            if isinstance(given, Port):
                if not wanted.accepts(given._type) and not (given._type.stream or wanted.stream):
                    raise WorkflowError(
                        f"{self.name}({name}=) wants {wanted}, but {given._label} gives {given._type}",
                        help=f"inputs are {', '.join(f'{key}: {port}' for key, port in self.inputs.items())}",
                        where=caller_place(),
                        code="E102",
                    )
            elif not isinstance(given, list | tuple | dict):
                values[name] = wanted.coerce(given)
        return values

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


def _raised_at(error: BaseException) -> str:
    """``file.py:12`` of the line that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{frames[-1].filename.replace(chr(92), '/').rsplit('/', 1)[-1]}:{frames[-1].lineno}"
        if frames
        else ""
    )


@overload
def workflow(function: Callable[P, R], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, slo: Slo | None = None, name: str = "", plan: str = ""
) -> Callable[[Callable[P, R]], Workflow[P, R]]: ...
def workflow(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Make a workflow of a function. `def` is drawn at once (mistakes are errors here); `async def` runs.

    `slo` says how well. `plan` names a plan file, relative to the workflow's own file, that calls from Python run under;
    commands take theirs by ``--plan``.
    """
    if function is not None:
        return Workflow(function)
    return lambda body: Workflow(body, **settings)
