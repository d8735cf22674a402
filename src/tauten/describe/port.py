"""The placeholder that a stage gives while a workflow is drawn; any use of its value is an error.

Each error names the user's own file, line and source text, and the fix.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import linecache
import sys
from types import FrameType
from typing import Any, NoReturn

from tauten.describe.graph import Source
from tauten.describe.ports import PortType
from tauten.describe.stage import OURS
from tauten.errors import WorkflowError

_FLOW = "tt.when(port, then, otherwise), or write `async def` and `await` the stages."
_HELP = {
    "bool": _FLOW,
    "compare": "tt.when(tt.equals(port, value), then, otherwise), or write `async def`.",
    "iterate": "tt.map(stage, port) for each member, or write `async def`.",
    "text": "give the port to a stage, which receives the text; or write `async def`.",
    "compute": "do this in a stage of your own (@tt.stage), or write `async def`.",
    "attribute": "do this in a stage of your own (@tt.stage), or write `async def`.",
    "await": "drop the `await`: in a `def` workflow stages only give ports; or write `async def`.",
}


class Port:
    """What a stage will give. It can be passed to stages and returned; nothing else."""

    __slots__ = ("_drawing", "_label", "_maybe", "_source", "_type")

    def __init__(self, drawing: Any, source: Source, type: PortType, label: str, maybe: bool = False) -> None:
        self._drawing = drawing
        self._source = source
        self._type = type
        self._label = label
        self._maybe = maybe  # absent when the stage behind it is skipped

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            _refuse(self, "compute")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"<port of {self._label}: {self._type}>"

    def __hash__(self) -> int:
        return id(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_repr", "_ipython")):
            raise AttributeError(name)
        return self._drawing.attribute(self, name)


def leaked(port: Port) -> WorkflowError:
    """A placeholder of a drawing reached code that has no drawing."""
    return WorkflowError(
        f"{port!r} belongs to the drawing of a workflow; it has no value here",
        help="call the stage in the body of the `def` workflow itself, not in a thread or after it was drawn",
        where=_caller()[0],
        code="E112",
    )


def step_name(kind: str, given: Any) -> str:
    """The ``name=`` of a call that has no parameter of that name; raises WorkflowError for a port."""
    if isinstance(given, Port):
        raise WorkflowError(
            f"{kind}(name=) is what the step is called; {given._label} is a port",
            help="give the parameter or the field another name than `name`",
            where=_caller()[0],
            code="E102",
        )
    return str(given or "")


def _refuse(port: Port, use: str, code: str = "E101") -> NoReturn:
    place, text = _caller()
    shown = f"`{text}`" if text else f"this {use}"
    if code == "E105":
        message = (
            f"{shown}: a comparison of {port._label} ({port._type}) compares the placeholder, not its value."
        )
    else:
        message = (
            f"{shown} needs the value of {port._label} ({port._type}), which exists only when a request runs."
        )
    raise WorkflowError(message, help=_HELP[use], code=code, where=place)


def _caller() -> tuple[str, str]:
    """The user's place and source line: the nearest frame that is not our own."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and OURS.search(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "", ""
    filename = frame.f_code.co_filename
    text = linecache.getline(filename, frame.f_lineno).strip()
    return f"{filename.replace(chr(92), '/').rsplit('/', 1)[-1]}:{frame.f_lineno}", text


def _trap(use: str, code: str = "E101") -> Any:
    def refuse(self: Port, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse(self, use, code)

    return refuse


_TRAPS = {
    "bool": "bool",
    "compare": "eq ne lt le gt ge",
    "iterate": "len iter next reversed contains aiter anext length_hint",
    "text": "str format bytes fspath",
    "await": "await",
    "compute": (
        "int float complex index round trunc floor ceil abs neg pos invert getitem setitem delitem call "
        "enter exit aenter aexit add radd iadd sub rsub isub mul rmul imul matmul rmatmul truediv rtruediv "
        "floordiv rfloordiv mod rmod divmod rdivmod pow rpow lshift rlshift rshift rrshift and rand or ror "
        "xor rxor"
    ),
}
for _use, _names in _TRAPS.items():
    for _name in _names.split():
        setattr(Port, f"__{_name}__", _trap(_use, "E105" if _use == "compare" else "E101"))
