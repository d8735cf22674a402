"""Results as bytes, for tiers outside this process: an explicit format, never pickled, with a checksum.

A node is a plain value that MessagePack has, or a list of a tag and its content. Classes are named; when they are read
they are looked up among those that this process has loaded, never imported for it, and their fields are set one
by one. What has no such form is not kept. With a secret the checksum is one that nobody makes without it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import hashlib
import hmac
import os
import pathlib
import struct
import sys
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tauten.describe.payload import Audio, Image, Json, Payload, Pdf, Tensor, Text, Video
from tauten.describe.sheets import Sheets
from tauten.describe.view import Frames, Pixels, Samples
from tauten.run.caching.holding import NotKept, beside
from tauten.run.caching.refused import Refused
from tauten.run.contracts import Kept

MAGIC: Final = b"ttc1"  # another format has another one, and nobody reads the old
SUM_BYTES: Final = 16  # a damaged entry passes for whole once in 2**128
_HEAD = struct.Struct("<I")
_INTEGERS = range(-(1 << 63), 1 << 64)  # that MessagePack has
_DEPTH = 64  # of lists in lists; deeper is no result of a stage


class Damaged(Exception):
    """Bytes that are not what was written, or of classes that are not here as they were."""


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What is told of a result without reading it."""

    size_bytes: int
    saved_s: float
    spent: tuple[tuple[str, float], ...]
    saved_cents: float
    made_at: float
    lives_s: float
    modality: str
    labels: tuple[str, ...]
    times_s: tuple[float, ...]


def secret() -> bytes:
    """What checksums are made with: `$TAUTEN_CACHE_SECRET`, shared by those who trust one another's results."""
    return hashlib.blake2b(os.environ.get("TAUTEN_CACHE_SECRET", "").encode(), digest_size=32).digest()


def encoded(key: bytes, kept: Kept, under: bytes) -> bytes:
    """A result as bytes, which say under which key they are; raises NotKept."""
    head = msgspec.msgpack.encode(Header(*kept[1:]))
    try:
        node = msgspec.msgpack.encode(_node(kept.value, _DEPTH))
    except UnicodeEncodeError:
        raise NotKept("text with half a character") from None
    content = _HEAD.pack(len(head)) + head + node
    return MAGIC + _sum(key, content, under) + content


def decoded(key: bytes, data: bytes, under: bytes) -> Kept:
    """The result; raises Damaged."""
    content = _checked(key, data, under)
    start = _HEAD.size + _HEAD.unpack_from(content)[0]
    try:
        head = msgspec.msgpack.decode(content[_HEAD.size : start], type=Header)
        value = _value(msgspec.msgpack.decode(content[start:]))
    except (
        msgspec.MsgspecError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise Damaged(str(error)) from error
    return Kept(value, *(getattr(head, field) for field in Header.__struct_fields__))


def header(data: bytes) -> Header:
    """What is told of a result, unchecked; raises Damaged."""
    start = len(MAGIC) + SUM_BYTES
    try:
        size = _HEAD.unpack_from(data, start)[0]
        begin = start + _HEAD.size
        return msgspec.msgpack.decode(data[begin : begin + size], type=Header)
    except (msgspec.MsgspecError, struct.error) as error:
        raise Damaged(str(error)) from error


def _checked(key: bytes, data: bytes, under: bytes) -> bytes:
    start = len(MAGIC) + SUM_BYTES
    content = data[start:]
    whole = len(content) > _HEAD.size and data[: len(MAGIC)] == MAGIC
    if not whole or not hmac.compare_digest(data[len(MAGIC) : start], _sum(key, content, under)):
        raise Damaged("the checksum is another one")
    return content


def _sum(key: bytes, content: bytes, under: bytes) -> bytes:
    hasher = hashlib.blake2b(key, digest_size=SUM_BYTES, key=under)
    hasher.update(content)
    return hasher.digest()


# -- writing ----------------------------------------------------------------------------------------------


def _node(value: Any, depth: int) -> Any:
    kind = value.__class__
    if kind in _PLAIN:
        return value
    if kind is int:
        return value if value in _INTEGERS else ["int", str(value)]
    if not depth:
        raise NotKept("lists in lists without end")
    if kind in _MANY:
        return [_MANY[kind], [_node(member, depth - 1) for member in value]]
    if kind is dict:
        return ["dict", [[_node(name, depth - 1), _node(each, depth - 1)] for name, each in value.items()]]
    if kind is Text:
        return ["Text", value.text]
    if kind is Json:
        return ["Json", _node(value.value, depth - 1)]
    if kind is Tensor:
        return ["Tensor", _array(value.array)]
    if kind in _MEDIA:
        return [kind.__name__, value.data, value.type]
    if kind in _SPELLED:
        return [_SPELLED[kind][0], _SPELLED[kind][1](value)]
    return _other(value, kind, depth)


def _other(value: Any, kind: type, depth: int) -> Any:
    if kind.__name__ == "ndarray":
        return ["array", *_array(value)]
    if isinstance(value, enum.Enum):
        if value.name not in type(value).__members__:  # of several flags at once
            raise NotKept(kind.__qualname__)
        return ["enum", _name(kind), value.name]
    if isinstance(value, Payload | type) or isinstance(getattr(value, "revision", None), str):
        raise NotKept(kind.__qualname__)
    names = _fields(kind)
    if names is None or not beside(value).keys() <= set(names):  # it holds more than its class says
        raise NotKept(kind.__qualname__)
    return ["made", _name(kind), {name: _node(getattr(value, name), depth - 1) for name in names}]


def _array(array: Any) -> list[Any]:
    if array.dtype.hasobject or array.dtype.names:
        raise NotKept("an array of Python objects")
    return [array.dtype.str, list(array.shape), array.tobytes()]


def _name(kind: type) -> str:
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        raise NotKept(f"{kind.__qualname__}, which no other process can find")
    return f"{kind.__module__}:{kind.__qualname__}"


def _fields(kind: type) -> tuple[str, ...] | None:
    """Those that make an instance; None for classes that nobody knows to take apart."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        found = dataclasses.fields(kind)
        return tuple(field.name for field in found) if all(field.init for field in found) else None
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return tuple(kind._fields)
    return None


# -- reading ----------------------------------------------------------------------------------------------


def _value(node: Any) -> Any:
    if node.__class__ is not list:
        return node
    tag, *content = node
    return _READ[tag](*content)


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    return {_value(name): _value(each) for name, each in pairs}


def _read_array(dtype: str, shape: list[int], data: bytes) -> Any:
    import numpy as np

    kind = np.dtype(dtype)
    if kind.hasobject:
        raise ValueError("an array of Python objects")
    if not data:
        return np.broadcast_to(np.zeros((), kind), shape)  # of no numbers; read-only, as all that is kept
    return np.frombuffer(data, kind).reshape(shape)


def _media(kind: type) -> Callable[[bytes, str], Any]:
    return lambda data, type: kind(data, type)


def _made(name: str, fields: dict[str, Any]) -> Any:
    kind = _class(name)
    names = _fields(kind)
    if names is None or set(names) != set(fields):
        raise ValueError(f"{name} has other fields now")
    return _set(kind, {key: _value(each) for key, each in fields.items()})


def _set(kind: type, fields: dict[str, Any]) -> Any:
    """An instance with these fields, whatever its class does with new ones: that was done when it was made."""
    if dataclasses.is_dataclass(kind):
        made: Any = object.__new__(kind)
        for name, each in fields.items():
            object.__setattr__(made, name, each)
        return made
    try:
        made = kind(**fields)
    except Exception as error:  # of code that is not ours: it would not have it any more
        raise Damaged(str(error)) from error
    if isinstance(made, msgspec.Struct):
        for name, each in fields.items():
            msgspec.structs.force_setattr(made, name, each)
    return made


def _enum(name: str, member: str) -> Any:
    kind = _class(name)
    if not issubclass(kind, enum.Enum):
        raise ValueError(f"{name} is no enumeration")
    return kind[member]


def _class(name: str) -> type:
    """A class that is loaded here."""
    module, _, path = name.partition(":")
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, type):
        raise ValueError(f"{name} is no class")
    return found


_PLAIN = frozenset({type(None), bool, float, str, bytes})
_MANY: Final[dict[type, str]] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_MEDIA: Final = frozenset({Image, Audio, Video, Pdf})
_OURS: Final = (Pixels, Samples, Frames, Sheets, Refused)  # loaded with this file, whoever reads first
_SPELLED: Final[dict[type, tuple[str, Callable[[Any], Any]]]] = {
    complex: ("complex", lambda value: [value.real, value.imag]),
    datetime.datetime: ("datetime", lambda value: value.isoformat()),
    datetime.date: ("date", lambda value: value.isoformat()),
    datetime.time: ("time", lambda value: value.isoformat()),
    datetime.timedelta: ("span", lambda value: [value.days, value.seconds, value.microseconds]),
    decimal.Decimal: ("decimal", str),
    uuid.UUID: ("uuid", lambda value: value.bytes),
    pathlib.PosixPath: ("path", str),
    pathlib.WindowsPath: ("path", str),
}
_READ: Final[dict[str, Callable[..., Any]]] = {
    "int": int,
    "list": lambda members: [_value(member) for member in members],
    "tuple": lambda members: tuple(_value(member) for member in members),
    "set": lambda members: {_value(member) for member in members},
    "frozenset": lambda members: frozenset(_value(member) for member in members),
    "dict": _dict,
    "Text": Text,
    "Json": lambda node: Json(_value(node)),
    "Tensor": lambda parts: Tensor(_read_array(*parts)),
    "array": _read_array,
    "enum": _enum,
    "made": _made,
    "complex": lambda parts: complex(*parts),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "span": lambda parts: datetime.timedelta(*parts),
    "decimal": decimal.Decimal,
    "uuid": lambda data: uuid.UUID(bytes=data),
    "path": pathlib.Path,
    **{kind.__name__: _media(kind) for kind in (Image, Audio, Video, Pdf)},
}
