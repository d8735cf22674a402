"""Tensors of the Open Inference Protocol as arrays, both ways: raw bytes, JSON, typed lists of messages.

Numbers are NumPy arrays; BYTES are arrays of `bytes` objects. Everything that comes is checked against its
own size before anything is allocated for it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tauten.errors import InputError, suggest

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = {dtype.name: name for name, dtype in DTYPES.items()} | {"str": "BYTES", "bfloat16": "BF16"}
_BY_CODE = {dtype.str: name for name, dtype in DTYPES.items()} | {np.dtype(object).str: "BYTES"}
KNOWN = (*DTYPES, "BF16", "BYTES")
MAX_AXES = 32  # what NumPy 1 holds; models have eight at most
MAX_STRINGS = 100_000  # of one tensor: taking them apart blocks the loop for 0.1 µs each, so for 10 ms
_MAX_AXIS = 1 << 40  # beyond any body; keeps products far from where arithmetic gets slow


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's type; raises where it has none."""
    found = _BY_CODE.get(array.dtype.str)
    if found is None:
        raise wrong(f"a result of type {array.dtype.name} has no datatype in this protocol")
    return found


def count_of(name: str, datatype: str, shape: Sequence[int]) -> int:
    """How many elements a shape holds; raises for shapes that are none and for unknown datatypes."""
    if datatype not in DTYPES and datatype not in ("BYTES", "BF16"):
        raise wrong(f"input {name!r}: unknown datatype {datatype[:20]!r}", suggest(datatype, KNOWN))
    if len(shape) > MAX_AXES or (shape and (min(shape) < 0 or max(shape) > _MAX_AXIS)):
        shown = f"{list(shape[:8])}{' ...' if len(shape) > 8 else ''}"
        raise wrong(
            f"input {name!r}: shape {shown[:200]} is no shape", f"up to {MAX_AXES} sizes, none negative"
        )
    return math.prod(shape)


# -- raw bytes -----------------------------------------------------------------------------------------------


def from_raw(name: str, datatype: str, shape: Sequence[int], data: Buffer, start: int, size: int) -> Array:
    """The tensor in `size` bytes of `data` from `start`; numbers are not copied where they lie aligned."""
    count = count_of(name, datatype, shape)
    dtype = DTYPES.get(datatype)
    if dtype is None:
        if datatype == "BYTES":
            return _strings_from_raw(name, count, data, start, size).reshape(shape)
        return _from_bf16(name, count, data, start, size).reshape(shape)
    _check_size(name, datatype, shape, count * dtype.itemsize, size)
    array = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
    if datatype == "BOOL" and array.view("u1").max(initial=0) > 1:
        raise wrong(f"input {name!r}: a BOOL holds a byte that is neither 0 nor 1")
    return aligned(array).reshape(shape)


def aligned(array: Array) -> Array:
    """Numbers where engines may read whole words: a copy where they lie elsewhere."""
    return array if array.flags.aligned else array.copy()


def _check_size(name: str, datatype: str, shape: Sequence[int], wanted: int, size: int) -> None:
    if wanted != size:
        raise wrong(
            f"input {name!r}: {size} bytes; {datatype} of shape {list(shape)} has {wanted}",
            "send as many bytes as the shape says",
        )


def _from_bf16(name: str, count: int, data: Buffer, start: int, size: int) -> Array:
    """BF16 as float32, which holds each of its values."""
    _check_size(name, "BF16", [count], count * 2, size)
    halves = np.frombuffer(data, "<u2", count, start) if count else np.empty(0, "<u2")
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _strings_from_raw(name: str, count: int, data: Buffer, start: int, size: int) -> Array:
    if count > MAX_STRINGS or count * 4 > size:
        raise wrong(
            f"input {name!r}: {count} elements in {size} bytes; each takes four bytes and its own",
            f"send {MAX_STRINGS} elements at most",
        )
    found = np.empty(count, object)
    end, view = start + size, memoryview(data)
    for index in range(count):
        begin = start + 4
        length = struct.unpack_from("<I", view, start)[0] if begin <= end else size
        start = begin + length
        if start > end:
            raise wrong(f"input {name!r}: element {index} ends beyond its {size} bytes")
        found[index] = bytes(view[begin:start])
    if start != end:
        raise wrong(f"input {name!r}: {end - start} bytes are left over after {count} elements")
    return found


def to_raw(array: Array) -> Buffer | Array:
    """An array as the protocol's bytes; numbers as they lie."""
    if array.dtype == object:
        parts: list[bytes] = []
        for value in array.ravel():
            data = _bytes_of(value)
            parts += [struct.pack("<I", len(data)), data]
        return b"".join(parts)
    return np.ascontiguousarray(array)


def size_of(raw: Buffer | Array) -> int:
    return raw.nbytes if isinstance(raw, np.ndarray | memoryview) else len(raw)


def _bytes_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


# -- JSON ----------------------------------------------------------------------------------------------------

_PLAIN: dict[str, Any] = {"BOOL": bool, "BYTES": str, "FP32": float, "FP64": float, "FP16": float}


@functools.cache
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any = _PLAIN.get(datatype, int)
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def from_json(name: str, datatype: str, shape: Sequence[int], data: Buffer | msgspec.Raw) -> Array:
    """The tensor in a JSON array, flat or nested as its shape."""
    count_of(name, datatype, shape)
    if datatype == "BF16":
        raise wrong(f"input {name!r}: BF16 has no JSON form", "send it as binary data, or as FP32")
    try:
        try:
            values = _decoder(datatype, 1).decode(data)
        except msgspec.ValidationError:
            if len(shape) < 2:
                raise
            values = _decoder(datatype, len(shape)).decode(data)
            return from_values(name, datatype, shape, values, nested=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise wrong(
            f"input {name!r}: data is no array of {datatype}: {error}", "give it flat, or nested as its shape"
        ) from None
    return from_values(name, datatype, shape, values)


def from_values(
    name: str, datatype: str, shape: Sequence[int], values: Sequence[Any], *, nested: bool = False
) -> Array:
    """Plain values as an array: flat, or `nested` exactly as the shape."""
    dtype = DTYPES.get(datatype, np.dtype(object))
    objects = datatype == "BYTES"
    try:
        with np.errstate(over="ignore"):  # beyond the type's range is infinity, as everywhere
            array = np.array(values, dtype) if nested or not objects else strings(values)
    except (OverflowError, ValueError) as error:
        raise wrong(f"input {name!r}: {error}", f"{datatype} does not hold it") from None
    if array.shape != tuple(shape) if nested else array.size != math.prod(shape):
        raise wrong(f"input {name!r}: data of shape {list(array.shape)} does not fill {list(shape)}")
    if objects:
        array = _checked_strings(name, array)
    return array.reshape(shape)


def _checked_strings(name: str, array: Array) -> Array:
    if array.size > MAX_STRINGS:
        raise wrong(f"input {name!r}: {array.size} elements", f"send {MAX_STRINGS} at most")
    return strings([each.encode() if isinstance(each, str) else each for each in array.ravel()])


def to_json(name: str, array: Array) -> list[Any]:
    """An array as flat JSON values; what is no number (NaN, infinity) becomes null."""
    if array.dtype != object:
        return array.ravel().tolist()
    try:
        return [_bytes_of(value).decode() for value in array.ravel()]
    except UnicodeDecodeError:
        raise InputError(
            f"output {name!r} holds bytes that are no text",
            help="ask for it with binary_data = true",
            code="E295",
        ) from None


def strings(values: Sequence[Any]) -> Array:
    """Texts or bytes as an array of objects."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def wrong(
    message: str, help: str = "see the datatypes and shapes of the model: GET /v2/models/NAME"
) -> InputError:
    """A tensor that does not hold together."""
    return InputError(message, help=help, code="E295")
