"""Keeps what stages gave and what was decoded, where requests repeat one another often enough to pay for looking."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.situation import Proposal, Refusal, Repeated, Situation
from tauten.plan.caching import known, reads_stream, uncached
from tauten.plan.lower import Step
from tauten.plan.plan import Plan


class Caching:
    """Each stage and each decode step by itself, and all that would pay at once."""

    name: ClassVar[str] = "cache"
    reason: ClassVar[str] = (
        "after what changes how long steps take: what is quick already is not worth a lookup"
    )

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        every, worth = seen.plan, 0
        for step in seen.lowered.steps:
            if not (works_s := seen.facts.work_s(step.name)) or not _may(seen, step):
                continue
            found = seen.facts.repeats(step.name)
            if why := _why_not(found, works_s):
                yield Refusal(self.name, f"{step.name} cached", why)
                continue
            plan, every, worth = _cached(seen.plan, step), _cached(every, step), worth + 1
            why = (
                f"{found.share:.0%} of the requests that come to it give it what an earlier one gave; a hit saves "
                f"{works_s * 1e3:.4g} ms, a lookup takes {found.lookup_s * 1e3:.2g} ms"
            )
            yield Proposal(self.name, f"{step.name} cached", plan, "identical", why)
        if worth > 1:
            yield Proposal(self.name, "all of these cached", every, "identical")


def _may(seen: Situation, step: Step) -> bool:
    """Whether a step could have a cache that it has not: its stage is free, and equal inputs give equal results."""
    name = step.stage
    stage, chosen = seen.graph.stages[name], seen.plan.stage(name)
    if chosen.locked or chosen.cache or (step.view is not None and chosen.cache_view):
        return False
    if step.view is not None:
        return True
    given = {**step.params, **known(stage)}
    return uncached(stage.kind, given, stage.control, reads_stream(seen.graph, stage)) is None


def _why_not(found: Repeated, works_s: float) -> str:
    """Why looking would not pay; empty where it would."""
    if not found.share:
        what = " and ".join(f"`{name}`" for name in found.inputs) or "inputs"
        return f"no request that was run repeats another's {what}: a cache would never hit"
    saved_s = found.share * works_s
    if saved_s > found.lookup_s:
        return ""
    return (
        f"{found.share:.0%} of the requests repeat an earlier one, which saves {saved_s * 1e3:.2g} ms a request; "
        f"looking takes {found.lookup_s * 1e3:.2g} ms"
    )


def _cached(plan: Plan, step: Step) -> Plan:
    return plan.edit(step.stage, **{"cache" if step.view is None else "cache_view": True})
