"""What a library of tapes says of a plan's steps, as strategies ask for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping

from tauten.improve.simulate.library import Library, Visits
from tauten.improve.simulate.tape import Visit
from tauten.improve.situation import Asks
from tauten.plan.lower import Lowered, Step
from tauten.statistics import percentile


class TapedFacts:
    """Facts of one plan."""

    def __init__(self, library: Library, lowered: Lowered) -> None:
        self._library = library
        self._lowered = lowered
        self._steps = {step.name: step for step in lowered.steps}

    def work_s(self, step: str) -> float:
        """Seconds of work of those requests that came to a step, in the mean; decoding for it is its own step."""
        seen = self._seen(step)
        each = [sum(_work_s(visit) for visit in visits.values()) for visits in seen.values()]
        return sum(each) / len(each) if each else 0.0

    def asks(self, step: str, role: str) -> Asks:
        seen = self._seen(step)
        items, together = 0, 0.0
        for visits in seen.values():
            items += sum(event.role == role for visit in visits.values() for event in visit.events())
            together += max((_at_once(visit, role) for visit in visits.values()), default=0)
        if not seen:
            return Asks(0.0, 0.0, 0.0)
        share = len(seen) / max(1, len(self._library.inputs))
        return Asks(share, items / len(seen), together / len(seen))

    def run_s(self, step: str, role: str) -> float:
        runs = [
            event.seconds
            for visits in self._seen(step).values()
            for visit in visits.values()
            for event in visit.events()
            if event.role == role and event.seconds > 0.0
        ]
        return percentile(runs, 0.5) if runs else 0.0

    def _seen(self, name: str) -> Mapping[str, Visits]:
        step: Step | None = self._steps.get(name)
        return self._library.seen(self._lowered, step) if step is not None else {}


def _work_s(visit: Visit) -> float:
    gaps_s = sum(level.gap_s for level in visit.levels) + visit.tail_s
    return gaps_s + sum(event.seconds + event.gap_s for event in visit.events())


def _at_once(visit: Visit, role: str) -> int:
    """The most items of a role that stand first, or alone, in chains of one level."""
    counts = [
        sum(any(event.role == role for event in chain) for chain in level.chains) for level in visit.levels
    ]
    return max(counts, default=0)
