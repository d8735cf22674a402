"""Predictions that wait for what comes of them: each is scored when its plan is measured in the same way.

They lie in the store, in `awaited.json`; a newer prediction of the same takes the place of the older one. What was
scored leaves the file and becomes a row of the ledger.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tauten.errors import MachineError
from tauten.improve.load.figures import quantile_of
from tauten.improve.optimizer.outcome import Forecast
from tauten.plan.files import replace
from tauten.plan.plan import Plan
from tauten.statistics import percentile

AWAITED_FILE: Final = "awaited.json"  # beside the ledger
MOST: Final = 2000  # predictions, some hundred explanations: the oldest ones go


class Took(NamedTuple):
    """What one request took, in ms."""

    wall_ms: float
    first_ms: float


class Foretold(msgspec.Struct, frozen=True, kw_only=True):
    """One figure that was predicted of a plan under a load of certain requests, with its 90 % interval."""

    workflow: str  # hash of its graph
    plan: str  # hash of what it does
    name: str  # for people
    machine: str
    rate_per_s: float  # 0: one at a time
    recording: str
    items: tuple[str, ...]
    what: str
    predicted: float
    low: float
    high: float
    strategy: str
    at: str  # ISO 8601, UTC

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two of them predictions of the same."""
        return (*self.under, self.items, self.what)

    @property
    def under(self) -> tuple[str, str, str, str, float]:
        """What has to be the same where it is measured."""
        return self.workflow, self.plan, self.machine, self.recording, self.rate_per_s


def content_hash(plan: Plan) -> str:
    """The name of what a plan does, whatever it is called; its graph is that of its workflow, said or not."""
    return hashlib.sha256(msgspec.structs.replace(plan, graph="").content).hexdigest()[:16]


class Awaited:
    """The predictions of a store that nobody has measured yet."""

    def __init__(self, path: Path | None = None, kept: Iterable[Foretold] = ()) -> None:
        self.path = path
        self.kept = {each.key: each for each in kept}

    @classmethod
    def load(cls, folder: Path) -> Awaited:
        """Those of a store; a file of another version holds none. Raises MachineError."""
        path = folder / AWAITED_FILE
        try:
            return cls(path, msgspec.json.decode(path.read_bytes(), type=list[Foretold]))
        except (FileNotFoundError, msgspec.DecodeError):
            return cls(path)
        except OSError as error:
            raise MachineError(
                f"cannot read {path}: {error.strerror}", help="check its permissions", code="E302"
            ) from error

    def add(self, foretold: Iterable[Foretold]) -> None:
        """Wait for these too. Raises MachineError."""
        for each in foretold:
            self.kept.pop(each.key, None)
            self.kept[each.key] = each
        self._save()

    def settle(
        self, under: tuple[str, str, str, str, float], took: Mapping[str, Took]
    ) -> list[tuple[str, Forecast]]:
        """(strategy, prediction and outcome) of all that was awaited `under` these conditions; it waits no more.

        Of the requests that a prediction was made for, and only where all of them were run. Raises MachineError.
        """
        found = []
        for key, each in list(self.kept.items()):
            if each.under != under or not took.keys() >= set(each.items):
                continue
            del self.kept[key]
            measured = measured_of(each.what, [took[id] for id in each.items])
            if measured > 0.0 and each.predicted > 0.0:
                found.append((each.strategy, _forecast(each, measured)))
        if found:
            self._save()
        return found

    def settle_load(
        self, under: tuple[str, str, str, str, float], measured: Mapping[str, float]
    ) -> list[tuple[str, Forecast]]:
        """The same of a load at a rate, whose figures are those of all its requests: the few that a prediction was made
        with stand for the whole recording. Raises MachineError."""
        found = []
        for key, each in list(self.kept.items()):
            seen = measured.get(each.what, 0.0)
            if each.under == under and 0.0 < seen < math.inf and each.predicted > 0.0:
                del self.kept[key]
                found.append((each.strategy, _forecast(each, seen)))
        if found:
            self._save()
        return found

    def _save(self) -> None:
        if self.path is not None:
            replace(self.path, msgspec.json.encode(list(self.kept.values())[-MOST:]))


def measured_of(what: str, took: Iterable[Took]) -> float:
    """A figure by the name of an SLO limit, in ms."""
    walls = [each.first_ms if what == "first_output_ms" else each.wall_ms for each in took]
    return percentile(walls, quantile_of(what))


def _forecast(each: Foretold, measured: float) -> Forecast:
    return Forecast(
        of=each.name,
        what=each.what,
        predicted=each.predicted,
        low=each.low,
        high=each.high,
        measured=measured,
    )
