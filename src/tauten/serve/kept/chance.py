"""Chance: which requests draw their answer by lot. Each of their callers is owed a draw of its own.

A stage draws where its `temperature` is neither 0 nor absent and its `seed` is absent, wherever the two come from:
the workflow, its plan, or the request. What only running the workflow would tell counts as a draw.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from tauten.describe.graph import FromInput, Literal, Source, Stage
from tauten.describe.workflow import Workflow
from tauten.plan.lower import Lowered, Step


class Lot(NamedTuple):
    """Where a stage that may draw has its temperature and its seed from."""

    temperature: Source
    seed: Source


class Chance:
    """What a workflow leaves to chance, under one of its plans."""

    def __init__(self, workflow: Workflow[..., Any], lowered: Lowered | None = None) -> None:
        stages: list[Stage] | list[Step] = []
        if lowered is not None:
            stages = lowered.steps
        elif workflow.graph is not None:
            stages = list(workflow.graph.stages.values())
        lots = [Lot(_source(stage, "temperature"), _source(stage, "seed")) for stage in stages]
        self._lots = [lot for lot in lots if _may_draw(lot)]
        deciding = (source for lot in self._lots for source in lot)
        self.inputs = {source.name for source in deciding if isinstance(source, FromInput)}
        parameters = workflow.signature.parameters.values()
        self._defaults = {each.name: each.default for each in parameters if each.default is not each.empty}

    @property
    def certain(self) -> bool:
        """Whether every request draws, whatever its inputs are."""
        return any(not any(isinstance(source, FromInput) for source in lot) for lot in self._lots)

    def draws(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a request with these inputs draws; those that are left out have their defaults."""
        if not self._lots:
            return False
        given = {**self._defaults, **inputs}
        return any(
            _value(lot.temperature, given, unknown=1.0) and _value(lot.seed, given, unknown=None) is None
            for lot in self._lots
        )


@functools.lru_cache(maxsize=64)  # a server has few workflows, and a plan or two of each
def chance_of(workflow: Workflow[..., Any], lowered: Lowered | None = None) -> Chance:
    """What a workflow leaves to chance; read once, not with each request."""
    return Chance(workflow, lowered)


def _may_draw(lot: Lot) -> bool:
    """Whether nothing that is written rules a draw out."""
    cold = isinstance(lot.temperature, Literal) and not lot.temperature.value
    seeded = isinstance(lot.seed, Literal) and lot.seed.value is not None
    return not (cold or seeded)


def _source(stage: Stage | Step, name: str) -> Source:
    """Where a stage has a setting or input of that name from; one that nobody gives has its default."""
    if stage.control == "map" and stage.params["first"] == name:
        return stage.inputs["items"]
    if name in stage.inputs:
        return stage.inputs[name]
    parameter = None if stage.kind is None else stage.kind.signature.parameters.get(name)
    default = None if parameter is None or parameter.default is parameter.empty else parameter.default
    return Literal(stage.params.get(name, default))


def _value(source: Source, given: Mapping[str, Any], *, unknown: Any) -> Any:
    """What a source gives to a request with these inputs."""
    if isinstance(source, Literal):
        return source.value
    if not isinstance(source, FromInput):
        return unknown
    value = given.get(source.name)
    for name in source.attribute.split(".") if source.attribute else ():
        value = getattr(value, name, None)
    return value
