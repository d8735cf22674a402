"""Stop strings in text that comes in pieces: the result never depends on where the pieces were cut."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Holds back text that may become a stop string, and cuts at the first that is complete.

    First is the one that ends first; of several that end at the same character, the longest.

    >>> stops = Stops(["END"])
    >>> stops.feed("the E"), stops.feed("ND of it"), stops.hit
    ('the ', '', True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Text that is safe to show; after `hit` there is none."""
        if self.hit:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            return self._take(min(found)[1])
        return self._take(len(self._held) - self._doubtful())

    def finish(self) -> str:
        """What is still held, when no stop string came of it."""
        return "" if self.hit else self._take(len(self._held))

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text

    def _doubtful(self) -> int:
        """Length of the longest ending that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
