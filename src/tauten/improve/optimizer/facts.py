"""What a library of tapes says of a plan's steps, as strategies ask for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tauten.errors import PlanError
from tauten.improve.optimizer.quoting import quoted_share, readable, written
from tauten.improve.optimizer.repeats import Repeats
from tauten.improve.simulate.library import Library, Visits
from tauten.improve.simulate.lookups import lookup_s
from tauten.improve.simulate.tape import Visit
from tauten.improve.situation import NO_TOKENS, Asks, First, Repeated, Tokens
from tauten.plan.lower import Lowered, Step
from tauten.statistics import percentile


class TapedFacts:
    """Facts of one plan."""

    def __init__(self, library: Library, lowered: Lowered) -> None:
        self._library = library
        self._lowered = lowered
        self._steps = {step.name: step for step in lowered.steps}
        self._repeats = Repeats(lowered)

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
            together += self._together(step, [_at_once(visit, role) for visit in visits.values()])
        if not seen:
            return Asks(0.0, 0.0, 0.0)
        share = len(seen) / max(1, len(self._library.inputs))
        return Asks(share, items / len(seen), together / len(seen))

    def _together(self, step: str, counts: Sequence[int]) -> int:
        """Items at once of all visits of a request: members of a map are side by side, others one after another."""
        found = self._steps.get(step)
        if found is None or found.control != "map":
            return max(counts, default=0)
        side_by_side = int(found.params.get("concurrency") or len(counts))
        return sum(sorted(counts, reverse=True)[:side_by_side])

    def run_s(self, step: str, role: str) -> float:
        runs = [
            event.seconds
            for visits in self._seen(step).values()
            for visit in visits.values()
            for event in visit.events()
            if event.role == role and event.seconds > 0.0
        ]
        return percentile(runs, 0.5) if runs else 0.0

    def tokens(self, step: str, role: str) -> Tokens:
        streams = [
            event
            for visits in self._seen(step).values()
            for visit in visits.values()
            for event in visit.events()
            if event.role == role and event.stream
        ]
        if not streams:
            return NO_TOKENS
        prompts, answers = [event.weight for event in streams], [event.tokens for event in streams]
        later_s = [
            (event.seconds - event.first_s) / (event.tokens - 1.0) for event in streams if event.tokens > 1.0
        ]
        return Tokens(
            prompt=sum(prompts) / len(prompts),
            fresh=sum(event.fresh for event in streams) / len(streams),
            longest_prompt=max(prompts),
            answer=percentile(answers, 0.5),
            longest=max(answers),
            first_s=percentile([event.first_s for event in streams], 0.5),
            token_s=percentile(later_s, 0.5) if later_s else 0.0,
        )

    def quoted(self, step: str) -> float | None:
        """In the mean of the requests whose answer was kept."""
        stage = self._lowered.graph.stages.get(step)
        shares = []
        for id in self._seen(step) if stage is not None else ():
            values, inputs = self._library.values.get(id, {}), self._library.inputs.get(id, {})
            if stage is not None and (said := readable(values.get(step))):
                read = " ".join(written(each, inputs, values) for each in stage.inputs.values())
                shares.append(quoted_share(said, read))
        return sum(shares) / len(shares) if shares else None

    def firsts(self) -> Sequence[First]:
        """Of the plan that was run first."""
        return [First(*each) for each in self._library.firsts]

    def repeats(self, step: str) -> Repeated:
        """As far as the recording shows it: requests that came before it are not known."""
        found = self._steps.get(step)
        ids = self._seen(step)
        requests = [
            (inputs, self._library.values.get(id, {}))
            for id, inputs in self._library.inputs.items()
            if id in ids
        ]
        if found is None or not requests:
            return Repeated(0.0, 0.0)
        names = self._repeats.inputs_of(found)
        each_s = [lookup_s(inputs.get(name) for name in names) for inputs, _ in requests]
        share = self._repeats.share(found, requests)
        return Repeated(share, sum(each_s) / len(each_s), tuple(names))

    def _seen(self, name: str) -> Mapping[str, Visits]:
        step: Step | None = self._steps.get(name)
        try:
            return self._library.seen(self._lowered, step) if step is not None else {}
        except PlanError:  # no request of the recording comes to it, or none has yet as this plan wants it
            return {}


def _work_s(visit: Visit) -> float:
    gaps_s = sum(level.gap_s for level in visit.levels) + visit.tail_s
    return gaps_s + sum(event.seconds + event.gap_s for event in visit.events())


def _at_once(visit: Visit, role: str) -> int:
    """The most items of a role that stand first, or alone, in chains of one level."""
    counts = [
        sum(any(event.role == role for event in chain) for chain in level.chains) for level in visit.levels
    ]
    return max(counts, default=0)
