"""What of the changes is left in the end, and what each strategy is worth: the chosen plan without what it changed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tauten.errors import PlanError
from tauten.improve.optimizer.outcome import Worth
from tauten.improve.optimizer.search import Figures, Taken
from tauten.plan.plan import Plan, diff_plans, stage_keys, staged

Part = tuple[str, str, str]
"""(stage, key, member of it): the smallest thing that a plan says by itself."""


def standing(plan: Plan, taken: Sequence[Taken], began: Plan) -> list[set[Part]]:
    """Of each change what it set in a plan, as far as that is there still: nothing where later ones have set all of
    it otherwise, or as it was in the beginning."""
    there = _parts(began, plan)
    made = [_parts(each.before, each.after) for each in taken]
    last = _last(made)
    return [{part for part in parts & there if last[part] == place} for place, parts in enumerate(made)]


def overridden(plan: Plan, taken: Sequence[Taken], began: Plan) -> dict[int, str]:
    """Why changes of which nothing is left in a plan are not told as taken, by their places."""
    made = [_parts(each.before, each.after) for each in taken]
    last, found = _last(made), {}
    for place, left in enumerate(standing(plan, taken, began)):
        if not left:
            later = sorted({last[part] for part in made[place]} - {place})
            names = ", ".join(f"{taken[each].tried.strategy}: {taken[each].tried.change}" for each in later)
            found[place] = f"it gained when it was taken; {names or 'the plan'} has set it otherwise since"
    return found


def _last(made: Sequence[set[Part]]) -> dict[Part, int]:
    """The change that set a part last."""
    return {part: place for place, parts in enumerate(made) for part in parts}


def _parts(before: Plan, after: Plan) -> set[Part]:
    """What differs between two plans; of tables and lists member by member."""
    found: set[Part] = set()
    for stage, key, old, new in diff_plans(before, after):
        one, other = _members(old, new), _members(new, old)
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        found.update((stage, key, name) for name in names)
    return found


def _members(value: Any, other: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return {str(each): True for each in value}
    if value is None and isinstance(other, dict | list | tuple):
        return {}
    return {"": value}


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
