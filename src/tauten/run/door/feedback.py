"""What admission learns from those who were late: a margin on its predictions, a limit where it has none."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

from tauten.errors import Overloaded

MISSES = 0.005  # of the admitted may be late: half of what a p99 allows
STEP, MOST = 0.05, 2.0  # of the margin: a late one widens it by a twentieth, at most to twice the prediction
EVENT_S = 0.1  # a stall makes hundreds late at once, and is one piece of evidence
OWED = 32  # late ones that are paid for at most: full batches of two replicas; a stall's hundreds would narrow it never again
FORGET_S = 5.0  # without a late one halve it: where all are refused, none could show that times are better

IN_FLIGHT = 4096  # requests in an engine: four full queues; more is memory spent on hopeless waiting
ROUND = 4  # answers a place of the limit before it grows by one: who probes faster makes one in five late
CUT = 0.7  # of those that ran when one was late: as congestion control takes it
ALONE = 2.0  # times the quickest one's time: who had less would be late on an idle machine too
QUICK = 1.5  # times the quickest one's time: an answer that nobody held up
FORGOTTEN = 1.01  # of the quickest one's time a round: machines and models change, it doubles in 70 rounds


class Margin:
    """How far predictions are widened so that hardly any request that was admitted is late."""

    __slots__ = ("_answered", "_event", "_owed", "_since", "value")

    def __init__(self) -> None:
        self.value = 1.0
        self._owed = (
            0.0  # answers in time before it is narrowed: each late one asks for as many as `MISSES` says
        )
        self._answered = False  # in time, since it was looked at for halving
        self._since = 0.0  # the last late one, or the last halving
        self._event = -math.inf  # when it was widened last

    def late(self, now: float, count: int = 1) -> None:
        self._since = now
        self._owed = min(OWED / MISSES, self._owed + count / MISSES)
        if now - self._event >= EVENT_S:
            self._event = now
            self.value = min(MOST, self.value + STEP)

    def in_time(self, count: int = 1) -> None:
        self._answered = True
        paid = min(self._owed, float(count))
        self._owed -= paid
        if self.value > 1.0:
            self.value = max(1.0, self.value - STEP * MISSES * (count - paid))

    def at(self, now: float) -> float:
        """The factor to predict with now."""
        if self.value > 1.0 and now - self._since > FORGET_S:
            self._forget(now)
        return self.value

    def _forget(self, now: float) -> None:
        """Halve it where it is paid for, or where nobody was let in who could pay."""
        if self._owed > 0.0 and self._answered:
            self._since, self._answered = now, False
            return
        halvings = int((now - self._since) / FORGET_S)
        self._since += halvings * FORGET_S
        self.value = 1.0 + (self.value - 1.0) * 0.5**halvings
        if self.value < 1.0 + STEP / 2:
            self.value = 1.0


class AdaptiveLimit:
    """A bound of requests in flight. Where nothing predicts how long they take, those who are late lower it.

    It begins as high as memory allows. One that is late cuts it to a part of those that run; a round of
    answers in time, while the limit was used, raises it a little. Who was let in before the last cut says
    nothing of it, and neither does who had too little time for any machine, or was overtaken by one that came
    later and was as quick as on an idle machine: such a one is slow by itself, whatever the load.
    """

    def __init__(self, most: int = IN_FLIGHT) -> None:
        self._most = most
        self._limit = float(most)
        self._cut_at = -math.inf
        self._in_time = 0  # of this round
        self._peak = 0
        self._quickest_s = math.inf
        self._quick_at = -math.inf  # when the last one came whom nobody held up
        self._mean_s = 1.0
        self.running = 0

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    def check(self, priority: int = 0, *, predicted: bool = False, count: int = 1) -> None:
        """Raise Overloaded at the limit: for priorities below 0 at nine tenths of it, for those whose time
        was predicted only where memory ends."""
        places = self._most if predicted else self.limit
        if self.running + count > max(1, places if priority >= 0 else int(places * 0.9)):
            raise Overloaded(
                f"{self.running} requests are running, the limit is {places}",
                help="retry later; the limit follows those that are late",
                retry_after_s=self._mean_s,
            )

    def enter(self, priority: int = 0, *, predicted: bool = False) -> None:
        """Count one request in, or raise as `check`."""
        self.check(priority, predicted=predicted)
        self.count()

    def count(self, count: int = 1) -> None:
        """Count in who was checked."""
        self.running += count
        if self.running > self._peak:
            self._peak = self.running

    def leave(
        self, began: float, now: float, budget_s: float = math.inf, *, whole: bool = True, count: int = 1
    ) -> None:
        """Count out who came to its end (`whole`), or was stopped, by its deadline or otherwise."""
        self.running -= count
        taken_s = now - began
        if taken_s >= budget_s:
            if max(self._cut_at, self._quick_at) <= began and budget_s > ALONE * self._quickest_s:
                self._limit = max(1.0, min(self._limit, self.running + 1) * CUT)
                self._cut_at = now
                self._in_time = self._peak = 0
        elif whole:
            self._quickest_s = min(self._quickest_s, taken_s)
            self._mean_s += (taken_s - self._mean_s) / 8
            if taken_s <= QUICK * self._quickest_s:
                self._quick_at = max(self._quick_at, began)
            self._in_time += count * (began >= self._cut_at)
            if self._in_time >= ROUND * self._limit:
                self._round()

    def _round(self) -> None:
        if self._peak * 2 >= self._limit:  # only a limit that is used may grow
            self._limit = min(self._most, self._limit + max(1.0, self._limit / 16))
        self._quickest_s *= FORGOTTEN
        self._in_time, self._peak = 0, self.running
