"""Inputs that warm a service up before it is ready: real ones where they are given, else harmless made-up ones."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tauten.describe.payload import Audio, Image, Json, Text
from tauten.describe.ports import PortType
from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.plan.plan import Plan
from tauten.run.contracts import find
from tauten.run.signature import TensorInfo

MOST = 8  # samples of a workflow: each kind of input a few times; a warm-up should take seconds
_SIDE = 256  # pixels of a made-up picture
_RATE = 16_000  # of a second of silence: what speech models take

Sample = Mapping[str, Any]


def given(folder: Path, workflow: Workflow[..., Any], name: str, *, alone: bool) -> Sequence[Sample]:
    """The samples of one workflow: of a recording, or of JSON files whose ``"@file"`` values name files there.

    With several workflows each has a folder of its name in `folder`. Raises InputError E269.
    """
    own = folder / name
    if not own.is_dir():
        if not alone:
            return []
        own = folder
    if (own / "items.jsonl").is_file():
        from tauten.improve.recording import Recording

        items = Recording.load(own).items[:MOST]
        found: list[Sample] = [item.inputs for item in items]
    else:
        found = [_read(path) for path in sorted(own.glob("*.json"))[:MOST]]
    if not found:
        raise nothing_in(own)
    for sample in found:
        workflow.bind(**sample)  # what does not fit is said before the models load
    return found


def nothing_in(folder: Path) -> InputError:
    """The error of a folder without samples."""
    return InputError(
        f"{str(folder)!r} holds no samples",
        help='give a recording, or JSON files like {"question": "Why?", "photo": "@shot.png"}',
        code="E269",
    )


def _read(path: Path) -> Sample:
    try:
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{str(path)!r} is not a sample: {error}", help="give an object of inputs by name", code="E269"
        ) from error
    return {name: _value(value, path.parent) for name, value in values.items()}


def _value(value: Any, folder: Path) -> Any:
    return folder / value[1:] if isinstance(value, str) and value.startswith("@") else value


def made_up(workflow: Workflow[..., Any], plan: Plan | None = None) -> tuple[list[Sample], str]:
    """Samples out of nothing, or none and why there are none.

    An input of several kinds has one of each in turn: a typed question does not warm what hears a spoken one.
    Stages that may not run twice (``effects="once"``) do not run for a warm-up that nobody asked for, and nobody
    is paid for one.
    """
    if workflow.graph is None:
        return [], "its graph is only known when it runs"
    if stage := asks_elsewhere(plan):
        return [], f"stage '{stage}' asks a provider, which costs money"
    effective = [stage.kind.name for stage in workflow.graph.stages.values() if not stage.kind.pure]
    if effective:
        return [], f"stage '{effective[0]}' may have effects (pure=True says that it has none)"
    made: dict[str, list[Any]] = {}
    for name, port in workflow.inputs.items():
        if values := _made(port):
            made[name] = values
        elif not port.optional:
            return [], f"no value of {port} can be made up for `{name}`"
    count = min(MOST, max(map(len, made.values()), default=1))
    return [{name: values[n % len(values)] for name, values in made.items()} for n in range(count)], ""


def asks_elsewhere(plan: Plan | None) -> str:
    """The first stage of a plan whose model runs on somebody else's machine; empty where all run here."""
    for name, stage in (plan.stages if plan is not None else {}).items():
        backends = (stage.backend, *(role.backend for role in stage.roles.values()))
        if any(each and not getattr(find("backends", each), "local", True) for each in backends):
            return name
    return ""


def _made(port: PortType) -> list[Any]:
    if port.stream:
        return []
    values = [make() for kind, make in _MAKERS.items() if kind in port.kinds]
    return [[value] for value in values] if port.many else values


def blank(inputs: Iterable[TensorInfo], dtypes: Mapping[str, Any]) -> Sample:
    """Tensors out of nothing: zeros and empty texts, of size 1 along the axes that requests choose."""
    import numpy as np

    made: dict[str, Any] = {}
    for info in inputs:
        shape = [axis if isinstance(axis, int) else 1 for axis in info.shape]
        dtype = dtypes[info.name]
        made[info.name] = np.full(shape, "", dtype) if info.dtype == "str" else np.zeros(shape, dtype)
    return made


def picture() -> bytes:
    """A grey PNG."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)  # 8 bits, grey
    rows = (b"\0" + b"\x80" * _SIDE) * _SIDE
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _silence() -> Audio:
    import numpy as np

    return Audio.from_array(np.zeros(_RATE, dtype=np.float32), _RATE)


_MAKERS: dict[Any, Any] = {
    Text: lambda: Text("Hello."),
    str: lambda: "Hello.",
    Image: lambda: Image(picture()),
    Audio: _silence,
    Json: lambda: Json({}),
    dict: dict,
    bool: lambda: False,
    int: lambda: 1,
    float: lambda: 1.0,
}
