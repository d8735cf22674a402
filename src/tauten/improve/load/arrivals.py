"""When requests are due: schedules made before the run, from a seed, that nothing changes afterwards."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from tauten.errors import InputError, suggest

Kind = Literal["poisson", "gamma", "constant", "recorded", "bursts"]
KINDS: Final[tuple[Kind, ...]] = ("poisson", "gamma", "constant", "recorded", "bursts")
MOST_CV2: Final = 1e6  # and its inverse the least: beyond, gaps are all 0 or all alike
MOST: Final = 20_000_000  # requests of one schedule: 160 MB of times


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """A process of arrivals; `due` makes its times.

    `cv2` is the squared coefficient of variation of the gaps (gamma): 1 is Poisson, 4 is bursty, 0.25 is
    nearly even. Bursts are `factor` times the rate during `burst_s` in the middle of every `period_s`.
    """

    kind: Kind = "poisson"
    cv2: float = 4.0  # between what one user and what a cron job looks like; Poisson is 1
    factor: float = 10.0
    burst_s: float = 5.0
    period_s: float = 30.0  # a run of 30 s, the default, holds one whole burst

    def __str__(self) -> str:
        if self.kind == "gamma":
            return f"gamma (squared variation {self.cv2:g})"
        if self.kind == "bursts":
            return f"bursts of {self.factor:g} times for {self.burst_s:g} s every {self.period_s:g} s"
        return self.kind

    def due(
        self,
        rate_per_s: float,
        *,
        duration_s: float = 0.0,
        count: int = 0,
        seed: int = 0,
        recorded: Sequence[float] = (),
    ) -> list[float]:
        """Seconds from the start at which requests are due: all within `duration_s`, or `count` of them.

        Recorded times keep their gaps; a rate above 0 stretches all of them alike, and a schedule longer
        than the recording plays it again.
        """
        if rate_per_s == math.inf or (self.kind != "recorded" and not rate_per_s > 0):
            raise InputError(
                f"a rate of {rate_per_s:g} requests a second", help="give a number above 0", code="E246"
            )
        if count <= 0 and not duration_s > 0:
            raise InputError(
                "a schedule without an end", help="give a duration or a number of requests", code="E246"
            )
        rng = random.Random(f"{seed} {self.kind}")
        source = self._times(rate_per_s, rng, recorded)
        times: list[float] = []
        for at in source:
            if (count and len(times) >= count) or (not count and at > duration_s):
                break
            times.append(at)
            if len(times) > MOST:
                raise InputError(f"more than {MOST} requests", help="ask for a shorter run", code="E246")
        return times

    def _times(self, rate: float, rng: random.Random, recorded: Sequence[float]) -> Iterator[float]:
        if self.kind == "recorded":
            return _played(recorded, rate)
        if self.kind == "constant":
            return _constant(rate)
        if self.kind == "gamma":
            shape, scale = 1.0 / self.cv2, self.cv2 / rate
            return _sums(lambda: rng.gammavariate(shape, scale))
        if self.kind == "bursts":
            unit = _sums(lambda: rng.expovariate(1.0))
            return (self._inverse(total / rate) for total in unit)
        return _sums(lambda: rng.expovariate(rate))

    def _inverse(self, load: float) -> float:
        """The time at which `load` seconds of the plain rate have passed: bursts pass them faster."""
        quiet_s = self.period_s - self.burst_s
        period_load = quiet_s + self.burst_s * self.factor
        whole, rest = divmod(load, period_load)
        start, before = whole * self.period_s, quiet_s / 2
        if rest <= before:
            return start + rest
        if rest <= before + self.burst_s * self.factor:
            return start + before + (rest - before) / self.factor
        return start + rest - self.burst_s * (self.factor - 1.0)


def _sums(gap: Callable[[], float]) -> Iterator[float]:
    now = 0.0
    while True:
        now += gap()
        yield now


def _constant(rate: float) -> Iterator[float]:
    number = 0
    while True:
        yield number / rate  # not summed: a million roundings would drift
        number += 1


def _played(recorded: Sequence[float], rate: float) -> Iterator[float]:
    """The recording's times from its first one on, again and again; stretched to a mean rate above 0."""
    if not recorded:
        raise InputError(
            "no recording to take arrival times from", help="give --recording, or other arrivals", code="E246"
        )
    first, n = recorded[0], len(recorded)
    span = recorded[-1] - first
    length = span * n / (n - 1) if n > 1 else 0.0  # the last request has a gap of its own behind it
    if not length > 0:
        raise InputError("the recording's requests have no arrival times", help="give a --rate", code="E246")
    stretch = n / length / rate if rate > 0 else 1.0
    turn = 0
    while True:
        for at in recorded:
            yield (turn * length + at - first) * stretch
        turn += 1


_BURSTS = re.compile(r"([0-9.]+)x([0-9.]+)(?:/([0-9.]+))?")


def parse_arrivals(text: str) -> Arrivals:
    """Read ``poisson``, ``gamma:4``, ``constant``, ``recorded`` or ``bursts:10x5/30`` of a command line.

    >>> parse_arrivals("bursts:10x5/60").period_s
    60.0
    """
    name, colon, rest = text.partition(":")
    kind = next((each for each in KINDS if each == name), None)
    if kind is None:
        raise InputError(f"unknown arrivals {name!r}", help=suggest(name, KINDS), code="E260")
    try:
        made = _arrivals(kind, rest if colon else "")
    except ValueError as error:
        raise _unread(text) from error
    if not (1 / MOST_CV2 <= made.cv2 <= MOST_CV2 and 1 <= made.factor < math.inf):
        raise _unread(text)
    if not 0 < made.burst_s < made.period_s < math.inf:
        raise _unread(text)
    return made


def _arrivals(kind: Kind, rest: str) -> Arrivals:
    if not rest:
        return Arrivals(kind=kind)
    if kind == "gamma":
        return Arrivals(kind=kind, cv2=float(rest))
    bursts = _BURSTS.fullmatch(rest)
    if kind != "bursts" or bursts is None:
        raise ValueError(rest)
    made = Arrivals(kind=kind, factor=float(bursts[1]), burst_s=float(bursts[2]))
    return msgspec.structs.replace(made, period_s=float(bursts[3])) if bursts[3] else made


def _unread(text: str) -> InputError:
    return InputError(
        f"cannot read the arrivals {text!r}",
        help="write poisson, gamma:4 (squared variation of the gaps), constant, recorded, or bursts:10x5/30 "
        "(ten times the rate for 5 s of every 30 s)",
        code="E260",
    )
