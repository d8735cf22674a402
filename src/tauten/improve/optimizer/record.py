"""The record of predictions: what was said of plans, how sure it was, and what came of it.

It lies in the store, in `ledger.jsonl`, and only grows. Simulations and the formula have rows of their own, so that
their errors can be told side by side.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from tauten.improve.optimizer.outcome import Forecast
from tauten.improve.optimizer.search import WORTH, Figures
from tauten.plan.hardware import Hardware
from tauten.plan.ledger import ENOUGH, Family, Ledger, Row
from tauten.statistics import Interval

LEDGER_FILE = "ledger.jsonl"  # beside the measurements
PLAN = "plan"  # the strategy of a prediction of a whole plan
SOONEST = ("p50_ms", "p95_ms", "first_output_ms")  # p99 of a few dozen requests is one of them

By = Literal["simulation", "formula"]


class Accuracy(msgspec.Struct, frozen=True):
    """How good the predictions of a record were. `coverage` has its exact 95 % interval; None: none was stated."""

    by: By
    n: int
    typical_error: float | None  # median of |measured / predicted - 1|
    coverage: Interval | None  # share of the stated 90 % intervals that held their outcome

    def said(self) -> str:
        """In one sentence.

        >>> Accuracy("formula", 0, None, None).said()
        'by formula: no prediction was measured yet'
        """
        if self.typical_error is None:
            return f"by {self.by}: no prediction was measured yet"
        error = f"by {self.by}: {self.n} predictions, half of them within {self.typical_error * 100:.1f} %"
        if self.coverage is None:
            return error
        low, mid, high = (each * 100 for each in (self.coverage.low, self.coverage.mid, self.coverage.high))
        return f"{error}; {mid:.0f} % inside their 90 % intervals (95 % interval {low:.0f} to {high:.0f} %)"


class Record:
    """A ledger, and the machine that its new rows are of."""

    def __init__(self, ledger: Ledger, here: Hardware) -> None:
        self.ledger = ledger
        self.hardware = str(here)

    @classmethod
    def load(cls, folder: Path, here: Hardware) -> Record:
        """That of a store; empty where none was kept yet. Raises MachineError."""
        return cls(Ledger.load(folder / LEDGER_FILE), here)

    def family(self, strategy: str = PLAN, engine: str = "") -> Family:
        return Family(strategy, engine, self.hardware)

    def interval(
        self, what: str, predicted: float, *, by: By = "simulation", strategy: str = PLAN, engine: str = ""
    ) -> Interval:
        """Where the outcome of a prediction lies nine times out of ten: from the errors of the narrowest family of
        which enough are kept: the strategy on its engine, the strategy, anything on this machine."""
        what = _named(what, by)
        for family in (self.family(strategy, engine), self.family(strategy), self.family("")):
            found = self.ledger.interval(family, predicted, what)
            if found.n >= ENOUGH:
                return found
        return found

    def forecast(
        self, of: str, figures: Figures, measured: Figures, *, by: By = "simulation"
    ) -> list[Forecast]:
        """What was predicted of a plan beside what was measured, by the names of both; no row is kept yet."""
        found = []
        for what, predicted in figures.values.items():
            seen = measured.values.get(what, 0.0)
            if predicted > 0.0 and seen > 0.0:
                stated = self.interval(what, predicted, by=by)
                found.append(
                    Forecast(
                        of=of, what=what, predicted=predicted, low=stated.low, high=stated.high, measured=seen
                    )
                )
        return found

    def keep(
        self,
        forecasts: Iterable[Forecast],
        *,
        by: By = "simulation",
        strategy: str = PLAN,
        engine: str = "",
        at: str = "",
    ) -> None:
        """Add forecasts to the ledger, on the disk too where it has a file. Raises InputError, MachineError."""
        at = at or datetime.now(UTC).isoformat(timespec="seconds")
        for each in forecasts:
            self.ledger.add(
                Row(
                    self.family(strategy, engine),
                    _named(each.what, by),
                    each.predicted,
                    each.measured,
                    each.low,
                    each.high,
                    each.of,
                    at,
                )
            )

    def accuracy(self, by: By = "simulation", whats: Sequence[str] = SOONEST) -> Accuracy:
        """How good predictions of these figures were, of all plans and machines of the record together."""
        names = {_named(what, by) for what in whats}
        return _accuracy(by, [row for row in self.ledger.rows if row.what in names])


def accuracy(forecasts: Iterable[Forecast], by: By = "simulation") -> Accuracy:
    """The same of forecasts that are kept elsewhere: an optimisation's own.

    >>> told = [Forecast(of="a", what="p50_ms", predicted=100.0, low=90.0, high=120.0, measured=110.0)]
    >>> found = accuracy(told)
    >>> found.n, round(found.typical_error or 0.0, 3), found.coverage is not None and found.coverage.mid
    (1, 0.1, 1.0)
    """
    return _accuracy(
        by,
        [
            Row(Family(PLAN), each.what, each.predicted, each.measured, each.low, each.high)
            for each in forecasts
        ],
    )


def _accuracy(by: By, rows: list[Row]) -> Accuracy:
    kept = Ledger(rows=rows)
    return Accuracy(by, len(rows), kept.typical_error(), kept.coverage())


# -- what the formula leaves out -----------------------------------------------------------------------------------


def worth_simulating(
    before: Figures, after: Figures, errors: Ledger, strategy: str, whats: Sequence[str] = SOONEST
) -> bool:
    """Whether a change may gain in simulation, by the formula's figures of both plans.

    No only where not even the optimistic end of the interval of its past errors gains in any figure. The errors are
    of changes, `after` over `before`, of the strategy: the formula knows no queues, but what it leaves out is in both
    plans. Before ten are known of a strategy hardly anything is refused. A search that must come to the same plan
    again begins with an empty ledger.
    """
    for what in whats:
        change = _change(before, after, what)
        if change is None or errors.interval(Family(strategy), change, _change_of(what)).low < 1.0 - WORTH:
            return True
    return False


def note_change(
    errors: Ledger,
    strategy: str,
    formula: tuple[Figures, Figures],
    simulated: tuple[Figures, Figures],
    whats: Sequence[str] = SOONEST,
) -> None:
    """Keep how a change came out in simulation beside what the formula said of it; both as (before, after)."""
    for what in whats:
        predicted, seen = _change(*formula, what), _change(*simulated, what)
        if predicted is not None and seen is not None:
            errors.add(Row(Family(strategy), _change_of(what), predicted, seen))


def _change(before: Figures, after: Figures, what: str) -> float | None:
    """After over before; None where one of them says nothing."""
    one, other = before.values.get(what, 0.0), after.values.get(what, 0.0)
    return other / one if one > 0.0 and 0.0 < other < float("inf") else None


def _change_of(what: str) -> str:
    return f"change of {what} by formula"


def _named(what: str, by: By) -> str:
    return what if by == "simulation" else f"{what} by {by}"
