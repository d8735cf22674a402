"""Moves before readiness what the first requests after a start would wait for. It has no setting of its own: what loads
and warms up is already done by then, and this says so with what was measured."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from tauten.improve.situation import First, Proposal, Refusal, Situation
from tauten.statistics import percentile

SAMPLES = 8  # that `tauten serve`, and a swap of plans, run before they are ready
SLOWER = 0.1  # of its usual time that a request must take longer before anybody would notice


class Preload:
    """What the first requests of a capture took longer than they usually do: those that a warm-up would have run,
    and those after them."""

    name: ClassVar[str] = "preload"
    reason: ClassVar[str] = "beside the others: it changes no request but the first ones after a start"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        yield Refusal(self.name, "more before readiness", _why(seen.facts.firsts()))


def _why(firsts: Sequence[First]) -> str:
    if not firsts:
        return "no first requests after a start were seen"
    begun = "models are loaded and samples run before a server, or a new plan, is ready"
    warming, later = firsts[:SAMPLES], firsts[SAMPLES:]
    longer_s = sum(max(0.0, each.seconds - each.usual_s) for each in warming)
    told = f"{begun}: the first {len(warming)} requests here took {longer_s * 1e3:.0f} ms longer than they usually do"
    if not later:
        return f"{told}, which a warm-up on them takes away"
    left_s = percentile([each.seconds - each.usual_s for each in later], 0.5)
    usual_s = percentile([each.usual_s for each in later], 0.5)
    if left_s <= SLOWER * usual_s:
        return f"{told}, those after them {max(0.0, left_s) * 1e3:.3g} ms of {usual_s * 1e3:.4g} ms: nothing is left to move"
    return (
        f"{told}, those after them {left_s * 1e3:.4g} ms of {usual_s * 1e3:.4g} ms: give samples that are more like them "
        "(`tauten serve --samples RECORDING`); no setting of a plan does it"
    )
