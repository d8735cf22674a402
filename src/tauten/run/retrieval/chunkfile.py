"""The chunks of an index in one memory-mapped file: MessagePack records and a table of where they start."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tauten.describe.passages import Chunk
from tauten.run.retrieval.vectors import mapped

_TABLE = np.dtype([("key", "<u8"), ("start", "<u8"), ("end", "<u8")])


class Catalogue(msgspec.Struct):
    """What is looked up without reading the records: key by id, keys by source and by name."""

    keys: dict[str, int] = {}  # chunk id -> key
    sources: dict[str, list[int]] = {}
    names: dict[str, list[int]] = {}  # lower-case last part of a definition's name -> keys

    def add(self, key: int, chunk: Chunk) -> None:
        self.keys[chunk.id] = key
        self.sources.setdefault(chunk.source, []).append(key)
        for name in _spoken(chunk):
            self.names.setdefault(name, []).append(key)

    def without(self, gone: set[int]) -> Catalogue:
        """The same without some keys."""
        return Catalogue(
            {id: key for id, key in self.keys.items() if key not in gone},
            _less(self.sources, gone),
            _less(self.names, gone),
        )


def _less(table: Mapping[str, list[int]], gone: set[int]) -> dict[str, list[int]]:
    kept = {name: [key for key in keys if key not in gone] for name, keys in table.items()}
    return {name: keys for name, keys in kept.items() if keys}


def _spoken(chunk: Chunk) -> set[str]:
    """The names a definition goes by: in full and its last part; only its first piece carries them."""
    if not chunk.name or chunk.part:
        return set()
    full = chunk.name.lower()
    return {full, full.rpartition(".")[2]}


class ChunkFile:
    """Chunks by key, read from the mapped file when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._table: NDArray[np.void] = mapped(folder / "chunks.table", _TABLE)
        data = folder / "chunks.bin"
        with open(data, "rb") as file:
            size = data.stat().st_size
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        if len(self._table) and int(self._table["end"][-1]) != size:
            raise ValueError(f"{data.name} is cut off")
        self._decode = msgspec.msgpack.Decoder(Chunk).decode

    def __len__(self) -> int:
        return len(self._table)

    @property
    def keys(self) -> NDArray[np.uint64]:
        return np.asarray(self._table["key"])

    def raw(self, key: int) -> bytes:
        """One record as it is stored. Rows are in the order of their keys."""
        row = self._table[int(np.searchsorted(self._table["key"], key))]
        return bytes(self._data[int(row["start"]) : int(row["end"])])

    def get(self, key: int) -> Chunk:
        return self._decode(self.raw(key))


def write_chunks(folder: Path, records: Iterable[tuple[int, bytes]]) -> None:
    """Write records, which come in the order of their keys."""
    rows: list[tuple[int, int, int]] = []
    at = 0
    with open(folder / "chunks.bin", "wb") as file:
        for key, record in records:
            file.write(record)
            rows.append((key, at, at + len(record)))
            at += len(record)
    (folder / "chunks.table").write_bytes(np.array(rows, dtype=_TABLE).tobytes())
