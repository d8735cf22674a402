"""How many tokens are in flight at an endpoint: more while it keeps its pace, fewer when it slows or refuses.

Additive increase, multiplicative decrease (Chiu and Jain, 1989: the one linear rule that is fair and settles), with
two signals: a refusal, and first outputs that take twice what they take in the long run, as in the gradient limit of
Netflix's concurrency-limits. The unit is the token, because calls differ a hundredfold in what they ask.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple

from tauten.clock import Clock

START_TOKENS: Final = 65_536.0  # some thirty calls of 2,000 tokens: what small accounts bear
LEAST_TOKENS: Final = 2_048.0  # one usual call
MOST_TOKENS: Final = 4_194_304.0  # beyond it other limits come first
_DOWN: Final = 0.7  # a third less frees a queue within one round; a half leaves the endpoint idle
_UP: Final = 2_048.0  # a round in which all went well adds one usual call
_TOLERANCE: Final = 2.0  # times the long-run first output: prompts of twice the usual size are no overload
_SETTLED: Final = 10  # first outputs before they are compared


class Entry(NamedTuple):
    """A call in flight."""

    tokens: float
    at: float
    full: bool  # whether at least half of the room was taken: growing is worth something


class Room:
    """Calls enter in order, and wait while the tokens in flight would exceed the limit; one alone always may."""

    def __init__(self, clock: Clock, *, tokens: float = START_TOKENS, calls: int = 0) -> None:
        self._clock = clock
        self._calls = calls or 1_000_000  # a bound that was configured; else the tokens bound it
        self.limit = tokens
        self.taken = 0.0
        self._inside = 0
        self._waiting: deque[tuple[float, asyncio.Future[Entry]]] = deque()
        self._shrunk = clock() - 1.0  # when; calls that were in flight then shrink it no further
        self._usual_s = 0.0
        self._seen = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def usual_s(self) -> float:
        """Seconds until a first output in the long run; 0.0 before there were enough to say so."""
        return self._usual_s if self._seen > _SETTLED else 0.0

    def fits(self, tokens: float) -> bool:
        """Whether a call would enter without waiting."""
        return not self._waiting and self._has(tokens)

    def _has(self, tokens: float) -> bool:
        return not self._inside or (self._inside < self._calls and self.taken + tokens <= self.limit)

    async def enter(self, tokens: float) -> Entry:
        """Wait for room, and take it; a caller who leaves while waiting takes none."""
        if self.fits(tokens):
            return self._admit(tokens)
        turn: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        place = (tokens, turn)
        self._waiting.append(place)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free(turn.result())  # the turn came as he left: pass it on
            elif place in self._waiting:
                self._waiting.remove(place)
                self._wake()
            raise

    def _admit(self, tokens: float) -> Entry:
        self._inside += 1
        self.taken += tokens
        return Entry(tokens, self._clock(), self.taken >= self.limit / 2)

    def leave(self, entry: Entry, *, first_s: float | None = None, refused: bool = False) -> None:
        """A call is over: its first output came after `first_s` (None: never), or it was refused."""
        if refused or (first_s is not None and self._slowed(first_s)):
            self._shrink(entry)
        elif first_s is not None and entry.full:
            self.limit = min(MOST_TOKENS, self.limit + _UP * entry.tokens / self.limit)
        self._free(entry)

    def _free(self, entry: Entry) -> None:
        self._inside -= 1
        self.taken = max(0.0, self.taken - entry.tokens)
        self._wake()

    def _slowed(self, first_s: float) -> bool:
        """Whether a first output took too long; it is then in the long-run mean, too."""
        self._seen += 1
        usual_s = self._usual_s
        self._usual_s += (first_s - usual_s) * max(0.01, 1.0 / self._seen)
        return self._seen > _SETTLED and first_s > _TOLERANCE * usual_s

    def _shrink(self, entry: Entry) -> None:
        if entry.at <= self._shrunk:
            return  # it was sent before the last step down, and says nothing of after
        self._shrunk = self._clock()
        self.limit = max(LEAST_TOKENS, self.limit * _DOWN)

    def _wake(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._has(self._waiting[0][0])):
            tokens, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._admit(tokens))
