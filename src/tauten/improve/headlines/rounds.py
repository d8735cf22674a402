"""Settings measured in turn, round after round, so that an hour that grows slower slows all of them alike."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tauten.errors import TautenError
from tauten.improve.headlines.row import Cell, Line
from tauten.improve.measuring.quiet import LIMIT

Quantity = tuple[str, str]  # the case, and what was measured of it
Reading = Mapping[Quantity, float]
Trial = Callable[[int], Awaitable[Reading]]  # one setting in one round, whose number it is told


class Measure(NamedTuple):
    """How a quantity is shown: its unit, and whether it stands for the row."""

    unit: str
    headline: bool = False


@dataclass(slots=True)
class Rounds:
    """What each setting read in each round that counts; `failed` says why a setting has none."""

    readings: dict[str, list[Reading]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)
    repeated: int = 0

    @property
    def typical(self) -> float | None:
        return statistics.median(self.others) if self.others else None

    @property
    def worst(self) -> float | None:
        return max(self.others, default=None)

    @property
    def notes(self) -> list[str]:
        """What is to be said of the rounds."""
        return [f"{self.repeated} rounds were disturbed and repeated"] if self.repeated else []


async def interleaved(
    trials: Mapping[str, Trial],
    count: int,
    *,
    share: Callable[[], float],
    say: Callable[[str], None],
    seed: int = 0,
) -> Rounds:
    """Every setting once a round, in an order drawn anew each round.

    A round in which others had more than a twentieth of the cores, as `share` tells, is thrown away and repeated,
    as long as fewer were than count; after that it counts all the same. A setting that raises one of our errors
    is left out of the rest, and says why.
    """
    found, draw = Rounds({name: [] for name in trials}), random.Random(seed)
    share()
    while len(found.others) < count and len(found.failed) < len(trials):
        say(f"round {len(found.others) + 1} of {count}")
        read: dict[str, Reading] = {}
        for name in draw.sample(sorted(trials), len(trials)):
            if name not in found.failed:
                try:
                    read[name] = await trials[name](len(found.others))
                except TautenError as error:
                    found.failed[name] = f"{error.code} {error.message}"
        others = share()
        if others > LIMIT and found.repeated < count - 1:
            found.repeated += 1
            continue
        found.others.append(others)
        for name, reading in read.items():
            found.readings[name].append(reading)
    for name in found.failed:
        found.readings[name] = []
    return found


def lines(
    readings: Mapping[str, Sequence[Reading]],
    shown: Mapping[str, Measure],
    *,
    naive: str,
    zero_effort: str,
    ours: str,
) -> list[Line]:
    """A line for each case and quantity that any setting read, in the order of `shown`."""
    every: dict[Quantity, None] = {}
    for each in readings.values():
        every |= dict.fromkeys(quantity for reading in each for quantity in reading)
    found = []
    for case in dict.fromkeys(case for case, _ in every):
        for what, measure in shown.items():
            if (case, what) in every:
                found.append(_line((case, what), measure, readings, naive, zero_effort, ours))
    return found


def _line(
    quantity: Quantity,
    measure: Measure,
    readings: Mapping[str, Sequence[Reading]],
    naive: str,
    zero_effort: str,
    ours: str,
) -> Line:
    values = {
        name: [reading[quantity] for reading in each if quantity in reading]
        for name, each in readings.items()
    }
    return Line(
        case=quantity[0],
        what=quantity[1],
        unit=measure.unit,
        cells={name: Cell.of(each) for name, each in values.items() if each},
        to_naive=_ratio(readings.get(ours, ()), readings.get(naive, ()), quantity),
        to_zero_effort=None
        if ours == zero_effort
        else _ratio(readings.get(ours, ()), readings.get(zero_effort, ()), quantity),
        headline=measure.headline,
    )


def _ratio(ours: Sequence[Reading], base: Sequence[Reading], quantity: Quantity) -> Cell | None:
    """Ours over the baseline, each from one round: what slowed the round is in both."""
    pairs = [
        mine[quantity] / theirs[quantity]
        for mine, theirs in zip(ours, base, strict=False)
        if quantity in mine and theirs.get(quantity, 0.0) > 0.0
    ]
    return Cell.of(pairs) if pairs else None
