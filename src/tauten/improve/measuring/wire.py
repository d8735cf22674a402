"""Messages between a measurement and its child process: msgpack, arrays as their bytes, never pickle."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tauten.errors import InputError

HEAD = struct.Struct(">Q")
MOST_BYTES = 1 << 32  # 4 GiB: items of a recording; a larger length means that the stream is out of step
_ARRAY = 1


def encode(message: Any) -> bytes:
    """A message with its length before it; raises InputError for what cannot cross."""
    try:
        body = msgspec.msgpack.encode(message, enc_hook=_plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"an item cannot be sent to the process that measures: {error}",
            help="measure models that take arrays, texts and numbers; stages of your own are measured in place",
            code="E255",
        ) from error
    return HEAD.pack(len(body)) + body


def size_of(head: bytes) -> int:
    """The length of the message that follows; raises ValueError when the stream is out of step."""
    (size,) = HEAD.unpack(head)
    if size > MOST_BYTES:
        raise ValueError(f"a message of {size} bytes; at most {MOST_BYTES} are expected")
    return int(size)


def decode(body: bytes) -> Any:
    """What `encode` packed; arrays lie in memory of their own and may be written, as those of a request."""
    return msgspec.msgpack.decode(body, ext_hook=_array)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError(f"an array of {value.dtype} (expected numbers or fixed-length text)")
        # not ascontiguousarray: that gives a number by itself an axis
        packed = msgspec.msgpack.encode((value.dtype.str, value.shape, value.tobytes()))
        return msgspec.msgpack.Ext(_ARRAY, packed)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def _array(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise ValueError(f"extension {code} is not known")
    dtype, shape, raw = msgspec.msgpack.decode(data, type=tuple[str, tuple[int, ...], bytes])
    return np.ndarray(shape, np.dtype(dtype), raw).copy()
