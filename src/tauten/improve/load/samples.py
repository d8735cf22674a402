"""What became of each request of a run: raw, in the order in which they were due."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from tauten.improve.load.target import Outcome


class Sample(NamedTuple):
    """One request. Seconds from the start of the measured window: those of the warm-up are due before 0."""

    item: int
    due: float
    sent: float
    first: float | None
    end: float
    outcome: Outcome
    lost: bool = False
    tokens: int = 0
    wrong: bool = False
    unsent: bool = False
    error: str = ""

    @property
    def good(self) -> bool:
        return self.outcome == "ok"

    @property
    def latency(self) -> float:
        """From when it was due; a request that was not answered never ended."""
        return self.end - self.due if self.good else math.inf

    @property
    def first_output(self) -> float:
        """From when it was due to its first output; a whole answer is its own first output."""
        if not self.good:
            return math.inf
        return (self.end if self.first is None else self.first) - self.due

    @property
    def service(self) -> float:
        """From when it was really sent."""
        return self.end - self.sent

    @property
    def lag(self) -> float:
        return self.sent - self.due


@dataclass(slots=True, eq=False)
class Samples:
    """The requests of one run, and the gaps between the increments of their streams."""

    window_s: float
    measured: list[Sample] = field(default_factory=list)
    warm_up: list[Sample] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    stopped_early: bool = False
    zombies: int | None = None

    def add(self, sample: Sample) -> None:
        (self.warm_up if sample.due < 0 else self.measured).append(sample)

    @property
    def errors(self) -> Counter[str]:
        """How often each reason was given; those of the warm-up are in no figure."""
        return Counter(sample.error for sample in self.measured if sample.error)

    def first_error(self, otherwise: str = "no reason was given") -> str:
        """The reason that came first, in the warm-up too."""
        return next((one.error for one in (*self.warm_up, *self.measured) if one.error), otherwise)

    def lags(self) -> list[float]:
        return [sample.lag for sample in self.measured]

    def count(self, outcome: Outcome) -> int:
        return sum(sample.outcome == outcome for sample in self.measured)


def joined(rounds: list[Samples]) -> Samples:
    """The requests of several rounds as one run, each round after the one before; never an average."""
    whole, offset = Samples(0.0), 0.0
    for each in rounds:
        whole.measured += [_moved(sample, offset) for sample in each.measured]
        whole.warm_up += each.warm_up
        whole.gaps += each.gaps
        whole.stopped_early |= each.stopped_early
        if each.zombies is not None:
            whole.zombies = (whole.zombies or 0) + each.zombies
        offset += each.window_s
    whole.window_s = offset
    return whole


def _moved(sample: Sample, by: float) -> Sample:
    first = None if sample.first is None else sample.first + by
    return sample._replace(due=sample.due + by, sent=sample.sent + by, first=first, end=sample.end + by)
