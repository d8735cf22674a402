"""What each strategy is worth in the end: the chosen plan without what it changed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tauten.errors import PlanError
from tauten.improve.optimizer.outcome import Worth
from tauten.improve.optimizer.search import Figures, Taken
from tauten.plan.plan import Plan, diff_plans, stage_keys, staged


def undone(plan: Plan, changes: Sequence[Taken]) -> Plan:
    """The plan with these changes taken back, the last first; what another change has set since stays."""
    for taken in reversed(changes):
        for stage, key, old, new in diff_plans(taken.before, taken.after):
            plan = _restored(plan, stage, key, old, new)
    return plan


def _restored(plan: Plan, stage: str, key: str, old: Any, new: Any) -> Plan:
    keys = stage_keys(plan.stage(stage))
    if isinstance(old, dict) or isinstance(new, dict):
        keys[key] = _merged(keys.get(key) or {}, old or {}, new or {})
    elif keys.get(key) == new:
        keys[key] = old
    left = {name: value for name, value in keys.items() if value is not None and value != {}}
    return msgspec.structs.replace(plan, stages={**plan.stages, stage: staged(stage, left)})


def _merged(present: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A role's table, or a batch, whose changed keys are as they were."""
    found = dict(present)
    for key in {**old, **new}:
        if old.get(key) != new.get(key) and found.get(key) == new.get(key):
            found[key] = old.get(key)
    return {key: value for key, value in found.items() if value is not None}


def ablations(taken: Sequence[Taken], plan: Plan) -> dict[str, Plan]:
    """By strategy, the plan without all that it changed; in the order in which they first gained."""
    found: dict[str, list[Taken]] = {}
    for each in taken:
        found.setdefault(each.tried.strategy, []).append(each)
    return {strategy: undone(plan, changes) for strategy, changes in found.items()}


def worth(plans: dict[str, Plan], price: Callable[[Plan], Figures]) -> list[Worth]:
    """The figures of each; a plan that nothing is known of is left out."""
    found = []
    for strategy, plan in plans.items():
        try:
            found.append(Worth(strategy, price(plan)))
        except PlanError:
            continue  # some step was never seen so: a guess would be worse than a gap
    return found
