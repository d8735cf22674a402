"""Several workflows over the same labelled items: what each answered, how long it took, what it cost."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tauten.describe.workflow import Workflow
from tauten.errors import TautenError
from tauten.improve.quality import Verdict, compare
from tauten.improve.replay import Served
from tauten.plan.plan import Plan
from tauten.run.attribution import attribute
from tauten.run.engine import Engine
from tauten.run.usage.book import Book
from tauten.run.values import join
from tauten.statistics import clopper_pearson

CONFIDENCE = 0.95  # of every bound here


class Asked(NamedTuple):
    """An item of an arm: its name, its inputs, and what judges the answer."""

    name: str
    inputs: Mapping[str, Any]
    right: Callable[[Any], bool]


class Arm(NamedTuple):
    """One workflow after its items. `scores` are right and wrong by item; one that failed is wrong."""

    served: Sequence[Served]
    scores: Mapping[str, bool]

    @property
    def share(self) -> float:
        return statistics.fmean(self.scores.values()) if self.scores else 0.0

    def p50_ms(self, names: Sequence[str] | None = None) -> float | None:
        """The median of all, or of these items."""
        wanted = None if names is None else set(names)
        walls = [each.wall_ms for each in self.served if wanted is None or each.id in wanted]
        return statistics.median(walls) if walls else None

    def chose(self, option: str) -> list[str]:
        """Items whose last choice was this option."""
        return [
            each.id for each in self.served if each.trace.routes and each.trace.routes[-1].chosen == option
        ]

    def made(self, step: str) -> list[str]:
        """Items for which a step made tokens."""
        return [
            each.id
            for each in self.served
            if any(
                name == step and unit == "output_tokens" and amount for name, unit, amount in each.trace.spent
            )
        ]


async def run(
    workflow: Workflow[..., Any],
    asked: Sequence[Asked],
    stages: Mapping[str, Any] | None = None,
    book: Book | None = None,
) -> Arm:
    """All items one after another, in an engine of their own."""
    assert workflow.graph is not None
    plan = Plan(graph=workflow.graph.hash, stages=dict(stages or {}))
    by_name = {each.name: each for each in asked}
    async with Engine() as engine:
        if book is not None:
            engine.door.book = book
        opened = await engine.open(workflow, plan)
        served = [await _served(engine, opened, each.name, workflow.bind(**each.inputs)) for each in asked]
    scores = {each.id: each.error is None and by_name[each.id].right(answer(each)) for each in served}
    return Arm(served, scores)


async def _served(engine: Engine, plan: str, name: str, inputs: Mapping[str, Any]) -> Served:
    """One request to its end. It teaches no gate: what is measured here is what was certified before."""
    values: list[Any] = []
    error: TautenError | None = None
    request = engine.request()
    request.teaches = False
    try:
        async for value in engine.stream(inputs, plan=plan, request=request):
            values.append(value)
    except TautenError as failed:
        error = failed
    return Served(name, values, request.trace, attribute(request.trace), error)


def answer(served: Served) -> Any:
    """What calling the workflow would have given."""
    values = served.values
    return values[0] if len(values) == 1 else join(values)


def verdict(before: Arm, after: Arm, margin: float) -> Verdict:
    """May the second stand in for the first: the loss of right answers, item by item."""
    return compare(before.scores, after.scores, margin, CONFIDENCE)


def wrong_bound(arm: Arm, taken: Sequence[str]) -> tuple[int, float | None]:
    """Wrong ones among shortcuts that were taken, and the upper bound of their share; None where none was."""
    wrong = sum(not arm.scores[name] for name in taken)
    return wrong, bound(wrong, len(taken))


def bound(wrong: int, taken: int) -> float | None:
    """The upper bound of a share by exact counting; None of nothing."""
    return clopper_pearson(wrong, taken, CONFIDENCE, 1).high if taken else None
