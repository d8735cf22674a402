"""What belongs together goes to the same place, as long as that has room: consistent hashing with bounded loads."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand

OVER = (
    0.25  # of the mean load that a place may have beyond it: the published balance of moves against evenness
)
POINTS = 100  # of each place on the circle: shares of the keys then differ by about a tenth


class StickyRouter:
    """Keys and places lie on a circle; a key goes to the next place clockwise that has room for one more.

    A place has room up to ceil((1 + over) times the mean) requests under way, this one counted. A place that leaves
    gives its keys to its neighbours, and no other key moves but for want of room. A request without a key goes to
    the least loaded place. Mirrokni, Thorup and Zadimoghaddam, Consistent Hashing with Bounded Loads (SODA 2018).
    """

    name: ClassVar[str] = "sticky"
    option_keys: ClassVar[Mapping[str, type]] = {"over": float}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._over = max(0.0, float(options.get("over", OVER)))  # below the mean not everyone has a place
        self._salt = seed.to_bytes(8, "big", signed=True)
        self._names: tuple[str, ...] = ()
        self._circle: list[tuple[int, str]] = []

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        if not ask.key:
            ordered = sorted(able, key=lambda each: (each.outstanding, each.load))
            return Route(tuple(each.name for each in ordered), f"no key: {ordered[0].name} has least to do")
        under_way = {each.name: each.outstanding for each in able}
        room = math.ceil((1.0 + self._over) * (sum(under_way.values()) + 1) / len(able))
        walk = list(self._walk(ask.key, tuple(under_way)))
        free = [name for name in walk if under_way[name] + 1 <= room]
        if free[0] == walk[0]:
            why = f"{walk[0]} is where this key goes"
        else:
            why = f"{free[0]} is next for this key: {walk[0]} has {under_way[walk[0]]} of {room} that it may"
        return Route((*free, *(name for name in walk if name not in free)), why)

    def _walk(self, key: str, names: tuple[str, ...]) -> Iterator[str]:
        """The places as they come clockwise from a key, once each."""
        if names != self._names:
            self._names = names
            points = ((self._point(f"{name}\0{number}"), name) for name in names for number in range(POINTS))
            self._circle = sorted(points)
        start = bisect_left(self._circle, (self._point(f"\0{key}"), ""))
        met: set[str] = set()
        for _, name in self._circle[start:] + self._circle[:start]:
            if name not in met:
                met.add(name)
                yield name
            if len(met) == len(names):
                return

    def _point(self, text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, salt=self._salt).digest(), "big")

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """Loads are told with each request."""
