"""Measurements: what each step costs here, as distributions; estimates with intervals, or no data.

Times are kept in histograms of 1 % relative error, one for each (key, cause), under the hardware they
were taken on. What was measured elsewhere is *borrowed*: used only where nothing was measured here, and
with wider intervals. The file is JSON, ``measurements/1``; saving replaces it in one move.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tauten.errors import InputError, MachineError, PlanError
from tauten.plan.hardware import Hardware, hardware
from tauten.statistics import Histogram, Interval

FORMAT = "measurements/1"
COVERAGE = 0.90  # of further requests that an estimate's interval is meant to hold
SETTLED = 19  # from here on the extremes of n observations hold 90 % of further ones: (n - 1) / (n + 1)
FEW_FACTOR = 2.0  # interval of a single observation, times and divided by; formulas are 2-3 times off
BORROWED_FACTOR = 2.0  # same cores and flags, other clock and memory: up to about twice as fast or slow


class Key(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What was measured: a step's kind or signature and how it was run. Empty and 0 mean the default."""

    step: str
    model: str = ""
    variant: str = ""
    backend: str = ""
    precision: str = ""
    threads: int = 0
    batch: int = 1


class Estimate(msgspec.Struct, frozen=True):
    """What one more request is expected to take: the median, and an interval for 90 % of requests."""

    low_ms: float
    mid_ms: float
    high_ms: float
    n: int
    borrowed: bool = False  # measured on other hardware


class _Entry(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    key: Key
    cause: str
    low_s: float
    high_s: float
    total_s: float
    buckets: list[tuple[int, int]] = []
    zeros: int = 0


class _Section(msgspec.Struct, forbid_unknown_fields=True):
    hardware: Hardware
    entries: list[_Entry]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tauten: str
    relative_error: float
    sections: list[_Section]


Table = dict[tuple[Key, str], Histogram]


class Measurements:
    """Distributions of seconds by (key, cause). Not safe in several threads at once."""

    def __init__(self, here: Hardware | None = None) -> None:
        self.here = here or hardware()
        self._own: Table = {}
        self._foreign: dict[Hardware, Table] = {}

    def observe(self, key: Key, cause: str, seconds: float) -> None:
        """Count one observation of this machine."""
        _at(self._own, key, cause).add(seconds)

    def estimate(self, key: Key, cause: str) -> Estimate | None:
        """What one more request would take there; None means no data."""
        own = self._own.get((key, cause))
        if own is not None:
            return _estimate(own, borrowed=False)
        foreign = self._borrowed(key, cause)
        return _estimate(foreign, borrowed=True) if foreign is not None else None

    def distribution(self, key: Key, cause: str) -> Histogram | None:
        """The seconds measured here, to draw from or to take percentiles of; None means no data."""
        return self._own.get((key, cause))

    def median(self, key: Key, cause: str, confidence: float = 0.95) -> Interval | None:
        """Interval of the median in seconds, from this machine; None when there is too little data."""
        own = self._own.get((key, cause))
        return own.interval(0.5, confidence) if own is not None else None

    def causes(self, key: Key) -> tuple[str, ...]:
        """The causes with data for `key`, own or borrowed."""
        tables = [self._own, *self._foreign.values()]
        return tuple(sorted({cause for table in tables for known, cause in table if known == key}))

    def keys(self) -> Iterator[Key]:
        """Every key measured on this machine, once, in the order they came."""
        yield from dict.fromkeys(key for key, _ in self._own)

    def __len__(self) -> int:
        """How many observations of this machine there are."""
        return sum(histogram.n for histogram in self._own.values())

    def merge(self, other: Measurements) -> None:
        """Add what `other` holds, each table under its own hardware. Twice the same counts twice."""
        for where, table in [(other.here, other._own), *other._foreign.items()]:
            target = self._table(where)
            for (key, cause), histogram in table.items():
                _at(target, key, cause).merge(histogram)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one move; a crash leaves the old one. Raises MachineError."""
        tables = [(self.here, self._own), *self._foreign.items()]
        sections = [_Section(where, _entries(table)) for where, table in tables if table]
        data = msgspec.json.encode(_File(FORMAT, Histogram().relative_error, sections))
        _replace(Path(path), data)

    @classmethod
    def load(cls, path: str | os.PathLike[str], here: Hardware | None = None) -> Measurements:
        """Read a file; sections of hardware that does not match `here` are borrowed. Raises PlanError."""
        measurements = cls(here)
        for section in _parse(Path(path)).sections:
            target = measurements._table(section.hardware)
            for entry in section.entries:
                _at(target, entry.key, entry.cause).merge(_histogram(entry, str(path)))
        return measurements

    def _table(self, where: Hardware) -> Table:
        return self._own if where.matches(self.here) else self._foreign.setdefault(where, {})

    def _borrowed(self, key: Key, cause: str) -> Histogram | None:
        """The foreign distribution with the most observations."""
        found = [table[key, cause] for table in self._foreign.values() if (key, cause) in table]
        return max(found, key=lambda histogram: histogram.n, default=None)


def _at(table: Table, key: Key, cause: str) -> Histogram:
    return table.setdefault((key, cause), Histogram())


def _estimate(histogram: Histogram, *, borrowed: bool) -> Estimate:
    """Median and the order statistics that hold 90 %; wider while few, wider again when borrowed."""
    n, tail = histogram.n, (1.0 - COVERAGE) / 2
    rank = max(1, int(tail * (n + 1)))
    few = max(0.0, 1.0 - (n - 1) / (SETTLED - 1))  # 1 with one observation, 0 once settled
    factor = FEW_FACTOR**few * (BORROWED_FACTOR if borrowed else 1.0)
    low, middle, high = (histogram.at_rank(r) * 1000 for r in (rank, (n + 1) // 2, n + 1 - rank))
    return Estimate(low / factor, middle, high * factor, n, borrowed)


def _entries(table: Table) -> list[_Entry]:
    return [
        _Entry(key, cause, h.low, h.high, h.total, sorted(h.buckets.items()), h.zeros)
        for (key, cause), h in table.items()
    ]


def _histogram(entry: _Entry, where: str) -> Histogram:
    histogram = Histogram()
    histogram.buckets = dict(entry.buckets)
    histogram.zeros, histogram.total = entry.zeros, entry.total_s
    histogram.n = entry.zeros + sum(histogram.buckets.values())
    histogram.low, histogram.high = entry.low_s, entry.high_s
    if (
        entry.zeros < 0
        or min(histogram.buckets.values(), default=1) < 1
        or not 0 <= entry.low_s <= entry.high_s
    ):
        raise _unreadable(f"impossible counts for {entry.key.step!r} {entry.cause!r}", where)
    return histogram


def _parse(path: Path) -> _File:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"no measurements at {path}", help="record some requests first", code="E250"
        ) from error
    except OSError as error:
        raise MachineError(
            f"cannot read {path}: {error.strerror}", help="check its permissions", code="E302"
        ) from error
    try:
        file = msgspec.json.decode(data, type=_File)
    except msgspec.DecodeError as error:
        raise _unreadable(str(error), str(path)) from error
    if file.tauten != FORMAT or file.relative_error != Histogram().relative_error:
        raise _unreadable(f"expected {FORMAT} at 1 % error, seen {file.tauten}", str(path))
    return file


def _unreadable(reason: str, where: str) -> PlanError:
    return PlanError(
        f"cannot read the measurements: {reason}",
        help="delete the file and record again; estimates start from no data",
        where=where,
        code="E150",
    )


def _replace(path: Path, data: bytes) -> None:
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror}",
            help="free disk space or choose another folder",
            code="E302",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
