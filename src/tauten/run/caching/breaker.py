"""When a tier behind a network is asked: not while it is away, and one probe, behind, to see whether it is back."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.clock import Clock

FAILURES = 3  # in a row: one may be a connection that was closed while idle, three are no chance
PAUSE_S = 0.5  # before the first probe: a restart of a server takes about a second
LONGEST_S = 30.0  # between probes of one that stays away: it costs nothing, and is missed for half a minute


class Breaker:
    """Counts failures in a row. `closed` is the usual state: everything is asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_s = PAUSE_S
        self._until = 0.0
        self._probing = False

    @property
    def closed(self) -> bool:
        return self._failures < FAILURES

    def probes(self) -> bool:
        """Whether the caller is to probe now; once a pause."""
        if self.closed or self._probing or self._clock() < self._until:
            return False
        self._probing = True
        return True

    def worked(self) -> None:
        self._failures, self._pause_s, self._probing = 0, PAUSE_S, False

    def failed(self) -> None:
        """One more; from the third on it is away, for twice as long after each probe that fails."""
        self._failures += 1
        if self._failures == FAILURES or self._probing:
            self._until = self._clock() + self._pause_s
            self._pause_s = min(LONGEST_S, self._pause_s * 2)
        self._probing = False
