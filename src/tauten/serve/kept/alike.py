"""Whether two requests ask the same: a cheap fingerprint finds candidates, then their inputs are compared in full."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import msgspec

from tauten.describe.payload import Json, Payload, Tensor, Text

WHOLE = 4096  # characters or bytes that are hashed in full: 2 µs
PIECE = 32  # of what is longer: its beginning, middle and end
SAMPLES = 16  # numbers of an array, from all over it: pictures have even edges, and sound begins in silence
ENDS = 2  # members at each end of a list: conversations begin alike, and end with what is new
LOOKS = 256  # values that are looked at: a request's JSON may hold millions, which would hold up the loop


def fingerprint(inputs: Mapping[str, Any]) -> int:
    """A cheap hash that equal inputs have in common; equality itself is always compared in full."""
    looks = [LOOKS]
    return hash(tuple(_glance(value, looks) for value in inputs.values()))


def same(a: Any, b: Any) -> bool:
    """Whether two values of inputs are byte for byte the same."""
    if a is b:
        return True
    if a.__class__ is not b.__class__:
        return False
    if (array := _array(a)) is not None:
        return _same_arrays(array, _array(b))
    if isinstance(a, Json):
        return same(a.value, b.value)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[name]) for name, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return bool(a.hex() == b.hex())  # minus nought equals nought, and an angle differs by it
    if fields := _fields(a):
        return all(same(getattr(a, name), getattr(b, name)) for name in fields)
    return (a == b) is True  # an odd type may answer with something else than yes or no


def _same_arrays(a: Any, b: Any) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return same(a.tolist(), b.tolist()) if a.dtype.hasobject else bool(a.tobytes() == b.tobytes())


def _array(value: Any) -> Any:
    """The array that a value is or holds, else None."""
    if isinstance(value, Tensor):
        return value.array
    return value if value.__class__.__name__ == "ndarray" else None


def _fields(value: Any) -> Sequence[str]:
    """The names of a structure's fields; of any other value none."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else ()


def _glance(value: Any, looks: list[int]) -> Hashable:
    """What a value is at a glance; `looks` counts down those that are left, also for its members."""
    looks[0] -= 1
    if isinstance(value, str | bytes):
        return _pieces(value)
    if (array := _array(value)) is not None:
        numbers = array.ravel()[:: 1 + array.size // SAMPLES]
        return (array.shape, array.dtype.str, b"" if array.dtype.hasobject else numbers.tobytes())
    if isinstance(value, Json):
        return _glance(value.value, looks)
    if isinstance(value, Text):
        return _pieces(value.text)
    if isinstance(value, Payload):
        return (value.type, _pieces(value.data))
    if isinstance(value, list | tuple | dict):
        return _glance_into(value, looks)
    if fields := _fields(value):
        return tuple(_glance(getattr(value, name), looks) for name in fields)
    return value if isinstance(value, int | float) else value.__class__.__name__


def _glance_into(value: Any, looks: list[int]) -> Hashable:
    """A dict is looked at whole, in no order, a list at its ends, and what is too much only counted."""
    if looks[0] < (len(value) if isinstance(value, dict) else 1):
        return len(value)
    if isinstance(value, dict):
        return frozenset((name, _glance(each, looks)) for name, each in value.items())
    ends = value if len(value) <= 2 * ENDS else (*value[:ENDS], *value[-ENDS:])
    return (len(value), *(_glance(each, looks) for each in ends))


def _pieces(text: str | bytes) -> Hashable:
    if len(text) <= WHOLE:
        return text
    middle = len(text) // 2
    return (len(text), text[:PIECE], text[middle : middle + PIECE], text[-PIECE:])
