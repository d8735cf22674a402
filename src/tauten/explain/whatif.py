"""What would help: changes of a plan with what each is predicted to gain, and which step is worth work at all.

Plain data, in milliseconds, that the screen, the page and JSON print. Whatever stands here was simulated; what was
measured stands in `probed`, beside the simulated figure.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Final

import msgspec

from tauten.describe.turn import Answers

SCHEMA: Final = "tauten.whatif/1"
SHOWN: Final = ("p50_ms", "p95_ms", "first_output_ms")
"""The figures that are told, by the names of SLO limits."""

ALMOST: Final = 0.05  # ms a ms: what timers round


class Moved(msgspec.Struct, frozen=True):
    """By how many ms a figure moves, with its 90 % interval; below 0 is a gain."""

    low: float
    mid: float
    high: float

    @property
    def half(self) -> float:
        """The longer half of the interval."""
        return max(self.high - self.mid, self.mid - self.low)

    @property
    def clear(self) -> bool:
        """Whether the interval leaves no doubt that it is a gain."""
        return self.high < 0.0


Moves = dict[str, Moved]
"""By the names in `SHOWN`."""


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of the plan. `place` 1 is the best one; 0 is none of those worth their line on a screen."""

    strategy: str
    change: str
    steps: list[str]
    answers: Answers
    moves: Moves
    why: str = ""
    place: int = 0
    failed: float = 0.0  # share of requests that would be refused or fail
    plan: str = ""  # as TOML, of those with a place: to be kept as a file, and tried
    scored: int = 0  # earlier predictions of its kind that were measured; its intervals know their errors


class Together(msgspec.Struct, frozen=True, kw_only=True):
    """Several of the best changes at once."""

    places: list[int]
    answers: Answers
    moves: Moves
    plan: str  # as TOML


class Untried(msgspec.Struct, frozen=True):
    """What no figure is told of, and why."""

    strategy: str
    change: str
    why: str


class StepWorth(msgspec.Struct, frozen=True):
    """What it would gain if one step took less time and nothing else changed, by the share that it is quicker by."""

    step: str
    quicker: list[tuple[float, Moves]]  # (share from 0 to 1, moves)

    @property
    def most(self) -> float:
        """The largest gain in ms, as a positive number."""
        return max((-moved.mid for _, moves in self.quicker for moved in moves.values()), default=0.0)


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What delaying one step did to a figure: ms for each ms of delay, measured and simulated the same way.

    Its negative is what the first millisecond taken off the step would gain.
    """

    step: str
    what: str
    delay_ms: float
    slowed: int  # requests that were delayed
    plain: int  # and that could have been
    measured: Moved
    simulated: Moved

    @property
    def agree(self) -> bool:
        """Whether the two intervals share anything, or almost."""
        gap = max(self.measured.low - self.simulated.high, self.simulated.low - self.measured.high)
        return gap <= ALMOST


class WhatIf(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag=SCHEMA):
    """The whole answer. `now` are the simulated figures of the plan as it is."""

    workflow: str
    plan: str
    recording: str
    machine: str
    rate_per_s: float  # 0: one request at a time
    requests: int  # of each schedule
    schedules: int
    now: dict[str, float]
    changes: list[Change] = []
    together: Together | None = None
    untried: list[Untried] = []
    steps: list[StepWorth] = []
    probed: list[Probed] = []
    failures: list[str] = []  # settings that were to be run and could not be
    record: str = ""  # how good earlier predictions were, in one sentence

    def best(self) -> list[Change]:
        """The changes that are worth a line, the best first."""
        return sorted((each for each in self.changes if each.place), key=lambda each: each.place)
