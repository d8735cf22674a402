"""Read a safetensors file: a JSON index with offsets, then raw numbers; every offset is checked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tauten.errors import StoreError

_TYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}
_MAX_HEADER_BYTES = 1 << 24  # the index of a large model is well under 1 MB


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def _refuse(path: Path, message: str) -> StoreError:
    return StoreError(
        f"{path.name} is not a readable safetensors file: {message}",
        help="the file is damaged or of another type",
        code="E314",
    )


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Names and memory-mapped arrays; StoreError E314 when the index and the file disagree."""
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size_bytes
        if length > min(size_bytes - 8, _MAX_HEADER_BYTES):
            raise _refuse(path, f"an index of {length} bytes in a file of {size_bytes}")
        try:
            index = msgspec.json.decode(stream.read(length), type=dict[str, Any])
            index.pop("__metadata__", None)
            entries = msgspec.convert(index, dict[str, _Entry])
        except msgspec.MsgspecError as error:
            raise _refuse(path, str(error)) from error
    body = np.memmap(path, np.uint8, "r", 8 + length) if size_bytes > 8 + length else np.empty(0, np.uint8)
    return {name: _array(path, name, entry, body) for name, entry in entries.items()}


def _array(path: Path, name: str, entry: _Entry, body: NDArray[Any]) -> NDArray[Any]:
    if entry.dtype not in _TYPES:
        raise _refuse(path, f"{name} is of type {entry.dtype}; expected one of {', '.join(_TYPES)}")
    start, end = entry.data_offsets
    dtype = np.dtype(_TYPES[entry.dtype])
    expected = math.prod(entry.shape) * dtype.itemsize
    if min(entry.shape, default=0) < 0 or not 0 <= start <= end <= body.size or end - start != expected:
        raise _refuse(path, f"{name} claims bytes {start} to {end} of {body.size} for shape {entry.shape}")
    return body[start:end].view(dtype).reshape(entry.shape)
