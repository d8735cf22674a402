"""The part of a workflow in which two plans differ: a request to which it gives the same under both is answered the
same. So a change is judged by running this part, and whole are run only those requests in which it shows."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgspec

from tauten.describe.graph import FromStage, Graph, Listed, Stage, stages_in
from tauten.describe.ports import PortType
from tauten.describe.workflow import Workflow
from tauten.plan.caching import reads_stream
from tauten.plan.plan import Plan, diff_plans

ANYTHING = PortType(())


class Cutout(NamedTuple):
    """A workflow of some stages of another one; it gives a list of what goes on from them into the rest."""

    workflow: Workflow[..., Any]
    stages: frozenset[str]

    def plan(self, plan: Plan) -> Plan:
        """What a plan of the other says of these stages."""
        kept = {}
        for name, stage in plan.stages.items():
            if name in self.stages:
                beside = tuple(other for other in stage.beside if other in self.stages)
                kept[name] = msgspec.structs.replace(stage, beside=beside)
        return msgspec.structs.replace(plan, stages=kept)


def cutout(workflow: Workflow[..., Any], before: Plan, after: Plan) -> Cutout | None:
    """The stages that two plans run differently, those behind them that ask no model, and all before these.

    None where that is no part to be run by itself: what streams, decides what runs, has effects or a session.
    """
    graph = workflow.graph
    changed = {name for name, *_ in diff_plans(before, after)}
    if graph is None or workflow.session or not changed:
        return None
    inside = _followed(graph, changed)
    needed = _with_upstream(graph, inside)
    if not _all_plain(graph, needed) or any(
        before.stage(each).route or after.stage(each).route for each in needed
    ):
        return None
    ends = [FromStage(name) for name in graph.stages if name in inside and _goes_on(graph, name, inside)]
    part = copy.copy(workflow)
    part.output = ANYTHING
    part.graph = Graph(
        stages={name: stage for name, stage in graph.stages.items() if name in needed},
        inputs=graph.inputs,
        result=Listed(tuple(ends)),
        output=ANYTHING,
        drawn=graph.hash,
    )
    return Cutout(part, frozenset(needed))


def _followed(graph: Graph, changed: Collection[str]) -> set[str]:
    """The changed stages and those behind them that ask no model: what they leave out of a change shows no more."""
    inside = set(changed)
    for name, stage in graph.stages.items():  # in the order they were written: those before it come first
        apart = inside.isdisjoint(stage.upstream) or stage.kind.roles
        if not apart and _all_plain(graph, _with_upstream(graph, [name])):
            inside.add(name)
    return inside


def _with_upstream(graph: Graph, names: Iterable[str]) -> set[str]:
    found = set(names)
    for name, stage in reversed(graph.stages.items()):
        if name in found:
            found.update(stage.upstream)
    return found


def _all_plain(graph: Graph, names: Iterable[str]) -> bool:
    return all(_plain(graph, graph.stages[name]) for name in names)


def _plain(graph: Graph, stage: Stage) -> bool:
    """Whether it may be run once more, always runs, and gives its result whole."""
    kind = stage.kind
    return kind.pure and not stage.control and not kind.streams and not reads_stream(graph, stage)


def _goes_on(graph: Graph, name: str, inside: Collection[str]) -> bool:
    """Whether its result is read outside."""
    readers = [reader for reader, _ in graph.consumers(name)]
    return name in stages_in(graph.result) or any(reader not in inside for reader in readers)
