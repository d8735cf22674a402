"""A stage kind: a thing that can be done, with typed ports, the models it needs, and its effects.

`@stage` makes one from a function, a generator or a class. The same decorator makes Tauten's own kinds
(transcribe, ocr, ...) and a user's. Calling a kind means what the surroundings say: inside a drawn
workflow it adds a step and gives a `Port`; inside a running one it gives an awaitable; anywhere else
it runs at once and returns the value.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

import msgspec

from tauten.describe.ports import PortType, Session, port_type
from tauten.describe.turn import Turn
from tauten.describe.view import View
from tauten.errors import WorkflowError

P = ParamSpec("P")
R = TypeVar("R")
OURS = re.compile(r"[/\\]tauten[/\\](describe|run)[/\\]")
"""Files whose frames are ours, not the user's."""

Effects = Literal["once", "pure"]

Prepare = Callable[[dict[str, Any], dict[str, Any], Path], tuple[dict[str, Any], dict[str, Any]]]
"""Checks a call's (inputs, params) when it is written, given the folder of the caller's file, and may
replace literals (a template's name by the template); values that only a request knows are `Port`s."""


class Role(msgspec.Struct, frozen=True):
    """One model that a stage needs: its default model, and the backends that can run it.

    The first backend is the framework's plain default, which the naive plan takes. `options` are
    handed to the backend; a plan may override each of them.
    """

    model: str
    backends: tuple[str, ...]
    variant: str = ""
    options: dict[str, Any] = {}


class Context(Protocol):
    """What a running stage may ask for. A stage gets one by a parameter annotated ``Context``."""

    @property
    def params(self) -> Mapping[str, Any]:
        """The step's parameters: what the workflow wrote, and what the plan chose."""
        ...

    @property
    def session(self) -> Session | None: ...

    def deadline_left(self) -> float:
        """Seconds until the request's deadline; infinity without one."""
        ...

    async def infer(self, role: str, item: Any) -> Any:
        """Run one item through the role's model (a batch backend): queued, batched, timed."""
        ...

    def stream(self, role: str, item: Any) -> AsyncIterator[Any]:
        """Open one slot of the role's model (a slot backend) and yield its chunks as they come."""
        ...

    def files(self, role: str) -> Mapping[str, Path]:
        """The model's files by name: tokenizers, labels and what else lies beside the weights."""
        ...

    async def work(self, function: Callable[..., R], *args: Any, cause: str = "decode") -> R:
        """Run a blocking function in a preparation thread; its time is owned by `cause`."""
        ...

    def charge(self, cause: str) -> AbstractContextManager[None]:
        """Own the time of a ``with`` block on the event loop."""
        ...

    def spend(self, unit: str, amount: float) -> None:
        """Book a resource: input_tokens, cached_tokens, output_tokens, bytes, cents ..."""
        ...


class StageKind(Generic[P, R]):
    """A thing that can be done. Made by `@stage`; called like the function it was made from."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str = "",
        effects: Effects = "once",
        roles: Mapping[str, Role] | None = None,
        views: Mapping[str, View] | None = None,
        max_batch: int = 1,
        inline: bool = False,
        options: Mapping[str, Any] | None = None,
        prepare: Prepare | None = None,
        turns: Sequence[Turn] = (),
        same: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        self.same = same  # whether one of its results would have done for another
        self.prepare = prepare
        self.turns = tuple(turns)
        self.function = function
        self.name = name or name_of(function)
        self.effects: Effects = effects
        self.roles: dict[str, Role] = dict(roles or {})
        self.views: dict[str, View] = dict(views or {})
        self.max_batch = max_batch
        self.inline = inline
        self.options: dict[str, Any] = dict(options or {})
        self.is_class = inspect.isclass(function)
        body: Any = function.__call__ if self.is_class else function  # type: ignore[operator]
        self.body: Callable[..., Any] = body
        self._read_signature()
        self._check_form()
        functools.update_wrapper(self, function, updated=())

    def _read_signature(self) -> None:
        self.signature = inspect.signature(self.body)
        hints = _hints(self.body)
        self.inputs: dict[str, PortType] = {}
        self.params: dict[str, Any] = {}
        self.context_param = self.session_param = ""
        self.open_inputs: PortType | None = None  # the type behind ``**fields``: inputs of any name
        names = list(self.signature.parameters.values())
        for parameter in names[1:] if self.is_class else names:
            self._read_parameter(parameter, hints.get(parameter.name, Any))
        self.output = port_type(hints.get("return", Any))
        flags = self.body
        self.is_async = inspect.iscoroutinefunction(flags)
        self.is_generator = inspect.isgeneratorfunction(flags) or inspect.isasyncgenfunction(flags)
        self.is_async = self.is_async or inspect.isasyncgenfunction(flags)
        if self.max_batch > 1:
            self._unwrap_batch_types()
        self.converts = bool(self.views) or any(port.converts for port in self.inputs.values())

    def _check_form(self) -> None:
        """Refuse what could not run as it is written."""
        problem = ""
        if self.is_class and (self.streams or self.is_async):
            problem = "a class gives one value from a plain `__call__`: it runs in a thread of its own"
        elif self.max_batch > 1 and (self.streams or self.is_async):
            problem = "max_batch needs a plain function: lists in, a list of the same length out"
        elif any(each.kind is each.VAR_POSITIONAL for each in self.signature.parameters.values()):
            problem = "`*inputs` have no names; name each input, or take one list"
        elif "self" in self.inputs:
            problem = "a method has no instance here; decorate the class, or give tt.stage(object.method)"
        if problem:
            raise WorkflowError(
                f"stage {self.name}: {problem}",
                help="see docs/workflows.md, stages of your own",
                where=place_of(self.body),
                code="E111",
            )

    def _read_parameter(self, parameter: inspect.Parameter, hint: Any) -> None:
        if hint is Context:
            self.context_param = parameter.name
        elif hint is Session:
            self.session_param = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            self.open_inputs = port_type(hint)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            default = parameter.default
            self.params[parameter.name] = None if default is parameter.empty else default
        else:
            port = port_type(hint)
            if parameter.default is None:
                port = msgspec.structs.replace(port, optional=True)
            self.inputs[parameter.name] = port

    def _unwrap_batch_types(self) -> None:
        """A batched stage is written list-in, list-out; its ports are the members."""
        self.inputs = {name: port.element if port.many else port for name, port in self.inputs.items()}
        self.output = self.output.element if self.output.many else self.output

    @property
    def streams(self) -> bool:
        """Whether the result comes in increments."""
        return self.is_generator or self.output.stream

    @functools.cached_property
    def required(self) -> tuple[str, ...]:
        """Inputs without which a stage is skipped."""
        return tuple(
            name for name, port in self.inputs.items() if not port.optional and port.kinds not in ((), (Any,))
        )

    @functools.cached_property
    def sole(self) -> str:
        """The name of its only input, else ""."""
        return next(iter(self.inputs)) if len(self.inputs) == 1 and self.prepare is None else ""

    @functools.cached_property
    def simple(self) -> bool:
        """Whether it is a user's coroutine that takes its inputs as they are, and nothing else."""
        more = self.params or self.context_param or self.session_param or self.converts or self.is_class
        ours = self.body.__module__.startswith("tauten.describe.")
        return self.is_async and not (more or ours or self.streams or self.max_batch > 1)

    @functools.cached_property
    def deployed(self) -> bool:
        """Whether its own code runs in threads, behind a queue: all but coroutines and what is inline."""
        return self.is_class or self.max_batch > 1 or not (self.is_async or self.inline)

    @functools.cached_property
    def streamed(self) -> frozenset[str]:
        """Inputs that take increments."""
        return frozenset(name for name, port in self.inputs.items() if port.stream)

    def view_of(self, port: str, params: Mapping[str, Any], wishes: Mapping[str, Any]) -> View:
        """How an input is decoded: its view, with settings of the same names, then a plan's wishes."""
        view = self.views[port]
        settings = {key: params[key] for key in view.params if key in self.params and key in params}
        return view.with_params(**{**settings, **wishes})

    @property
    def pure(self) -> bool:
        """Whether running it twice is harmless: it may be cached, retried and hedged."""
        return self.effects == "pure"

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split a call's arguments into inputs and parameters; raises WorkflowError on a mismatch."""
        known = {**dict.fromkeys(self.inputs), **dict.fromkeys(self.params)}
        names = list(self.inputs)
        if len(args) > len(names):
            raise WorkflowError(
                f"{self.name}() takes {len(names)} inputs ({', '.join(names)}), {len(args)} were given",
                help="give the rest by keyword",
                code="E102",
            )
        given = dict(zip(names, args, strict=False))
        if twice := [name for name in kwargs if name in given]:
            raise WorkflowError(
                f"{self.name}() is given `{twice[0]}` twice", help="give it once", code="E102"
            )
        given |= kwargs
        unknown = [name for name in given if name not in known and name not in PLANNED]
        if self.open_inputs is not None:
            known |= dict.fromkeys(unknown)
            names += unknown
            unknown = []
        if unknown:
            from tauten.errors import suggest

            raise WorkflowError(
                f"{self.name}() has no parameter `{unknown[0]}`", help=suggest(unknown[0], known), code="E102"
            )
        inputs = {name: given[name] for name in names if name in given}
        params = {name: value for name, value in given.items() if name not in inputs}
        self._require(inputs)
        return inputs, params

    def _require(self, inputs: dict[str, Any]) -> None:
        for name, port in self.inputs.items():
            default = self.signature.parameters[name].default
            if name not in inputs and default is inspect.Parameter.empty and not port.optional:
                raise WorkflowError(
                    f"{self.name}() needs `{name}` ({port})", help=f"pass {name}=", code="E102"
                )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        name = self._step_name(len(args), kwargs) if "name" in kwargs else ""
        ambient = AMBIENT.get()
        if ambient is None:
            refuse_ports(args, kwargs)
            ambient = outside()
        return ambient.call_stage(self, args, kwargs, name)  # type: ignore[no-any-return]

    def _step_name(self, given: int, kwargs: dict[str, Any]) -> str:
        """What ``name=`` calls the step; a parameter of that name that is not filled yet takes it for itself."""
        if "name" in self.params or "name" in list(self.inputs)[given:]:
            return ""
        from tauten.describe.port import step_name

        return step_name(self.name, kwargs.pop("name"))

    def __repr__(self) -> str:
        ports = ", ".join(f"{name}: {port}" for name, port in self.inputs.items())
        return f"<stage {self.name}({ports}) -> {self.output}>"


def refuse_ports(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise where a placeholder reached a call that no drawing surrounds (a thread, a global)."""
    from tauten.describe.port import Port, leaked

    for value in (*args, *kwargs.values()):
        if isinstance(value, Port):
            raise leaked(value)


PLANNED = frozenset({"model", "backend"})
"""Choices that any stage call may pin; left out, the plan chooses. What you write, it keeps."""


class Ambient(Protocol):
    """What a stage call means here: drawing, running, or neither."""

    def call_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> Any: ...


AMBIENT: ContextVar[Ambient | None] = ContextVar("tauten_ambient", default=None)
"""Set while a workflow is drawn or a request runs; `run/` fills it for running code."""

_outside: list[Callable[[], Ambient]] = []


def set_outside(factory: Callable[[], Ambient]) -> None:
    """Say who runs a stage that is called outside any workflow (the package does, once)."""
    _outside[:] = [factory]


def outside() -> Ambient:
    """The runner of calls outside any workflow."""
    if not _outside:
        raise WorkflowError(
            "a stage was called outside a workflow, and no runner is installed",
            help="import tauten, which installs one",
            code="E115",
        )
    return _outside[0]()


class Maker(Protocol):
    """What `stage(...)` gives: a decorator. For a type checker the context is no argument of a call, and
    a coroutine's or generator's result is `Any`: a port, an awaitable or a value, as the surroundings say."""

    @overload
    def __call__(self, body: Callable[Concatenate[Context, P], Awaitable[R]], /) -> StageKind[P, Any]: ...
    @overload
    def __call__(self, body: Callable[Concatenate[Context, P], AsyncIterator[R]], /) -> StageKind[P, Any]: ...
    @overload
    def __call__(self, body: Callable[Concatenate[Context, P], R], /) -> StageKind[P, R]: ...
    @overload
    def __call__(self, body: Callable[P, Awaitable[R]], /) -> StageKind[P, Any]: ...
    @overload
    def __call__(self, body: Callable[P, AsyncIterator[R]], /) -> StageKind[P, Any]: ...
    @overload
    def __call__(self, body: type[Any], /) -> StageKind[..., Any]: ...
    @overload
    def __call__(self, body: Callable[P, R], /) -> StageKind[P, R]: ...


@overload
def stage(function: Callable[Concatenate[Context, P], Awaitable[R]], /) -> StageKind[P, Any]: ...
@overload
def stage(function: Callable[Concatenate[Context, P], AsyncIterator[R]], /) -> StageKind[P, Any]: ...
@overload
def stage(function: Callable[Concatenate[Context, P], R], /) -> StageKind[P, R]: ...
@overload
def stage(function: Callable[P, Awaitable[R]], /) -> StageKind[P, Any]: ...
@overload
def stage(function: Callable[P, AsyncIterator[R]], /) -> StageKind[P, Any]: ...
@overload
def stage(function: type[Any], /) -> StageKind[..., Any]: ...
@overload
def stage(function: Callable[P, R], /) -> StageKind[P, R]: ...
@overload
def stage(
    *,
    name: str = "",
    effects: Effects = "once",
    pure: bool = False,
    roles: Mapping[str, Role] | None = None,
    views: Mapping[str, View] | None = None,
    max_batch: int = 1,
    inline: bool = False,
    options: Mapping[str, Any] | None = None,
    prepare: Prepare | None = None,
    turns: Sequence[Turn] = (),
    same: Callable[[Any, Any], bool] | None = None,
) -> Maker: ...
def stage(function: Callable[..., Any] | None = None, /, *, pure: bool = False, **settings: Any) -> Any:
    """Make a stage kind of a function, generator or class (loaded once per replica).

    Positional parameters are input ports; keyword-only parameters are settings of the step.
    ``pure=True`` says that running twice is harmless; the default ``effects="once"`` forbids retry,
    hedge and cache. ``max_batch=n`` marks a function that takes and returns lists of equal length.
    ``inline=True`` runs a small synchronous function on the event loop instead of in a thread.
    ``prepare`` checks each call when it is written. A ``**fields`` parameter opens inputs of any name.
    ``turns`` are settings that an optimizer may try. ``same`` says whether one result would have done for another: a
    cache that takes likeness for equality is judged by it.
    """
    if pure:
        settings["effects"] = "pure"
    if function is not None:
        return StageKind(function, **settings)
    return lambda body: StageKind(body, **settings)


def name_of(function: Any) -> str:
    """The name that a function gives its stage or workflow; raises where it has none to tell it by."""
    plain = function.func if isinstance(function, functools.partial) else function
    name = getattr(plain, "__name__", "")
    if not callable(plain) or not name.isidentifier():
        raise WorkflowError(
            f"{function!r} has no name of its own, and plans, caches and metrics are keyed by names",
            help='give one: name="..."',
            where=caller_place(),
            code="E111",
        )
    return str(name)


def _hints(body: Callable[..., Any]) -> dict[str, Any]:
    if isinstance(body, functools.partial):
        body = body.func
    try:
        return typing.get_type_hints(body, include_extras=False)
    except (NameError, TypeError) as error:
        raise WorkflowError(
            f"cannot read the annotations of {getattr(body, '__qualname__', body)!r}: {error}",
            help="annotate with names that exist at module level",
            where=place_of(body),
            code="E111",
        ) from error


def place_of(body: Callable[..., Any]) -> str:
    """``file.py:12`` of a function, or an empty string."""
    code = getattr(inspect.unwrap(body), "__code__", None)
    return f"{_short(code.co_filename)}:{code.co_firstlineno}" if code else ""


def caller_place() -> str:
    """``file.py:12`` of the nearest frame that is not our own."""
    frame = sys._getframe(1)
    while frame is not None and OURS.search(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}" if frame else ""


def _short(filename: str) -> str:
    return filename.replace("\\", "/").rsplit("/", 1)[-1]
