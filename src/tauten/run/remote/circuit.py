"""A circuit breaker: an endpoint that keeps failing is left alone, then asked by one call whether it is back."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from tauten.clock import Clock

WINDOW: Final = 20  # outcomes that count: enough that half of them is no accident
WINDOW_S: Final = 30.0  # older ones say nothing of now
FAULTS: Final = 5  # in the window at least: fewer are chance
SHARE: Final = 0.5  # of the window: below it, failing over is cheaper than giving the endpoint up
FIRST_OPEN_S: Final = 1.0  # a restart of a process behind a balancer
LONGEST_OPEN_S: Final = 60.0  # an outage: one call a minute finds its end
SLOW_SHARE: Final = 0.5  # of the call's budget before its first output: another could not be tried after it
LATE: Final = 1.5  # times the usual first output: a call that gives up sooner blames its own deadline


def slow(first_s: float, budget_s: float) -> bool:
    """Whether a first output came too late for the call that waited for it."""
    return first_s > SLOW_SHARE * budget_s


def late(waited_s: float, usual_s: float) -> bool:
    """Whether so long a wait says something of an endpoint that usually takes `usual_s`; all do where that is 0.0."""
    return waited_s > LATE * usual_s


class Pass(NamedTuple):
    """That a call may go; given back with its outcome."""

    era: int
    probe: bool


class Circuit:
    """Closed: calls go. Open: none goes, for a while that doubles. Half open: one goes, and decides.

    Outcomes: a fault (an error of theirs, silence, or an answer too slow for its budget), none, or neither: a limit
    and an error of the caller's say nothing about health, except that somebody answered.
    """

    def __init__(self, clock: Clock, draw: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._draw = draw  # in [0, 1): endpoints that fell together are not asked together
        self._seen: deque[tuple[float, bool]] = deque(maxlen=WINDOW)
        self._era = 0  # how often the state changed: outcomes of earlier eras decide nothing
        self._opened = 0  # times in a row
        self._until: float | None = None  # None: closed
        self._probing = False

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        if self._until is None:
            return "closed"
        return "open" if self._clock() < self._until else "half-open"

    @property
    def opens_in_s(self) -> float:
        """Seconds until a call may ask again."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    @property
    def lets(self) -> bool:
        """Whether `enter` would give a pass now."""
        return self.state == "closed" or (self.state == "half-open" and not self._probing)

    def enter(self) -> Pass | None:
        """A pass, or None: the endpoint is left alone."""
        if not self.lets:
            return None
        if self._until is None:
            return Pass(self._era, False)
        self._probing = True
        return Pass(self._era, True)

    def ended(self, given: Pass, fault: bool | None) -> None:
        """A call is over: `fault`, or not, or None where its end says nothing of the endpoint."""
        if given.era != self._era:
            return
        if given.probe:
            self._probed(fault)
        elif fault is not None:
            self._count(fault)

    def _probed(self, fault: bool | None) -> None:
        self._probing = False
        if fault:
            self._open()
        elif fault is not None:
            self._close()

    def _count(self, fault: bool) -> None:
        now = self._clock()
        seen = self._seen
        seen.append((now, fault))
        while now - seen[0][0] > WINDOW_S:
            seen.popleft()
        faults = sum(bad for _, bad in seen)
        if faults >= FAULTS and faults >= SHARE * len(seen):
            self._open()

    def _open(self) -> None:
        span_s = min(LONGEST_OPEN_S, FIRST_OPEN_S * 2.0 ** min(self._opened, 10))
        self._opened += 1
        self._until = self._clock() + span_s * (0.5 + 0.5 * self._draw())
        self._turn()

    def _close(self) -> None:
        self._opened = 0
        self._until = None
        self._turn()

    def _turn(self) -> None:
        self._era += 1
        self._probing = False
        self._seen.clear()
