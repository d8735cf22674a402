"""The form of every section of `make bench-shortcuts`: rows that are measured in rounds, checks against targets.

A section is one file in bench/shortcuts/sections/ and offers one function:

    @contextlib.asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[Section]: ...

It starts what all rows share (servers, stand-ins, recordings), yields the section, and ends it all. The frame does the
rest: in each round every row that can run is measured once, in an order of that round's own; a measurement that the
machine disturbed is taken again; a row's figures are the medians of its rounds; `judge` sees those and says what was
promised. A row that cannot run says why in `reason` and stays in the table.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.ground.check import Check, Line

T = TypeVar("T")
FAILED = "did not run"  # the key of a round that has no figures, and why; no column is called so
Value = (
    float | int | bool | str | None
)  # numbers become medians, True is counted, words are shown as they are
Measure = Callable[[int], Awaitable[Mapping[str, Value]]]  # is told the number of the round, from 0


@dataclass(frozen=True)
class Settings:
    """What a run was asked for; each section has its own sizes and takes them with `pick`."""

    quick: bool = False
    rounds: int = 5  # the median of fewer moves with each one
    seed: int = 1

    def pick(self, full: T, quick: T) -> T:
        """The size of a figure of record, or that of a quick look."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Column:
    """A figure of the table by its key in what `measure` gives; the unit "share" is shown in percent."""

    key: str
    title: str
    unit: str = ""


@dataclass(frozen=True)
class Subject:
    """One row before it is measured. `ours` is drawn in our colour; `note` stands below its name."""

    name: str
    measure: Measure | None = None
    ours: bool = False
    note: str = ""
    reason: str = ""  # why it cannot run here: then there is no `measure`


@dataclass
class Row:
    """One row after its rounds: medians with the lowest and highest, and what went wrong."""

    name: str
    ours: bool = False
    note: str = ""
    reason: str = ""  # why it has no figures: could not run, or failed in every round
    figures: dict[str, Any] = field(
        default_factory=dict
    )  # key -> median, low, high, rounds; or a count; or words
    rounds: list[dict[str, Any]] = field(default_factory=list)  # as measured, each with its disturbance

    def get(self, key: str) -> float | None:
        """The median (or, of True and False, the count) of a figure; None where there is none."""
        found = self.figures.get(key)
        if isinstance(found, Mapping):
            return float(found["median"])
        return float(found) if isinstance(found, int | float) else None

    def most(self, key: str) -> float | None:
        """The largest of all rounds: of what must never happen a median shows nothing."""
        found = self.figures.get(key)
        return float(found["high"]) if isinstance(found, Mapping) else self.get(key)

    def last(self, key: str) -> Any:
        """A value as the last good round gave it: for words, and for counts that rounds only repeat."""
        good = [one for one in self.rounds if FAILED not in one]
        return good[-1].get(key) if good else None


class Rows(dict[str, Row]):
    """All rows of a section by name."""

    def get_figure(self, name: str, key: str) -> float | None:
        """The median of one row's figure; None where either is missing."""
        row = self.get(name)
        return None if row is None else row.get(key)

    def get_most(self, name: str, key: str) -> float | None:
        """The largest of one row's figure over its rounds; None where either is missing."""
        row = self.get(name)
        return None if row is None else row.most(key)


def _no_curves(rows: Rows) -> dict[str, list[Line]]:
    return {}


@dataclass
class Section:
    """What `opened` yields. `claim` is what was promised, with the id of its headline where it has one."""

    name: str  # that of its file, and of its table in reasons.toml
    title: str
    claim: str
    how: str  # how it is measured, in a sentence or two
    columns: Sequence[Column]
    subjects: Sequence[Subject]
    judge: Callable[[Rows], Sequence[Check]]
    curves: Callable[[Rows], Mapping[str, Sequence[Line]]] = _no_curves  # title of the plot -> its lines
    conditions: dict[str, Any] = field(
        default_factory=dict
    )  # what the figures depend on: sizes, seeds, versions
    notes: list[str] = field(default_factory=list)  # what a reader must know beside the table


@dataclass
class Result:
    """A section that was measured, as plain data; `error` is why it did not come to its end."""

    name: str
    title: str = ""
    claim: str = ""
    how: str = ""
    columns: list[Column] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    curves: dict[str, list[Line]] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    took_s: float = 0.0
    foreign_share: float | None = None  # of the cores, used by others meanwhile
    steal_share: float | None = None  # of the cores, taken by the host meanwhile
    began: str = ""
    commit: str = ""

    @property
    def missed(self) -> list[Check]:
        """Every check that is not met, those without a figure among them."""
        return [each for each in self.checks if each.met is not True]

    @property
    def passed(self) -> bool:
        return not self.error and bool(self.checks) and not self.missed

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = dataclasses.asdict(self)
        for plain, check in zip(found["checks"], self.checks, strict=True):
            plain["met"] = check.met
        return {**found, "passed": self.passed}
