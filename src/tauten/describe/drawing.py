"""Draws a workflow: runs its body once with ports, and writes down each stage that is called.

Every mistake is found here, with the user's file and line: wrong types, absent values into ports that
need one, names used twice, ports that leaked out of another drawing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import linecache
import sys
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import msgspec

from tauten.describe.graph import (
    FromInput,
    FromStage,
    Graph,
    Listed,
    Literal,
    Source,
    Stage,
)
from tauten.describe.payload import Json, Payload, Text
from tauten.describe.port import Port
from tauten.describe.ports import PortType, port_type
from tauten.describe.stage import AMBIENT, StageKind, caller_place
from tauten.errors import InputError, WorkflowError, suggest

_SESSION = "session "  # no parameter can have this name
_SCALARS = (str, int, float, bool, bytes)


class Drawing:
    """The ambient of a workflow that is being drawn."""

    def __init__(self, inputs: dict[str, PortType], title: str) -> None:
        self.title = title
        self.inputs = inputs
        self.stages: dict[str, Stage] = {}
        self.prefix = ""
        self.session = ""
        self.closed = False

    def run(self, body: Callable[..., Any], output: PortType, session: str = "", place: str = "") -> Graph:
        """Call `body` with ports and return its graph."""
        ports = {name: self._input_port(name, type) for name, type in self.inputs.items()}
        if session:
            ports[session] = Port(self, FromInput(session), PortType((Any,)), "the session")
        self.session = session
        token = AMBIENT.set(self)
        try:
            returned = body(**ports)
        finally:
            AMBIENT.reset(token)
            self.closed = True
        result = self._result(returned, output, place)
        return Graph(self.stages, self.inputs, result, output, self.session)

    def session_port(self) -> Port:
        """The request's session, for a workflow inside this one that asks for it."""
        self.session = self.session or _SESSION
        return Port(self, FromInput(self.session), PortType((Any,)), "the session")

    def _input_port(self, name: str, type: PortType) -> Port:
        return Port(self, FromInput(name), type, f"input '{name}'", maybe=type.optional)

    def _result(self, returned: Any, output: PortType, place: str) -> Source:
        if returned is None:
            raise WorkflowError(
                f"{self.title}() returns nothing", help="return a port", where=place, code="E116"
            )
        port = self._as_port(returned, place)
        if port is not None and port._maybe and not output.optional and output.kinds not in ((), (Any,)):
            raise WorkflowError(
                f"{port._label} is skipped when its input is absent, but {self.title}() returns {output}",
                help=f"return `{output} | None`, or tt.default(port, value)",
                where=place,
                code="E103",
            )
        if port is not None and not output.accepts(port._type) and not _wraps(output, port._type):
            raise WorkflowError(
                f"{self.title}() says it returns {output}, but {port._label} gives {port._type}",
                help="change the annotation, or return another port",
                where=place,
                code="E102",
            )
        return self.source(returned)

    # -- stages ---------------------------------------------------------------------------------------

    def call_stage(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> Port:
        place = caller_place()
        inputs, params = self.bound(kind, args, kwargs)
        sources = {key: self.input(kind, key, value) for key, value in inputs.items()}
        maybe = any(self._skips(kind, key, value) for key, value in inputs.items())
        return self.add(kind, sources, params, name, place, maybe=maybe)

    def bound(
        self, kind: StageKind[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and settings of a call as it is written."""
        place = caller_place()
        try:
            inputs, params = kind.bind(args, kwargs)
            if kind.prepare is not None:
                inputs, params = kind.prepare(inputs, params, caller_folder())
        except WorkflowError as error:
            error.where = error.where or place
            raise
        for key in params:
            if isinstance(params[key], Port):
                self._refuse_param(kind, key, params[key], place)
        return inputs, params

    def add(
        self,
        kind: StageKind[..., Any],
        sources: dict[str, Source],
        params: dict[str, Any],
        name: str = "",
        place: str = "",
        *,
        control: str = "",
        output: PortType | None = None,
        maybe: bool = False,
    ) -> Port:
        """Write one stage down and return its port."""
        place = place or caller_place()
        if self.closed:
            raise WorkflowError(
                f"{name or kind.name}() is called after {self.title} was drawn",
                help="call stages in the body of the workflow, not in a thread that outlives it",
                where=place,
                code="E112",
            )
        full = self.prefix + (name or kind.name)
        if full in self.stages:
            self._refuse_name(full, name, place)
        type = output if output is not None else stage_output(kind)
        self.stages[full] = Stage(full, kind, sources, params, type, place, control)
        return Port(self, FromStage(full), type, f"step '{full}'", maybe or type.optional)

    def attribute(self, port: Port, name: str) -> Port:
        """``port.field`` of a declared field is a port too; anything else is an error."""
        source = port._source
        for type in () if port._type.many or port._type.stream else port._type.kinds:
            hint = _field(type, name)
            if hint is not None and isinstance(source, FromStage | FromInput):
                path = f"{source.attribute}.{name}" if source.attribute else name
                given = port_type(hint)
                maybe = port._maybe or given.optional
                return Port(self, replace(source, attribute=path), given, f"{port._label}.{name}", maybe)
        known = [field for type in port._type.kinds for field in _fields(type)]
        text = caller_text()
        raise WorkflowError(
            f"{f'`{text}`: ' if text else ''}{port._label} ({port._type}) has no field `{name}` that is known "
            "before a request runs",
            help=f"{suggest(name, known)}; or " * bool(known) + "do this in a stage of your own (@tt.stage)",
            where=caller_place(),
            code="E101",
        )

    # -- sources --------------------------------------------------------------------------------------

    def source(self, value: Any) -> Source:
        """Where a value written in the workflow comes from."""
        if isinstance(value, Port):
            if value._drawing is not self:
                raise WorkflowError(
                    f"the port of {value._label} belongs to another drawing of a workflow",
                    help="pass values between workflows by calling one inside the other",
                    where=caller_place(),
                    code="E112",
                )
            return value._source
        if isinstance(value, dict) and _holds_port(value.values()):
            members = tuple(self.source(each) for each in value.values())
            return Listed(members, tuple(value), "dict")
        if isinstance(value, list | tuple) and _holds_port(value):
            return Listed(tuple(self.source(each) for each in value), (), value.__class__.__name__)
        return Literal(value)

    def input(self, kind: StageKind[..., Any], key: str, value: Any) -> Source:
        """Where one input of a call comes from; refuses what does not fit."""
        place = caller_place()
        wanted = kind.inputs.get(key) or kind.open_inputs or PortType(())
        if isinstance(value, list | tuple | dict) and _holds_port([value]):
            if wanted.kinds and not (wanted.many or wanted.stream) and all(map(_is_one, wanted.kinds)):
                raise WorkflowError(
                    f"{kind.name}({key}=) wants {wanted}, and a {value.__class__.__name__} of ports is given",
                    help=f"give one port, or annotate `{key}: list[{wanted}]`",
                    where=place,
                    code="E102",
                )
            return self.source(value)
        if not isinstance(value, Port):
            return Literal(self._literal(kind, key, wanted, value, place))
        if value._drawing is self and not wanted.accepts(value._type) and not _wraps(wanted, value._type):
            self._refuse_type(kind, key, wanted, value, place)
        skippable = isinstance(value._source, FromInput)
        if value._maybe and not wanted.optional and not skippable and wanted.kinds not in ((), (Any,)):
            raise WorkflowError(
                f"{value._label} is skipped when its input is absent, but {kind.name}({key}=) is not optional.",
                help=f"annotate `{key}: {wanted} | None`, or tt.default({key}, value)",
                where=place,
                code="E103",
            )
        return self.source(value)

    def _literal(self, kind: StageKind[..., Any], key: str, wanted: PortType, value: Any, place: str) -> Any:
        seen = PortType((value.__class__,))
        plain = isinstance(value, _SCALARS) and wanted.kinds and set(wanted.kinds) <= set(_SCALARS)
        if plain and (wanted.many or not (wanted.element if wanted.stream else wanted).accepts(seen)):
            raise WorkflowError(
                f"{kind.name}({key}=) wants {wanted}, {value!r} is given",
                help=f"give {wanted}",
                where=place,
                code="E102",
            )
        try:
            return wanted.coerce(value)
        except InputError as error:
            raise WorkflowError(
                f"{kind.name}({key}=) wants {wanted}: {error.message}",
                help=error.help,
                where=place,
                code="E102",
            ) from error

    def _skips(self, kind: StageKind[..., Any], key: str, value: Any) -> bool:
        wanted = kind.inputs.get(key)
        if wanted is None or wanted.optional or wanted.kinds in ((), (Any,)):
            return False
        return value is None or (isinstance(value, Port) and value._maybe)

    def _as_port(self, value: Any, place: str) -> Port | None:
        if isinstance(value, Port):
            return value
        if isinstance(value, list | tuple | dict):
            return None
        raise WorkflowError(
            f"{self.title}() returns {value!r}, which no stage gave",
            help="return a port, or a list, tuple or dict of ports",
            where=place,
            code="E116",
        )

    # -- refusals -------------------------------------------------------------------------------------

    def _refuse_type(
        self, kind: StageKind[..., Any], key: str, wanted: PortType, port: Port, place: str
    ) -> NoReturn:
        fits = [f"{name} ({type})" for name, type in self.inputs.items() if wanted.accepts(type)]
        reach = [f"{name} ({type})" for name, type in self.inputs.items()]
        hint = f"did you mean {kind.name}({fits[0].split(' ')[0]})?  " if len(fits) == 1 else ""
        raise WorkflowError(
            f"{kind.name}({key}=...) wants {wanted}, but {port._label} gives {port._type}.",
            help=f"{hint}inputs in reach: {', '.join(reach)}",
            where=place,
            code="E102",
        )

    def _refuse_param(self, kind: StageKind[..., Any], key: str, port: Port, place: str) -> NoReturn:
        raise WorkflowError(
            f"{kind.name}({key}=) is a setting, fixed before a request runs; {port._label} is a port",
            help=f"write a value, or choose by tt.when. Inputs of {kind.name}: {', '.join(kind.inputs)}",
            where=place,
            code="E102",
        )

    def _refuse_name(self, full: str, name: str, place: str) -> NoReturn:
        first = self.stages[full].place
        new = full + "_2"
        raise WorkflowError(
            f"'{full}' names two stages ({first}, {place}); plans, caches and metrics are keyed by names.",
            help=f'add name="..." to one of them, for example name="{new}"',
            where=place,
            code="E106",
        )


def stage_output(kind: StageKind[..., Any]) -> PortType:
    """What a stage gives on its edge; a generator gives a stream of what it yields."""
    type = kind.output
    if kind.is_generator and not type.stream:
        return msgspec.structs.replace(type, stream=True)
    return type


def caller_folder() -> Path:
    """The folder of the user's file that is being read now."""
    frame = sys._getframe(1)
    while frame is not None and "/tauten/describe/" in frame.f_code.co_filename.replace("\\", "/"):
        frame = frame.f_back  # type: ignore[assignment]
    return Path(frame.f_code.co_filename).parent if frame else Path()


def _holds_port(values: Any) -> bool:
    return any(
        isinstance(each, Port)
        or (isinstance(each, list | tuple) and _holds_port(each))
        or (isinstance(each, dict) and _holds_port(each.values()))
        for each in values
    )


def _is_one(kind: Any) -> bool:
    """Whether a value of that kind is never made of several."""
    return kind in _SCALARS or (isinstance(kind, type) and issubclass(kind, Payload) and kind is not Json)


def _wraps(wanted: PortType, given: PortType) -> bool:
    """A stream may be collected into a single value of text, or into a list."""
    if given.stream and not wanted.stream:
        if wanted.many:
            return wanted.element.accepts(given.element)
        text = all(kind in (str, Text) for kind in given.kinds) or _untyped(given) or _untyped(wanted)
        return bool(text) and wanted.accepts(given.element)
    return wanted.stream and not given.stream and wanted.element.accepts(given)


def _untyped(port: PortType) -> bool:
    return not port.kinds or Any in port.kinds or Json in port.kinds


def caller_text() -> str:
    """The source line of the user's code that is being read now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and "/tauten/describe/" in frame.f_code.co_filename.replace("\\", "/"):
        frame = frame.f_back
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() if frame else ""


def _fields(type: Any) -> list[str]:
    if hasattr(type, "__struct_fields__"):
        return list(type.__struct_fields__)
    classes = reversed(getattr(type, "__mro__", ()))  # what a class inherits is declared, too
    return list(dict.fromkeys(name for each in classes for name in vars(each).get("__annotations__", {})))


def _field(type: Any, name: str) -> Any:
    if name in _fields(type):
        hint = typing.get_type_hints(type).get(name)
        return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.ClassVar else hint
    attribute = getattr(type, name, None)
    if isinstance(attribute, property) and attribute.fget is not None:
        return typing.get_type_hints(attribute.fget).get("return")
    return None
