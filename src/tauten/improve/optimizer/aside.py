"""Stages whose work nobody wants to see give what they gave before: only what was varied works again."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Collection

from tauten.describe.graph import Graph, Stage
from tauten.plan.caching import known, reads_stream, uncached
from tauten.plan.plan import Plan
from tauten.run.caching.caches import Caches


class Outliving(Caches):
    """Caches that are kept when the plan that had them closes: the next one may ask for the same."""

    def release(self, holder: list[str]) -> None:
        for place in self._places.values():
            place.holders.clear()

    def likens(self) -> bool:
        """What is measured gives what it gives: no other question's answer."""
        return False


def aside(graph: Graph, plan: Plan, wanted: Collection[str] = ()) -> Plan:
    """The plan with a cache before each stage but the wanted ones, where equal inputs give equal results.

    Where a wanted stage reads a stream as it comes, stages that stream work every time: what they give at once would
    leave their reader nothing to wait for.
    """
    streams = not any(reads_stream(graph, graph.stages[name]) for name in wanted)
    for name, stage in graph.stages.items():
        if name not in wanted and (streams or not stage.kind.streams) and _may(graph, plan, stage):
            plan = plan.edit(name, cache=True)
    return plan


def _may(graph: Graph, plan: Plan, stage: Stage) -> bool:
    given = {**stage.kind.params, **plan.stage(stage.name).settings, **stage.params, **known(stage)}
    return not uncached(stage.kind, given, stage.control, reads_stream(graph, stage))
