"""A row of the headlines: what is published, what was measured here of the same, and under which conditions."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final, Self

import msgspec

from tauten.statistics import median_interval

SCHEMA: Final = "tauten.headlines/1"


class Cell(msgspec.Struct, frozen=True, omit_defaults=True):
    """The median of n values with its 95 % interval; too few values have none.

    >>> Cell.of([3.0, 1.0, 2.0])
    Cell(mid=2.0, n=3, low=None, high=None)
    """

    mid: float
    n: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        found = median_interval(values)
        if found is None:
            return cls(statistics.median(values), len(values))
        return cls(statistics.median(values), found.n, found.low, found.high)


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One setting; `missing` says why it was not measured."""

    name: str
    setup: str
    missing: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One quantity of one case under each setting.

    `to_naive` and `to_zero_effort` are ours divided by that baseline, from pairs of the same round; None where
    one of the two was not measured.
    """

    case: str
    what: str
    unit: str
    cells: dict[str, Cell]
    to_naive: Cell | None = None
    to_zero_effort: Cell | None = None
    headline: bool = False


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """Where, when and with which version a row was measured."""

    machine: str
    measured_at: str
    commit: str
    tauten: str


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One claim. `naive`, `zero_effort` and `ours` name columns; where the last two are one, nothing of ours is in it.

    `missing` says why nothing could be measured. `others` is the share of the cores that others had meanwhile, as
    the median of the rounds, and `worst` as the most of one.
    """

    id: str
    claim: str
    naive: str = ""
    zero_effort: str = ""
    ours: str = ""
    conditions: dict[str, str] = {}
    columns: list[Column] = []
    lines: list[Line] = []
    quality: list[str] = []
    notes: list[str] = []
    rounds: int = 0
    others: float | None = None
    worst: float | None = None
    quick: bool = False
    missing: str = ""
    stamp: Stamp | None = None

    @property
    def headlines(self) -> list[Line]:
        return [line for line in self.lines if line.headline]


class Headlines(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag=SCHEMA):
    """Rows by their number."""

    rows: list[Row] = []

    def merged(self, newer: Headlines) -> Headlines:
        """These with the newer rows in the place of those of the same name.

        One that could not be measured this time leaves what was measured before.
        """
        found = {row.id: row for row in self.rows}
        for row in newer.rows:
            if not row.missing or row.id not in found or found[row.id].missing:
                found[row.id] = row
        return Headlines(rows=[found[id] for id in sorted(found, key=place)])


def place(id: str) -> tuple[str, int]:
    """L5 stands before L12.

    >>> sorted(["l12", "l5"], key=place)
    ['l5', 'l12']
    """
    return id[:1], int(id[1:]) if id[1:].isdigit() else 0
