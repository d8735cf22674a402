"""What was booked since a process began, added up for metrics; written in one thread, read in any."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import operator
from collections import Counter
from typing import Final

from tauten.run.usage.cost import Cost
from tauten.run.usage.row import UsageRow

MOST: Final = 500  # series of one family, times its units: a scrape of all of them is some megabytes
OTHER: Final = "(other)"  # the name of all that come after so many: nothing is left out of a sum

Names = tuple[str, ...]


class Sums:
    """Lines, units and money by some fields of a line. Who invents names (models of a client of one's own, steps) makes
    no more than `most` series of each."""

    def __init__(self, *fields: str, most: int = MOST) -> None:
        self.fields = fields
        self._of = operator.attrgetter(*fields)  # of two or more
        self.lines: Counter[Names] = Counter()  # by the fields and how they came out
        self.units: dict[Names, float] = {}  # by the fields and the unit
        self.cost: dict[Names, Cost] = {}
        self._most = most

    def add(self, row: UsageRow) -> None:
        of = self._named(self._of(row))
        self.lines[(*of, row.outcome)] += 1
        for unit, amount in row.units.items():
            self.units[(*of, unit)] = self.units.get((*of, unit), 0.0) + amount
        self.cost[of] = self.cost.get(of, Cost()).plus(row.nano)

    def _named(self, of: Names) -> Names:
        return of if of in self.cost or len(self.cost) < self._most else (OTHER,) * len(of)


class Totals:
    """The same lines in four ways. Tags are in none: clients write them."""

    def __init__(self, most: int = MOST) -> None:
        self.models = Sums("workflow", "provider", "model", most=most)
        self.stages = Sums("workflow", "step", most=most)
        self.payers = Sums("tenant", "key", most=most)
        self.kinds = Sums("workflow", "kind", most=most)  # of work that nobody waited for

    def add(self, row: UsageRow) -> None:
        for sums in (self.models, self.stages, self.payers):
            sums.add(row)
        if row.kind:
            self.kinds.add(row)
