"""What the labels say so far, and how many more would conclude.

Looking at a verdict after each label and stopping when it pleases would let more than 5 % through. So all the
items of the recording are the sample, fixed beforehand, and labelling ends early only when no label that is
still missing could change the verdict (curtailed sampling): it is the verdict of the whole recording, sooner.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from dataclasses import dataclass

import msgspec

from tauten.improve.labels.pairs import Comparison
from tauten.improve.quality import Decision, Verdict, compare, exact_decision

Scores = dict[str, bool]


@dataclass(frozen=True)
class Progress:
    """Counts of items, and what follows. `bad` were better before, `good` are better after the change."""

    comparison: Comparison
    margin: float
    confidence: float = 0.95

    @functools.cached_property
    def settled(self) -> dict[str, int]:
        return self.comparison.settled()

    @property
    def items(self) -> int:
        return len(self.comparison.answers)

    @property
    def identical(self) -> int:
        """Items with the same answer twice: nobody has to look at them."""
        return self.items - len(self.comparison.differing)

    @property
    def labelled(self) -> int:
        return len(self.settled)

    @property
    def left(self) -> int:
        """Items whose answers differ and that nobody has labelled."""
        return len(self.comparison.differing) - self.labelled

    @property
    def bad(self) -> int:
        return sum(each > 0 for each in self.settled.values())

    @property
    def good(self) -> int:
        return sum(each < 0 for each in self.settled.values())

    @functools.cached_property
    def decision(self) -> Decision:
        """Accept or reject once no missing label could change it."""
        return self._after(0)

    def _after(self, more: int) -> Decision:
        """What would be decided after `more` labels that come out as those so far (all equal, before the first)."""
        share = more / self.labelled if self.labelled else 0.0
        bad, good = self.bad + round(self.bad * share), self.good + int(self.good * share)
        missing, limit = self.left - more, self.margin * self.items
        if bad + missing - good < limit and self._decides(bad + missing, good) == "accept":
            return "accept"
        if bad - good - missing > limit and self._decides(bad, good + missing) == "reject":
            return "reject"
        return "cannot conclude"

    def _decides(self, bad: int, good: int) -> Decision:
        return exact_decision(self.items, bad, good, self.margin, self.confidence)[0]

    @functools.cached_property
    def more(self) -> int | None:
        """How many labels more would probably conclude; None when this recording has too few items for it."""
        if self._after(self.left) == "cannot conclude":
            return None
        low, high = 0, self.left
        while low < high:  # the more labels are in, the less can still change
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._after(middle) == "cannot conclude" else (low, middle)
        return high

    def scores(self, missing: int = 0) -> tuple[Scores, Scores]:
        """Scores before and after, by item, as `compare` takes them; missing labels get one opinion."""
        known = dict.fromkeys(self.comparison.differing, missing) | self.settled
        opinions = {item: known.get(item, 0) for item in self.comparison.answers}
        return (
            {item: each >= 0 for item, each in opinions.items()},
            {item: each <= 0 for item, each in opinions.items()},
        )

    @property
    def assumed(self) -> int:
        """The opinion that missing labels are given: the one that speaks against the decision."""
        return {"accept": 1, "reject": -1, "cannot conclude": 0}[self.decision]

    def verdict(self) -> Verdict:
        """The verdict on all items. Where it is open, missing labels widen it as far as they could.

        `needed` counts items, not labels.
        """
        found = compare(*self.scores(self.assumed), self.margin, self.confidence)
        if not self.left or self.decision != "cannot conclude":
            return found
        worst = compare(*self.scores(1), self.margin, self.confidence)
        best = compare(*self.scores(-1), self.margin, self.confidence)
        return msgspec.structs.replace(
            found,
            decision="cannot conclude",
            loss_low=best.loss_low,
            loss_high=worst.loss_high,
            p_value=worst.p_value,
            needed=found.needed or self.items,
        )

    def __str__(self) -> str:
        if self.decision != "cannot conclude":
            return str(self.verdict())
        if self.more is not None:
            return f"cannot conclude yet: about {self.more} more labels of {self.left}"
        needed = self.verdict().needed
        if needed is None or needed <= self.items:
            return f"cannot conclude with these {self.items} items: the loss is too close to the margin"
        return f"cannot conclude with these {self.items} items, whatever is labelled: n >= {needed}"
