"""A file of named records on disk, bounded in bytes, for several threads and processes at once (LMDB).

Three tables: the records; their order, by rank; and what is known of the whole. A commit is whole or not there. A
record's rank is its worth, and among equals its age. Its worth is what a byte of it saves, on top of a clock that
rises to the worth of what goes (GreedyDual-Size: Cao and Irani, USITS 1997), so that what saved much and is asked for
no more goes in the end. When there is no room, the lowest rank goes first; one that this process has read since it
came is ranked anew, once, instead. A newcomer that is worth less than all others does not stay.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

RECORD_BYTES = (
    200  # of a record beside its content: its key twice, its place in the order, heads of pages, about
)
MAP_BYTES = (
    64 << 30
)  # of address space, which costs nothing: equal for all processes, whatever bound each names
SPARE = 2  # times the bound have room in it: pages are freed late, and long records need whole ones
TURNS = 32  # records that are sent to the end of the order for one place: more is a walk through the file
READ_KEYS = 100_000  # that were read are remembered: a few MB, and more than goes between two evictions
PAGE = 512  # records looked at in one transaction of a walk: others write meanwhile
LONGEST_S = 1e7  # that a record may claim to save: four months; beyond it is a clock that jumped
FORMAT = 2  # of the tables: what another version kept under its own order is let go
_NUMBER = struct.Struct(">Q")  # big-endian: numbers sort as bytes
_RANK = struct.Struct(">dQ")  # worth, in seconds a byte, then age: floats of 0 and more sort as bytes, too
_WORTH = struct.Struct(">d")
_HEAD = struct.Struct(">dQd")  # of a record: its rank, and the seconds that it saves


class Content(NamedTuple):
    """What a file holds now."""

    records: int
    size_bytes: int


class KeptFile:
    """An opened file. All of it blocks."""

    def __init__(self, folder: Path, bound_bytes: int) -> None:
        self.folder = folder
        self.bound_bytes = bound_bytes
        self.evictions = 0
        self._read: set[bytes] = set()
        self._holders = 0
        self._map_bytes = _map_bytes(bound_bytes)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # results are what users asked
        self._env = lmdb.open(
            str(folder),
            map_size=self._map_bytes,
            max_dbs=3,
            mode=0o700,
            metasync=False,  # a crash of the machine may undo the last result, never damage the file
            readahead=False,  # results lie where they fell: what follows one is not asked next
            max_readers=512,  # threads of all processes on the machine
        )
        with self._env.begin(write=True) as txn:
            self._records, self._order, self._facts = (
                self._env.open_db(name, txn=txn) for name in (b"records", b"order", b"facts")
            )
            if self._fact(txn, b"format") != FORMAT:
                self._empty(txn)

    def grow(self, bound_bytes: int) -> None:
        """A larger bound, as far as the file was opened for one."""
        self.bound_bytes = max(self.bound_bytes, min(bound_bytes, self._map_bytes // SPARE))

    def get(self, key: bytes) -> bytes | None:
        with self._begin() as txn:
            record = txn.get(key, db=self._records)
        if record is None:
            return None
        if len(self._read) >= READ_KEYS:
            self._read.clear()
        self._read.add(key)
        return bytes(record[_HEAD.size :])

    def put(self, key: bytes, content: bytes, saves_s: float = 0.0) -> bool:
        """Keep a record that saves so much each time it is read; says whether it stays."""
        if _cost(content) > self.bound_bytes:
            return False
        try:
            with self._begin(write=True) as txn:
                self._take_out(txn, key)
                saves_s = min(max(0.0, saves_s), LONGEST_S)
                worth = self._clock(txn) + saves_s / _cost(content)
                if not self._make_room(txn, _cost(content), worth):
                    self._tick(txn, worth)  # what is worth more fades, and goes in the end
                    return False
                self._add(txn, key, content, saves_s)
                self._know(txn, used=self._fact(txn, b"used") + _cost(content))
        except lmdb.MapFullError:  # pages that old readers still hold: less is kept until they end
            self._shrink()
            return False
        return True

    def remove(self, key: bytes) -> None:
        with self._begin(write=True) as txn:
            self._take_out(txn, key)

    def content(self) -> Content:
        with self._begin() as txn:
            return Content(txn.stat(self._records)["entries"], self._fact(txn, b"used"))

    def clear(self) -> None:
        with self._begin(write=True) as txn:
            self._empty(txn)
        self._read.clear()

    def remove_where(self, wanted: Callable[[bytes], bool]) -> int:
        """Remove the records whose content is wanted; says how many that were."""
        found = [key for key, content in self.walk() if wanted(content)]
        for key in found:
            self.remove(key)
        return len(found)

    def walk(self) -> Iterator[tuple[bytes, bytes]]:
        """All records, a few in one transaction."""
        after = b""
        while page := self._page(after):
            yield from page
            after = page[-1][0]

    def close(self) -> None:
        self._env.close()

    # -- inside -------------------------------------------------------------------------------------------

    def _begin(self, write: bool = False) -> Any:
        return self._env.begin(write=write)

    def _page(self, after: bytes) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        with self._begin() as txn, txn.cursor(db=self._records) as cursor:
            there = cursor.set_range(after + b"\0") if after else cursor.first()
            while there and len(found) < PAGE:
                found.append((cursor.key(), cursor.value()[_HEAD.size :]))
                there = cursor.next()
        return found

    def _take_out(self, txn: Any, key: bytes) -> None:
        record = txn.get(key, db=self._records)
        if record is None:
            return
        txn.delete(record[: _RANK.size], db=self._order)
        txn.delete(key, db=self._records)
        self._know(txn, used=self._fact(txn, b"used") - _cost(record[_HEAD.size :]))

    def _add(self, txn: Any, key: bytes, content: bytes, saves_s: float) -> None:
        """Rank it by its worth as of now, behind its equals."""
        number = self._fact(txn, b"number") + 1
        worth = self._clock(txn) + saves_s / _cost(content)
        txn.put(key, _HEAD.pack(worth, number, saves_s) + content, db=self._records)
        txn.put(_RANK.pack(worth, number), key, db=self._order)
        self._know(txn, number=number)

    def _make_room(self, txn: Any, size_bytes: int, worth: float = math.inf) -> bool:
        """Let the lowest go until so much is free; False where what is left is worth more than what comes."""
        turns = TURNS
        while self._fact(txn, b"used") + size_bytes > self.bound_bytes:
            lowest = self._lowest(txn)
            if lowest is None:
                self._know(txn, used=0)
                return True
            least, key = lowest
            if turns and key in self._read:
                turns -= 1
                self._read.discard(key)
                self._rank_anew(txn, key)
            elif least > worth:
                return False
            else:
                self._tick(txn, least)
                self._take_out(txn, key)
                self.evictions += 1
        return True

    def _lowest(self, txn: Any) -> tuple[float, bytes] | None:
        with txn.cursor(db=self._order) as cursor:
            return (_RANK.unpack(cursor.key())[0], cursor.value()) if cursor.first() else None

    def _rank_anew(self, txn: Any, key: bytes) -> None:
        """It was asked for: it is worth as much as if it came now."""
        record = txn.get(key, db=self._records)
        txn.delete(record[: _RANK.size], db=self._order)
        self._add(txn, key, record[_HEAD.size :], _HEAD.unpack_from(record)[2])

    def _shrink(self) -> None:
        """Let an eighth go."""
        with self._begin(write=True) as txn:
            self._make_room(txn, self.bound_bytes - self._fact(txn, b"used") * 7 // 8)

    def _empty(self, txn: Any) -> None:
        for table in (self._records, self._order, self._facts):
            txn.drop(table, delete=False)
        self._know(txn, format=FORMAT)

    def _clock(self, txn: Any) -> float:
        """The worth of the dearest that went."""
        found = txn.get(b"clock", db=self._facts)
        return _WORTH.unpack(found)[0] if found else 0.0

    def _tick(self, txn: Any, worth: float) -> None:
        if worth > self._clock(txn):
            txn.put(b"clock", _WORTH.pack(worth), db=self._facts)

    def _fact(self, txn: Any, name: bytes) -> int:
        found = txn.get(name, db=self._facts)
        return _NUMBER.unpack(found)[0] if found else 0

    def _know(self, txn: Any, **facts: int) -> None:
        for name, value in facts.items():
            txn.put(name.encode(), _NUMBER.pack(max(0, value)), db=self._facts)


def _cost(content: bytes) -> int:
    return len(content) + RECORD_BYTES


def _map_bytes(bound_bytes: int) -> int:
    size = MAP_BYTES
    while size < bound_bytes * SPARE:
        size *= 4
    return size


_lock = threading.Lock()
_opened: dict[Path, KeptFile] = {}  # a process must open a file once only


def opened(folder: Path, bound_bytes: int) -> KeptFile:
    """The file in a folder, as large as the largest bound that somebody named; to be `released` once each."""
    folder = folder.resolve()
    with _lock:
        file = _opened.get(folder)
        if file is None:
            file = _opened[folder] = KeptFile(folder, bound_bytes)
        elif bound_bytes > file.bound_bytes:
            file.grow(bound_bytes)
        file._holders += 1
        return file


def released(file: KeptFile) -> None:
    """One holder less; the last one closes it."""
    with _lock:
        file._holders -= 1
        if not file._holders:
            del _opened[file.folder]
            file.close()
