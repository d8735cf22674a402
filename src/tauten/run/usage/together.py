"""Requests that were one item with others, added up: those of a moment that differ in nothing but their number are one line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import threading

from tauten.run.usage.entry import Entry, Models
from tauten.run.usage.payer import Payer

Alike = tuple[str, str, Payer, str, str, str]
"""How they ended, tenant, payer, workflow, plan, step."""


class _Sum:
    """So many of them, the seconds of replicas that they took, and when the last one ended."""

    __slots__ = ("at", "count", "models", "seconds")

    def __init__(self, models: Models) -> None:
        self.at = self.seconds = 0.0
        self.count = 0
        self.models = models


class Together:
    """Sums that are added to on the loop and taken by the writer's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # else one may be added to while it is read
        self._sums: dict[Alike, _Sum] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, alike: Alike, models: Models, count: int, seconds: float, at: float) -> None:
        """Count some more; `seconds` are those of replicas."""
        with self._lock:
            found = self._sums.get(alike)
            if found is None:
                found = self._sums[alike] = _Sum(models)
            found.count += count
            found.seconds += seconds
            found.at = at

    def take(self) -> list[Entry]:
        """All so far, one entry for those that are alike; from now on it is counted anew."""
        with self._lock:
            sums, self._sums = self._sums, {}
        return [_entry(alike, found) for alike, found in sums.items()]


def _entry(alike: Alike, found: _Sum) -> Entry:
    ended, tenant, payer, workflow, plan, step = alike
    spent = ((step, "replica_seconds", found.seconds),) if found.seconds else ()
    about = (found.at, ended, "", tenant, payer, workflow, plan)
    return Entry(*about, (), spent, (), found.models, asked=found.count)
