"""Ledger: every prediction beside what came of it, and from that the interval of the next one.

The error of a prediction is the logarithm of measured over predicted. The interval is conformal: it holds its
share of outcomes for any distribution, as long as the next error is like the kept ones of its family. The file
holds one JSON object a line and only grows; what a crash cut off is passed over when it is read.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tauten.errors import InputError, MachineError
from tauten.plan.files import append
from tauten.statistics import Interval, clopper_pearson
from tauten.statistics.conformal import conformal_interval

COVERAGE = 0.90  # of outcomes that an interval is meant to hold
ENOUGH = 10  # predictions of a family before its own errors speak: 9 are the fewest whose worst bounds 90 %
WIDE = 4.0  # times and divided by, before that: formulas of ours were up to 3 times off, and this is a guess


class Family(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Predictions whose errors are alike. In a question, what is left empty is any."""

    strategy: str = ""
    engine: str = ""
    hardware: str = ""  # in its short form, str(Hardware)

    def holds(self, other: Family) -> bool:
        """Whether the other family lies in this one.

        >>> Family("quantize").holds(Family("quantize", "openvino")), Family("batch").holds(Family("quantize"))
        (True, False)
        """
        asked = (self.strategy, self.engine, self.hardware)
        return all(
            mine in ("", theirs)
            for mine, theirs in zip(asked, (other.strategy, other.engine, other.hardware), strict=True)
        )


class Row(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One prediction and its outcome, both in the unit of `what`; low and high as they were stated then."""

    family: Family
    what: str  # p50_s, p95_s, peak_bytes ...
    predicted: float
    measured: float
    low: float | None = None
    high: float | None = None
    of: str = ""  # which candidate, for people
    at: str = ""  # ISO 8601, UTC

    @property
    def error(self) -> float:
        """Logarithm of measured over predicted: 0 is right, 0.69 took twice as long."""
        return math.log(self.measured / self.predicted)

    @property
    def inside(self) -> bool | None:
        """Whether the outcome lay in the interval that was stated; None where none was."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.measured <= self.high


class Ledger:
    """The kept rows, oldest first. `passed_over` lines of the file could not be read."""

    def __init__(self, path: str | os.PathLike[str] | None = None, rows: Iterable[Row] = ()) -> None:
        self.path = None if path is None else Path(path)
        self.rows = list(rows)
        self.passed_over = 0

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ledger:
        """Read what can be read of a file; none yet is an empty ledger. Raises MachineError."""
        ledger = cls(path)
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return ledger
        except OSError as error:
            raise MachineError(
                f"cannot read {path}: {error.strerror}", help="check its permissions", code="E302"
            ) from error
        for line in data.split(b"\n"):
            if line.strip():
                ledger._read(line)
        return ledger

    def _read(self, line: bytes) -> None:
        try:
            row = msgspec.json.decode(line, type=Row)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # cut off by a crash, damaged, or of another version: the others still count
            self.passed_over += 1
            return
        if _usable(row):
            self.rows.append(row)
        else:
            self.passed_over += 1

    def add(self, row: Row) -> None:
        """Keep a row, on the disk too where the ledger has a file. Raises InputError, MachineError."""
        if not _usable(row):
            raise InputError(
                f"{row.predicted} predicted and {row.measured} measured of {row.what}",
                help="both must be finite and above 0",
                code="E252",
            )
        if self.path is not None:
            append(self.path, msgspec.json.encode(row))
        self.rows.append(row)

    def errors(self, family: Family, what: str = "") -> list[float]:
        """The errors of a family, oldest first; of one quantity when it is named."""
        return [row.error for row in self._of(family, what)]

    def interval(
        self,
        family: Family,
        predicted: float,
        what: str = "",
        *,
        coverage: float = COVERAGE,
        half_life: float | None = None,
    ) -> Interval:
        """Where the outcome of the next prediction lies with the coverage; `n` rows of its family say so.

        Before there are ten, `WIDE` times and divided by. With a `half_life`, in predictions, older errors
        weigh less: for engines and machines that change; the guarantee then is only as good as the errors
        drift slowly, and rows are needed for it that weigh about ten in all.
        """
        errors = self.errors(family, what)
        n = len(errors)
        found = None
        if n >= ENOUGH:
            weights = None if half_life is None else [0.5 ** ((n - i) / half_life) for i in range(n)]
            found = conformal_interval(errors, coverage, weights)
        low, high = found if found is not None else (-math.log(WIDE), math.log(WIDE))
        return Interval(predicted * math.exp(low), predicted, predicted * math.exp(high), n)

    def coverage(self, family: Family | None = None, what: str = "") -> Interval | None:
        """The share of stated intervals that held their outcome, with its exact 95 % interval; None: none yet."""
        kept = [row.inside for row in self._of(family or Family(), what) if row.inside is not None]
        return clopper_pearson(sum(kept), len(kept)) if kept else None

    def typical_error(self, family: Family | None = None, what: str = "") -> float | None:
        """The median of |measured / predicted - 1|; None means no data."""
        found = [abs(math.expm1(row.error)) for row in self._of(family or Family(), what)]
        return statistics.median(found) if found else None

    def said(self, family: Family | None = None, what: str = "") -> str:
        """The record in one sentence: ``of 41 predictions, 38 inside the 90 % interval``."""
        kept = [row.inside for row in self._of(family or Family(), what) if row.inside is not None]
        if not kept:
            return "no prediction was measured yet"
        return f"of {len(kept)} predictions, {sum(kept)} inside the {COVERAGE:.0%} interval".replace(
            "%", " %"
        )

    def _of(self, family: Family, what: str) -> list[Row]:
        return [row for row in self.rows if family.holds(row.family) and what in ("", row.what)]


def _usable(row: Row) -> bool:
    return all(0.0 < value < math.inf for value in (row.predicted, row.measured))
