"""How often a step is given what it was given before, by the order in which a recording's requests came.

What a step is given is named by content: the request's inputs, and what the steps before it were seen to give. Where
such a value has no name, or came as a stream, the inputs that it was made of stand for it: two that differ may then
have given the same, so the share is never too high.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tauten.describe.graph import FromInput, FromStage, Graph, Listed, Source, inputs_in, stages_in
from tauten.plan.lower import Lowered, Step
from tauten.run.caching.naming import Nameless, content_name


class Repeats:
    """Names what the steps of one lowered workflow are given."""

    def __init__(self, lowered: Lowered) -> None:
        self._steps = {step.name: step for step in lowered.steps}
        self._graph: Graph = lowered.graph

    def share(self, step: Step, requests: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> float:
        """The share of (inputs, values of steps), in order, that give a step what an earlier one gave it."""
        seen: set[bytes] = set()
        count = 0
        for inputs, values in requests:
            count += 1
            try:
                seen.add(content_name([self._given(each, inputs, values) for each in step.inputs.values()]))
            except Nameless:
                seen.add(b"%d" % count)  # like no other
        return 1.0 - len(seen) / count if count else 0.0

    def inputs_of(self, step: Step) -> list[str]:
        """The workflow's inputs that a step hangs on, however far."""
        found: dict[str, None] = {}
        for source in step.inputs.values():
            found |= dict.fromkeys(inputs_in(source))
            for name in stages_in(source):
                found |= dict.fromkeys(self.inputs_of(self._steps[name]))
        return list(found)

    def _given(self, source: Source, inputs: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        """A name for what a source gives a step."""
        if isinstance(source, FromInput):
            return content_name(source.attribute, inputs.get(source.name))
        if isinstance(source, Listed):
            return [self._given(each, inputs, values) for each in source.members]
        if not isinstance(source, FromStage):
            return b""  # a literal: the same each time
        value = values.get(source.name)
        if value is not None:
            try:
                return content_name(source.attribute, value)
            except Nameless:
                pass  # what it was made of has names
        made = self._steps[source.name]
        return [source.name, *(self._given(each, inputs, values) for each in made.inputs.values())]
