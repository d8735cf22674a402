"""Reads single facts from the header of a GGUF file."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

# GGUF value types to struct codes; 8 is a string and 9 an array, which have their own layouts.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def context_length(path: Path) -> int:
    """Tokens the model was trained to see at once; 0 when the header does not say or is not GGUF."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return 0
        _, _, pairs = struct.unpack("<IQQ", file.read(20))
        try:
            for _ in range(pairs):
                key = _read_string(file)
                value = _read_value(file, _unpack(file, "I"))
                if key.endswith(b".context_length") and isinstance(value, int):
                    return value
        except (struct.error, KeyError):
            return 0
    return 0


def _unpack(file: BinaryIO, code: str) -> int:
    form = struct.Struct(f"<{code}")
    value: int = form.unpack(file.read(form.size))[0]
    return value


def _read_string(file: BinaryIO) -> bytes:
    return file.read(_unpack(file, "Q"))


def _read_value(file: BinaryIO, kind: int) -> object:
    if kind == _STRING:
        return _read_string(file)
    if kind != _ARRAY:
        return _unpack(file, _SCALARS[kind])
    inner, size = _unpack(file, "I"), _unpack(file, "Q")
    for _ in range(size):
        _read_value(file, inner)
    return None
