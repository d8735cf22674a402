"""What a scenario found: figures, curves, and checks against the numbers that were promised; plain data."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bench.ground.check import Check, Line


@dataclass
class Result:
    """One scenario. `figures` are what it measured, in words a reader knows; `error` is why it did not end."""

    name: str
    title: str
    how: str
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[Line]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    took_s: float = 0.0
    error: str = ""
    foreign_share: float | None = None  # of the cores, used by others meanwhile
    steal_share: float | None = None  # of the cores, taken by the host meanwhile
    scenario: str = ""  # the file that measured it
    began: str = ""
    commit: str = ""

    def check(self, name: str, seen: float | None, bound: float, unit: str = "", **more: Any) -> None:
        self.checks.append(Check(name, seen, bound, unit, **more))

    @property
    def passed(self) -> bool:
        return not self.error and bool(self.checks) and all(each.met for each in self.checks)

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = dataclasses.asdict(self)
        for plain, check in zip(found["checks"], self.checks, strict=True):
            plain["met"] = check.met
        return {**found, "passed": self.passed}
