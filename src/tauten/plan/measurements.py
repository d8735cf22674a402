"""Measurements: what each step and model costs here, as distributions; estimates with intervals, or no data.

Amounts are kept in histograms of 1 % relative error, one for each (key, cause), under the hardware they
were taken on. A cause has one unit: most are seconds, memory is bytes, tokens are a rate. What was measured
elsewhere is *borrowed*: used only where nothing was measured here, scaled by the probes of both machines
where both are known, with wider intervals, and marked: it may rank candidates, never accept one. The file is
JSON, ``measurements/2``; ``measurements/1`` is read as well. Saving replaces it in one move.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tauten.errors import InputError, InternalError, MachineError, PlanError
from tauten.plan.files import replace
from tauten.plan.hardware import Hardware, hardware
from tauten.plan.peaks import Probe
from tauten.statistics import Histogram, Interval

FORMAT = "measurements/2"
_FIRST = "measurements/1"  # seconds only, no shapes, no probe
COVERAGE = 0.90  # of further requests that an estimate's interval is meant to hold
SETTLED = 19  # from here on the extremes of n observations hold 90 % of further ones: (n - 1) / (n + 1)
FEW_FACTOR = 2.0  # interval of a single observation, times and divided by; formulas are 2-3 times off
BORROWED_FACTOR = 2.0  # same cores and flags, other clock and memory: up to about twice as fast or slow
SCALED_FACTOR = 1.5  # clock and memory are in the probes; vector units, caches and thread counts are not
SIZE_FACTOR = 1.25  # bytes hang on the engine's build and its threads, hardly on the machine

COMPUTE = "compute"
"""Seconds of one call of a model with a whole batch."""
FIRST = "first"
"""Seconds until the first token of a stream."""
LOAD = "load"
"""Seconds from a started engine to an open model."""
MEMORY = "memory"
"""Bytes that the process holds above the engine without the model."""
WEIGHT = "weight"
"""How large an item was, in the backend's own unit."""
TOKENS_IN = "tokens_in"
"""Tokens a second that a prompt is read at."""
TOKENS_OUT = "tokens_out"
"""Tokens a second that one stream says."""

UNITS = {MEMORY: "bytes", WEIGHT: "weight", TOKENS_IN: "tokens/s", TOKENS_OUT: "tokens/s"}
"""The unit of each cause that is not seconds."""


class Key(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What was measured: a step's kind or signature and how it was run. Empty and 0 mean the default.

    An empty `step` is the model alone, whatever asks it. `shape` is a class of item sizes, see `shape_class`;
    0 is any size.
    """

    step: str
    model: str = ""
    variant: str = ""
    backend: str = ""
    precision: str = ""
    threads: int = 0
    batch: int = 1
    shape: int = 0


class Estimate(msgspec.Struct, frozen=True):
    """What one more request is expected to take: the median, and an interval for 90 % of requests."""

    low_ms: float
    mid_ms: float
    high_ms: float
    n: int
    borrowed: bool = False  # measured on other hardware: it may rank, never accept


class Amount(msgspec.Struct, frozen=True):
    """The same in the cause's own unit: seconds, bytes, tokens a second."""

    low: float
    mid: float
    high: float
    n: int
    unit: str = "s"
    borrowed: bool = False


class _Entry(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    key: Key
    cause: str
    low: float
    high: float
    total: float
    unit: str = "s"
    buckets: list[tuple[int, int]] = []
    zeros: int = 0


class _Section(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    hardware: Hardware
    entries: list[_Entry]
    probe: Probe | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tauten: str
    relative_error: float
    sections: list[_Section]


Table = dict[tuple[Key, str], Histogram]


def shape_class(weight: float) -> int:
    """The class of an item's size: the power of two that it does not exceed, 1 at the least; 0 is any.

    >>> [shape_class(weight) for weight in (0.3, 1.0, 5.0, 128.0, 129.0)]
    [1, 1, 8, 128, 256]
    """
    return 1 << max(0, math.ceil(math.log2(weight))) if weight > 0.0 else 0


class Measurements:
    """Distributions by (key, cause), and the `probe` of this machine. Not safe in several threads at once."""

    def __init__(self, here: Hardware | None = None, probe: Probe | None = None) -> None:
        self.here = here or hardware()
        self.probe = probe
        self._own: Table = {}
        self._foreign: dict[Hardware, Table] = {}
        self._probes: dict[Hardware, Probe] = {}  # of the foreign ones

    def observe(self, key: Key, cause: str, value: float) -> None:
        """Count one observation of this machine, in the unit of the cause (`UNITS`, else seconds)."""
        _at(self._own, key, cause).add(value)

    def estimate(self, key: Key, cause: str) -> Estimate | None:
        """What one more request would take there, in ms; None means no data."""
        if cause in UNITS:
            raise InternalError(f"{cause} is no time; ask for its amount")
        found = self.amount(key, cause)
        if found is None:
            return None
        return Estimate(found.low * 1000, found.mid * 1000, found.high * 1000, found.n, found.borrowed)

    def amount(self, key: Key, cause: str) -> Amount | None:
        """What one more observation would give there, in the cause's unit; None means no data."""
        unit = UNITS.get(cause, "s")
        own = self._own.get((key, cause))
        if own is not None:
            return _amount(own, unit)
        found = self._borrowed(key, cause)
        if found is None:
            return None
        where, foreign = found
        return _scaled(_amount(foreign, unit), self.probe, self._probes.get(where))

    def distribution(self, key: Key, cause: str) -> Histogram | None:
        """What was measured here, to draw from or to take percentiles of; None means no data."""
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
        for where, table, probe in other._sections():
            target = self._table(where, probe)
            for (key, cause), histogram in table.items():
                _at(target, key, cause).merge(histogram)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one move; a crash leaves the old one. Raises MachineError."""
        sections = [
            _Section(where, _entries(table), probe) for where, table, probe in self._sections() if table
        ]
        replace(Path(path), msgspec.json.encode(_File(FORMAT, Histogram().relative_error, sections)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], here: Hardware | None = None) -> Measurements:
        """Read a file; sections of hardware that does not match `here` are borrowed. Raises PlanError."""
        measurements = cls(here)
        for section in _parse(Path(path)).sections:
            target = measurements._table(section.hardware, section.probe)
            for entry in section.entries:
                _at(target, entry.key, entry.cause).merge(_histogram(entry, str(path)))
        return measurements

    def _sections(self) -> Iterator[tuple[Hardware, Table, Probe | None]]:
        """Every table with its machine and that machine's probe, this one first."""
        yield self.here, self._own, self.probe
        for where, table in self._foreign.items():
            yield where, table, self._probes.get(where)

    def _table(self, where: Hardware, probe: Probe | None) -> Table:
        """The table of a machine; its probe is kept where none was yet."""
        if where.matches(self.here):
            self.probe = self.probe or probe
            return self._own
        if probe is not None:
            self._probes.setdefault(where, probe)
        return self._foreign.setdefault(where, {})

    def _borrowed(self, key: Key, cause: str) -> tuple[Hardware, Histogram] | None:
        """The foreign distribution with the most observations, and where it was taken."""
        found = [
            (where, table[key, cause]) for where, table in self._foreign.items() if (key, cause) in table
        ]
        return max(found, key=lambda each: each[1].n, default=None)


def _at(table: Table, key: Key, cause: str) -> Histogram:
    return table.setdefault((key, cause), Histogram())


def _amount(histogram: Histogram, unit: str) -> Amount:
    """Median and the order statistics that hold 90 %; wider while few."""
    n, tail = histogram.n, (1.0 - COVERAGE) / 2
    rank = max(1, int(tail * (n + 1)))
    few = max(0.0, 1.0 - (n - 1) / (SETTLED - 1))  # 1 with one observation, 0 once settled
    factor = FEW_FACTOR**few
    low, middle, high = (histogram.at_rank(r) for r in (rank, (n + 1) // 2, n + 1 - rank))
    return Amount(low / factor, middle, high * factor, n, unit)


def _scaled(there: Amount, here: Probe | None, probe: Probe | None) -> Amount:
    """What was measured elsewhere as it may be here. Rates fall where times grow; sizes stay."""
    least = most = 1.0
    factor = BORROWED_FACTOR
    if there.unit not in ("s", "tokens/s"):
        factor = SIZE_FACTOR
    elif here is not None and probe is not None:
        factor = SCALED_FACTOR
        least, most = here.slowness(probe)
        if there.unit == "tokens/s":
            least, most = 1.0 / most, 1.0 / least
    return Amount(
        there.low * least / factor,
        there.mid * math.sqrt(least * most),
        there.high * most * factor,
        there.n,
        there.unit,
        borrowed=True,
    )


def _entries(table: Table) -> list[_Entry]:
    return [
        _Entry(key, cause, h.low, h.high, h.total, UNITS.get(cause, "s"), sorted(h.buckets.items()), h.zeros)
        for (key, cause), h in table.items()
    ]


def _histogram(entry: _Entry, where: str) -> Histogram:
    histogram = Histogram()
    histogram.buckets = dict(entry.buckets)
    histogram.zeros, histogram.total = entry.zeros, entry.total
    histogram.n = entry.zeros + sum(histogram.buckets.values())
    histogram.low, histogram.high = entry.low, entry.high
    if (
        entry.zeros < 0
        or histogram.n < 1
        or min(histogram.buckets.values(), default=1) < 1
        or not 0 <= entry.low <= entry.high
        or entry.unit != UNITS.get(entry.cause, "s")
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
        file = msgspec.convert(_renewed(msgspec.json.decode(data)), _File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(str(error), str(path)) from error
    if file.tauten != FORMAT or file.relative_error != Histogram().relative_error:
        raise _unreadable(f"expected {FORMAT} at 1 % error, seen {file.tauten}", str(path))
    return file


def _renewed(raw: Any) -> Any:
    """A file of the first format as one of today: its names said seconds, and it had no other unit."""
    if not isinstance(raw, dict) or raw.get("tauten") != _FIRST:
        return raw
    sections = msgspec.convert(raw.get("sections"), list[dict[str, Any]])
    names = {"low_s": "low", "high_s": "high", "total_s": "total"}
    for section in sections:
        entries = msgspec.convert(section.get("entries"), list[dict[str, Any]])
        section["entries"] = [
            {names.get(name, name): value for name, value in entry.items()} for entry in entries
        ]
    return {**raw, "tauten": FORMAT, "sections": sections}


def _unreadable(reason: str, where: str) -> PlanError:
    return PlanError(
        f"cannot read the measurements: {reason}",
        help="delete the file and record again; estimates start from no data",
        where=where,
        code="E150",
    )
