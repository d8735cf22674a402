"""Which stages of a workflow do not need one another's results, and plans that let them run side by side."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence

from tauten.plan.lower import Lowered
from tauten.plan.plan import Plan


def independent(lowered: Lowered) -> list[tuple[str, str]]:
    """Pairs of stages, in their order, neither of which needs the other's result, through however many steps."""
    needs: dict[str, set[str]] = {}
    for step in lowered.steps:
        direct = set(lowered.edges.get(step.name, ()))
        needs[step.name] = direct.union(*(needs.get(each, set()) for each in direct))
    names = [name for name in lowered.graph.stages if name in needs]
    return [
        (one, other)
        for index, one in enumerate(names)
        for other in names[index + 1 :]
        if one not in needs[other] and other not in needs[one]
    ]


def beside(plan: Plan, pairs: Sequence[tuple[str, str]]) -> Plan:
    """The plan with these pairs freed, each said once, by the stage that comes first."""
    for one, other in pairs:
        if other in plan.stage(one).beside or one in plan.stage(other).beside:
            continue
        plan = plan.edit(one, beside=(*plan.stage(one).beside, other))
    return plan
