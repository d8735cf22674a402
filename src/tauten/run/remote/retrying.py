"""Whether and when a call that failed everywhere is tried again: a budget, jitter, and never after the deadline."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tauten.run.remote.share import Share

SHARE: Final = 0.1  # of the traffic: retries above a tenth make an overload longer (Google SRE book, ch. 21)
RESERVE: Final = 2.0  # so that the first call of all may be tried three times
MOST: Final = 20.0  # saved up: those of the last 200 calls; more would all come at once in an outage
ROUNDS: Final = 3  # times that one call is sent to an endpoint at most, the first included
_FIRST_S: Final = 0.1  # a lost packet and a failing-over balancer are over by then
_LONGEST_S: Final = 8.0
_SPREAD: Final = 0.25  # on top of what they asked for: all who were told "1 s" must not come together


class Retrying:
    """The retry budget of one layer. `draw` gives numbers in [0, 1)."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._share = Share(SHARE, reserve=RESERVE, most=MOST)
        self._draw = draw

    def came(self) -> None:
        """An ordinary call begins."""
        self._share.earn(1.0)

    def wait_s(self, tried: int, retry_after_s: float, left_s: float) -> float | None:
        """Seconds to wait before the next try, which is then paid for; None where there is to be none.

        `tried` counts rounds so far; `left_s` is what the call has left, in which it must also be answered.
        """
        if tried >= ROUNDS:
            return None
        wait_s = self._pause_s(tried, retry_after_s)
        if wait_s >= left_s or not self._share.take(1.0):
            return None
        return wait_s

    def _pause_s(self, tried: int, retry_after_s: float) -> float:
        """Full jitter over a doubling span; what the provider asked for, and a little, where it did."""
        if retry_after_s:
            return retry_after_s * (1.0 + _SPREAD * self._draw())
        return self._draw() * min(_LONGEST_S, _FIRST_S * 2.0**tried)
