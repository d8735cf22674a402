"""What the streams of one engine took of the processor: what its process used, divided among those that were in it.

Between two comings or goings all streams there have equal parts. So the parts of all add up to what the process
used while anybody was in it, in steps of the kernel's tick (10 ms).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable

from tauten.run.kernel import process_seconds


class CoreShare:
    """`pid` gives the engine's process; None, or one that is gone, has used nothing."""

    __slots__ = ("_each", "_last", "_of", "_pid", "_running", "_seconds")

    def __init__(
        self, pid: Callable[[], int | None], seconds: Callable[[int], float | None] = process_seconds
    ) -> None:
        self._pid = pid
        self._seconds = seconds
        self._running = 0
        self._each = 0.0  # core-seconds of a stream that was there all along
        self._of: int | None = None  # the process that was looked at last
        self._last = 0.0  # what it had used then

    def enter(self) -> float:
        """One more runs; the mark that `leave` is to be given."""
        self._look()
        self._running += 1
        return self._each

    def leave(self, mark: float) -> float:
        """One less runs: the core-seconds that it took."""
        self._look()
        self._running -= 1
        return self._each - mark

    def _look(self) -> None:
        pid = self._pid()
        used = None if pid is None else self._seconds(pid)
        if used is None:
            self._of = None
            return
        if pid == self._of and self._running:
            self._each += max(0.0, used - self._last) / self._running
        self._of, self._last = pid, used
