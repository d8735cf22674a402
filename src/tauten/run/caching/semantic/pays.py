"""Whether looking by likeness pays: the share of hits, times what one saves, against what a look costs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

FIRST = 100  # looks before anything is concluded: fewer tell a share of a few percent from none hardly
EVERY = 50  # looks of a space where it does not pay one is made all the same: what is asked changes
FADES = 0.995  # a look counts so much of the one after it: some two hundred make the picture


class Pays:
    """The account of one space: seconds spent on looks, seconds saved by hits, both fading."""

    __slots__ = ("cost_s", "looks", "passed", "saved_s")

    def __init__(self) -> None:
        self.cost_s = self.saved_s = 0.0
        self.looks = self.passed = 0

    def wanted(self) -> bool:
        """Whether to look now."""
        if self.looks < FIRST or self.saved_s > self.cost_s:
            return True
        self.passed += 1
        return self.passed % EVERY == 0

    def looked(self, cost_s: float, saved_s: float) -> None:
        """A look was made; it saved nothing where it did not hit."""
        self.looks += 1
        self.cost_s = self.cost_s * FADES + cost_s
        self.saved_s = self.saved_s * FADES + saved_s
