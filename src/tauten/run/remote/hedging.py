"""When a second endpoint is asked beside the first: late enough to be rare, early enough to be in time.

The Tail at Scale (Dean and Barroso, CACM 2013): a second copy after the 95th percentile costs some 5 % and takes most of
the tail. Here it waits for two things: the usual time of a first output is over, and what is left of the call's
budget is hardly more than another endpoint would need.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import deque
from typing import Final

from tauten.run.remote.share import Share

SHARE: Final = 0.05  # of all tokens: what a second copy after the 95th percentile costs at most
MOST_TOKENS: Final = 100_000.0  # saved up: some fifty answers
_KEPT: Final = 64  # first outputs: the 95th percentile of fewer is their largest
_KNOWN: Final = 8  # before so many nothing is predicted, and nothing hedged
_HEADROOM: Final = 2.0  # times the usual call: with more left there is no hurry


class Hedging:
    """Knows how long first outputs and the rest took of late; holds what hedges may still cost."""

    def __init__(self, share: float = SHARE) -> None:
        self._share = Share(share, reserve=0.0, most=MOST_TOKENS)
        self._firsts: deque[float] = deque(maxlen=_KEPT)
        self._rest_s = 0.0

    def came(self, tokens: float) -> None:
        """An ordinary call begins that will take about so many tokens."""
        self._share.earn(tokens)

    def observe(self, first_s: float, rest_s: float) -> None:
        """A call was answered: its first output after `first_s`, the rest within `rest_s` more."""
        gain = max(0.1, 1.0 / (len(self._firsts) + 1))
        self._rest_s += (rest_s - self._rest_s) * gain
        self._firsts.append(first_s)

    def first_s(self, quantile: float) -> float:
        """A quantile of first outputs of late."""
        ordered = sorted(self._firsts)
        return ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)) - 1)]

    def after_s(self, left_s: float) -> float | None:
        """Seconds without a first output after which to ask a second endpoint; None: never, there is no hurry.

        Beyond the 95th percentile of first outputs, and so late that less than twice a usual call is left; None,
        too, where a second one could not be in time either.
        """
        if len(self._firsts) < _KNOWN or left_s == math.inf:
            return None
        usual_s = self.first_s(0.5) + self._rest_s
        after_s = max(self.first_s(0.95), left_s - _HEADROOM * usual_s)
        return after_s if after_s + usual_s <= left_s else None

    def takes(self, tokens: float) -> bool:
        """Pay for a hedge of so many tokens; False where the share is used up."""
        return self._share.take(tokens)
