"""What of a result may be kept: what nobody can change is shared, lists and dicts are copied for each who gets them.

A cache that handed out one list twice would let the first reader change what the second one sees. Classes that
nobody here knows are not kept at all.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import sys
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from tauten.describe.payload import Json, Payload, Tensor, Text

Change = Callable[[Any], Any]
_HEAD_BYTES = 120  # of an object with a few fields, about


class NotKept(Exception):
    """A value of a class that may not be kept."""


def held(value: Any) -> tuple[Any, int]:
    """A value as a cache may keep it and give it to all who ask, and its size in bytes; raises NotKept."""
    sizes: list[int] = []
    return _held(value, sizes), sum(sizes)


def handed(value: Any) -> Any:
    """A held value for one more reader: lists and dicts are his own, all else is shared."""
    kind = value.__class__
    if kind in _FIXED or (isinstance(value, Payload) and kind is not Json):
        return value
    if kind is list:
        return [handed(member) for member in value]
    if kind is tuple:
        return _tuple(value, handed)
    if kind is dict:
        return {name: handed(member) for name, member in value.items()}
    if kind is set:
        return set(value)
    if kind is frozenset:
        return value
    if kind is Json:
        return Json(handed(value.value))
    return _rebuilt(value, handed)


def _held(value: Any, sizes: list[int]) -> Any:
    kind = value.__class__
    if kind in _FIXED or isinstance(value, enum.Enum | type):
        sizes.append(sys.getsizeof(value))
        return value
    if kind is Text:
        sizes.append(_HEAD_BYTES + sys.getsizeof(value.text))
        return value
    if kind.__name__ == "ndarray":
        return _array(value, sizes)
    if kind is Tensor:
        return Tensor(_array(value.array, sizes))
    if isinstance(value, Payload) and kind is not Json:
        sizes.append(_HEAD_BYTES + value.size_bytes)
        return value
    sizes.append(sys.getsizeof(value))
    if kind is tuple:
        return _tuple(value, lambda member: _held(member, sizes))
    if kind in (list, set, frozenset):
        return kind(_held(member, sizes) for member in value)
    if kind is dict:
        return {_held(name, sizes): _held(member, sizes) for name, member in value.items()}
    if kind is Json:
        return Json(_held(value.value, sizes))
    if _named(value):
        sizes.append(getattr(value, "size_bytes", 0))
    return _rebuilt(value, lambda member: _held(member, sizes))


def _named(value: Any) -> bool:
    """Whether it says itself what it holds: under that name it never changes."""
    return isinstance(getattr(value, "revision", None), str)


def _tuple(value: tuple[Any, ...], change: Change) -> tuple[Any, ...]:
    """The same one where no member changed: structures around it then stay, too."""
    changed = tuple(change(member) for member in value)
    return value if all(one is other for one, other in zip(changed, value, strict=True)) else changed


def _rebuilt(value: Any, change: Change) -> Any:
    """A structure with its fields changed; the same one where nobody could change it and no field did.

    Its fields are copied as they are: it is not made anew, which would do again what its class does with a new one.
    """
    kind = value.__class__
    if isinstance(value, msgspec.Struct):
        frozen = kind.__struct_config__.frozen
    elif dataclasses.is_dataclass(value):
        frozen = kind.__dataclass_params__.frozen
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind._make([change(member) for member in value])
    elif kind.__name__ == "ndarray":
        return value  # held, and so read-only
    elif isinstance(value, enum.Enum | type) or _named(value):
        return value
    else:
        raise NotKept(kind.__qualname__)
    fields = _state(value)
    changed = {name: change(member) for name, member in fields.items()}
    if frozen and all(changed[name] is member for name, member in fields.items()):
        return value
    made = copy.copy(value)
    for name in getattr(made, "__dict__", {}).keys() - changed.keys():
        del made.__dict__[name]  # it works it out again
    for name, member in changed.items():
        if isinstance(made, msgspec.Struct):
            msgspec.structs.force_setattr(made, name, member)
        else:
            object.__setattr__(made, name, member)
    return made


def _state(value: Any) -> dict[str, Any]:
    """All that a structure holds: its fields that are set, and what was put into it beside them."""
    if isinstance(value, msgspec.Struct):
        names: Any = value.__struct_fields__
    else:
        names = [field.name for field in dataclasses.fields(value)]
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {**beside(value), **fields}


def beside(value: Any) -> dict[str, Any]:
    """What was put into a value by name; what it has worked out of its fields does not count."""
    kind, found = value.__class__, getattr(value, "__dict__", {})
    return {
        name: each
        for name, each in found.items()
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }


def _array(array: Any, sizes: list[int]) -> Any:
    """Read-only, and of its own memory: a row of a batch, or a loan of shared memory, would hold all of that."""
    if array.dtype.hasobject:
        raise NotKept("an array of Python objects")
    root = array
    while root.base.__class__.__name__ == "ndarray":
        root = root.base
    if root.base is not None or root.nbytes != array.nbytes:
        array = array.copy()
    array = array.view()
    array.flags.writeable = False
    sizes.append(_HEAD_BYTES + array.nbytes)
    return array


_FIXED = frozenset(
    {type(None), bool, int, float, complex, str, bytes, Text}
    | {datetime.date, datetime.datetime, datetime.time, datetime.timedelta}
    | {decimal.Decimal, uuid.UUID, pathlib.Path, pathlib.PosixPath, pathlib.WindowsPath}
)
