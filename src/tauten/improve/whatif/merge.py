"""Several changes of one plan made at once, where none of them says otherwise than another."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tauten.plan.plan import Plan, StagePlan


def changed_stages(base: Plan, plan: Plan) -> list[str]:
    """The stages that a plan runs otherwise, in its order; of a pair that is put side by side both."""
    found: dict[str, None] = {}
    for name in dict.fromkeys([*base.stages, *plan.stages]):
        old, new = base.stage(name), plan.stage(name)
        for key in _changed(old, new):
            found[name] = None
            if key == "beside":
                found.update(dict.fromkeys(each for each in new.beside if each not in old.beside))
    return list(found)


def merged(base: Plan, plans: Sequence[Plan]) -> Plan | None:
    """The base with what each of the plans changes of it; None where two of them want different things."""
    made = base
    for plan in plans:
        for name in dict.fromkeys([*base.stages, *plan.stages]):
            stage = _stage(base.stage(name), made.stage(name), plan.stage(name))
            if stage is None:
                return None
            if stage != made.stage(name):
                made = msgspec.structs.replace(made, stages={**made.stages, name: stage})
    return made


def _changed(old: StagePlan, new: StagePlan) -> list[str]:
    return [key for key in old.__struct_fields__ if key != "why" and getattr(old, key) != getattr(new, key)]


def _stage(base: StagePlan, made: StagePlan, wanted: StagePlan) -> StagePlan | None:
    changes: dict[str, Any] = {}
    for key in _changed(base, wanted):
        old, present, new = (getattr(each, key) for each in (base, made, wanted))
        if key == "beside":
            value: Any = tuple(dict.fromkeys([*present, *new]))
        elif isinstance(new, Mapping):
            value = _mapping(old, present, new)
        else:
            value = new if present in (old, new) else None
        if value is None:
            return None
        changes[key] = value
    return msgspec.structs.replace(made, **changes)


def _mapping(
    old: Mapping[str, Any], present: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, Any] | None:
    made = dict(present)
    for key in dict.fromkeys([*old, *new]):
        if new.get(key) == old.get(key):
            continue
        if present.get(key) not in (old.get(key), new.get(key)):
            return None
        if key in new:
            made[key] = new[key]
        else:
            made.pop(key, None)
    return made
