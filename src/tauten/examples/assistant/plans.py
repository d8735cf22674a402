"""The plans of the example: with no layer, with all, and what of them concerns orders alone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tauten.plan.caching import cache_rules
from tauten.plan.plan import Plan, StagePlan, load_plan

HERE = Path(__file__).parent
STEP = "order_status"


def naive() -> Plan:
    """Every step works for every request."""
    return load_plan(HERE / "naive.toml")


def layered() -> Plan:
    """A cache before each step that is worth one."""
    return load_plan(HERE / "layered.toml")


def of_orders(plan: Plan) -> Plan:
    """The same for `order_desk`, which has no other step with settings."""
    stages = {name: stage for name, stage in plan.stages.items() if name == STEP}
    return msgspec.structs.replace(plan, workflow="", stages=stages)


def ruled(plan: Plan, step: str = STEP, **rules: Any) -> Plan:
    """The plan with some rules of one cache changed: `ttl_s=2.0`, `tiers=("memory", "redis")`."""
    before = plan.stages.get(step, StagePlan()).cache
    return plan.edit(step, cache=msgspec.structs.replace(cache_rules(before), **rules))
