"""Read a torch state dict without torch and without trusting it: nothing but names and arrays comes out.

Both formats are read: the zip of torch >= 1.6, and the older one (five pickles, then the raw storages).
Three fences stand between the bytes and the arrays:
1. the opcodes of every pickle are listed first; one that a state dict does not need is refused, and so
   is a memo index that would allocate memory out of proportion;
2. the unpickler admits five globals, and its objects are immutable records, never arrays or types,
   so that no opcode can change them;
3. arrays are made after unpickling, when every offset, size and stride lies inside its storage.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tauten.errors import StoreError

Arrays = dict[str, NDArray[Any]]

_STORAGE_TYPES = {"FloatStorage": "<f4", "LongStorage": "<i8", "HalfStorage": "<f2"}
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older format
_PROTOCOL = 1001  # second pickle of the older format
_MAX_PICKLE_BYTES = 1 << 24  # the index of a large model is a few hundred kB
_MAX_MEMO = 1 << 20  # entries; the unpickler allocates up to the highest index
_OPCODES = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET",
    "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID",
))  # fmt: skip


class _StorageType(NamedTuple):
    dtype: str


class _Storage(NamedTuple):
    key: str
    dtype: str
    numbers: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Rebuild:
    """Stands in for torch's `_rebuild_tensor_v2`; an object without attributes, so no opcode can alter it."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, size, stride)


def _refuse(message: str) -> StoreError:
    return StoreError(
        f"refused to read the state dict: {message}",
        help="only plain weights are read; the file is damaged, hostile, or not a state dict",
        code="E314",
    )


class _Reader(pickle.Unpickler):
    """Knows five globals; storages become records that say where their bytes will be."""

    def __init__(self, data: bytes, storages: dict[str, _Storage]) -> None:
        super().__init__(io.BytesIO(data))
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE_TYPES:
            return _StorageType(_STORAGE_TYPES[name])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Rebuild()
        raise _refuse(f"it asks for {module}.{name}, which is not on the list of admitted names")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, count = pid[:5]
        if not (
            isinstance(kind, _StorageType) and isinstance(key, str) and isinstance(count, int) and count >= 0
        ):
            raise _refuse("a storage is described in an unknown way")
        return self._storages.setdefault(key, _Storage(key, kind.dtype, count))


def _span(stream: IO[bytes]) -> bytes:
    """Return the bytes of the pickle that starts here after checking its opcodes; leave the stream behind it."""
    start = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in _OPCODES:
            raise _refuse(f"pickle opcode {opcode.name} is not needed by a state dict")
        if opcode.name in ("LONG_BINPUT", "LONG_BINGET") and (argument or 0) > _MAX_MEMO:
            raise _refuse(f"memo index {argument} is above {_MAX_MEMO}")
        if stream.tell() - start > _MAX_PICKLE_BYTES:
            raise _refuse(f"its index is larger than {_MAX_PICKLE_BYTES} bytes")
    end = stream.tell()
    stream.seek(start)
    return stream.read(end - start)


def _array(tensor: _Tensor, data: NDArray[Any]) -> NDArray[Any]:
    """A contiguous copy of the tensor, or an error when it reaches outside of its storage."""
    offset, size, stride = tensor.offset, tensor.size, tensor.stride
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise _refuse("a tensor has an impossible shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > data.size or (count and last >= data.size):
        raise _refuse(f"a tensor of shape {size} at {offset} lies outside of its storage of {data.size}")
    if not count:
        return np.empty(size, data.dtype)
    strides = [step * data.itemsize for step in stride]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(data[offset:], size, strides))


def _arrays(index: Any, storages: Mapping[str, NDArray[Any]]) -> Arrays:
    if not isinstance(index, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) and isinstance(tensor.storage, _Storage)
        for name, tensor in index.items()
    ):
        raise _refuse("expected a dictionary of names and tensors")
    return {name: _array(tensor, storages[tensor.storage.key]) for name, tensor in index.items()}


def _read_zip(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        index_name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if index_name is None:
            raise _refuse("the archive has no data.pkl")
        if archive.getinfo(index_name).file_size > _MAX_PICKLE_BYTES:
            raise _refuse(f"its index is larger than {_MAX_PICKLE_BYTES} bytes")
        wanted: dict[str, _Storage] = {}
        index = _Reader(_span(io.BytesIO(archive.read(index_name))), wanted).load()
        root = index_name.removesuffix("data.pkl")
        return _arrays(index, {key: _zip_storage(archive, root, s) for key, s in wanted.items()})


def _zip_storage(archive: zipfile.ZipFile, root: str, storage: _Storage) -> NDArray[Any]:
    info = archive.getinfo(f"{root}data/{storage.key}")
    expected = storage.numbers * np.dtype(storage.dtype).itemsize
    if info.file_size != expected:
        raise _refuse(f"storage {storage.key} has {info.file_size} bytes; expected {expected}")
    return np.frombuffer(archive.read(info), storage.dtype)


def _read_legacy(path: Path) -> Arrays:
    with path.open("rb") as stream:
        storages: dict[str, _Storage] = {}
        if _Reader(_span(stream), {}).load() != _MAGIC or _Reader(_span(stream), {}).load() != _PROTOCOL:
            raise _refuse("it is not a torch file")
        _Reader(_span(stream), {}).load()  # facts of the writing machine: not needed
        index = _Reader(_span(stream), storages).load()
        keys = _Reader(_span(stream), {}).load()
        return _arrays(index, {key: _legacy_storage(stream, storages[key]) for key in keys})


def _legacy_storage(stream: IO[bytes], storage: _Storage) -> NDArray[Any]:
    (count,) = struct.unpack("<q", stream.read(8))
    if count != storage.numbers:
        raise _refuse(f"storage {storage.key} holds {count} numbers; expected {storage.numbers}")
    size_bytes = count * np.dtype(storage.dtype).itemsize
    data = stream.read(size_bytes)
    if len(data) != size_bytes:
        raise _refuse(f"the file ends inside of storage {storage.key}")
    return np.frombuffer(data, storage.dtype)


def read_state_dict(path: Path) -> Arrays:
    """Names and arrays of a torch state dict; StoreError E314 for anything else."""
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except StoreError:
        raise
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, struct.error, ValueError, TypeError, KeyError, IndexError,
        AttributeError, EOFError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        raise _refuse(f"{type(error).__name__}: {error}") from error
