"""Which axes of an ONNX file's inputs are free, read without its weights and before an engine has it.

A file is a protocol-buffers message: its fields are skipped by their lengths but for those that lead to the shapes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_GRAPH, _INPUT, _TYPE, _TENSOR, _SHAPE, _AXIS = 7, 11, 2, 1, 2, 1  # numbers of fields, from the outside in
_SIZE: Final = 1  # of an axis, where it has one
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # how a field is written


def free(path: Path, first: int) -> bool:
    """Whether an input has an axis of any size from its `first` one on, or no known shape; so too where the file cannot
    be read, which its engine will say better."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(
                _varies(data, *given, first)
                for graph in _parts(data, 0, len(data), _GRAPH)
                for given in _parts(data, *graph, _INPUT)
            )
    except (OSError, ValueError, IndexError):
        return True


def _varies(data: Any, begin: int, end: int, first: int) -> bool:
    """As `free`, of one input."""
    for field in (_TYPE, _TENSOR, _SHAPE):
        found = list(_parts(data, begin, end, field))
        if not found:
            return True
        begin, end = found[-1]
    axes = list(_parts(data, begin, end, _AXIS))
    return any(not _sized(data, *axis) for axis in axes[first:])


def _sized(data: Any, begin: int, end: int) -> bool:
    return any(number == _SIZE for number, *_ in _fields(data, begin, end))


def _parts(data: Any, begin: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Where the messages of a number lie."""
    return ((at, to) for found, at, to in _fields(data, begin, end) if found == number)


def _fields(data: Any, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of each field, and where its content begins and ends; raises ValueError for what is no message."""
    while at < end:
        tag, at = _varint(data, at)
        kind, begin = tag & 7, at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            size, begin = _varint(data, at)
            at = begin + size
        elif kind in (_EIGHT, _FOUR):
            at += 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > end:
            raise ValueError("a field that is longer than its message")
        yield tag >> 3, begin, at


def _varint(data: Any, at: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = shift = 0
    while (byte := data[at]) & 0x80:
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | byte << shift, at + 1
