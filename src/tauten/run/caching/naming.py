"""Names of values by their content: equal names mean equal values, byte for byte, of the same types.

Every value is written into one hash as its type, its length and its content, so that no two values are spelled
alike. What cannot be named by content has no name, and what depends on it is not cached.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from tauten.describe.payload import Json, Payload, Tensor, Text
from tauten.describe.sheets import Sheets
from tauten.describe.view import Frames, Pixels, Samples

DIGEST_BYTES = 32  # nobody finds two contents of one name, whatever is sent on purpose

Write = Callable[[bytes], None]


class Nameless(Exception):
    """A value whose content has no name: a stream, an open file, an object of a class that nobody knows."""


def content_name(*values: Any) -> bytes:
    """One name for some values in their order; raises Nameless."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for value in values:
        _write(hasher.update, value)
    return hasher.digest()


def _write(write: Write, value: Any) -> None:
    kind = value.__class__
    if kind is str:
        _piece(write, b"s", value.encode("utf-8", "surrogatepass"))
    elif kind is Text:
        _piece(write, b"t", value.text.encode("utf-8", "surrogatepass"))
    elif kind in _PLAIN:
        _piece(write, kind.__name__.encode(), repr(value).encode())  # exact, and tells 0.0 from -0.0
    elif kind is bytes:
        _piece(write, b"b", value)
    elif kind in (list, tuple):
        _members(write, kind.__name__, value)
    elif kind is dict:
        _members(write, "dict", [part for pair in value.items() for part in pair])
    elif isinstance(value, Pixels | Samples | Frames | Sheets):
        _piece(write, b"view", value.name.encode())
    elif isinstance(value, Payload):
        _payload(write, value)
    else:
        _other(write, value)


def _piece(write: Write, mark: bytes, content: bytes) -> None:
    write(b"%s:%d:" % (mark, len(content)))
    write(content)


def _members(write: Write, mark: str, members: Any) -> None:
    write(b"%s*%d:" % (mark.encode(), len(members)))
    for member in members:
        _write(write, member)


def _payload(write: Write, value: Payload) -> None:
    """Media by the hash that they carry; what holds a Python value by that value, whose types a stage may see."""
    mark = _class(value.__class__)
    if isinstance(value, Json):
        _members(write, mark, [value.value])
    elif isinstance(value, Tensor):
        _members(write, mark, [value.array])
    else:
        _piece(write, mark.encode(), value.hash.encode())


def _other(write: Write, value: Any) -> None:
    if value.__class__.__name__ == "ndarray":
        _array(write, value)
    elif isinstance(value, enum.Flag):
        _members(write, _class(value.__class__), [value.value])  # several at once need not have a name
    elif isinstance(value, enum.Enum):
        _piece(write, b"enum", f"{_class(value.__class__)}.{value.name}".encode())
    elif isinstance(value, type):
        _piece(write, b"type", _class(value).encode())
    elif isinstance(value, set | frozenset):
        _members(write, "set", sorted(content_name(member) for member in value))
    elif isinstance(value, msgspec.Struct):
        fields = [getattr(value, name) for name in value.__struct_fields__]
        _members(write, _class(value.__class__), fields)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        _members(write, _class(value.__class__), list(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        _members(write, _class(value.__class__), fields)
    elif isinstance(revision := getattr(value, "revision", None), str):
        _piece(
            write, _class(value.__class__).encode(), revision.encode()
        )  # an index: it says what it holds now
    else:
        raise Nameless(_class(value.__class__))


def _array(write: Write, array: Any) -> None:
    if array.dtype.hasobject:
        raise Nameless("an array of Python objects")
    write(f"array:{array.dtype.str}{array.shape}:".encode())
    write(array.tobytes())


def _class(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


_PLAIN = frozenset({type(None), bool, int, float, complex})
