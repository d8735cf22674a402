"""What a plan changes of a step's work has a key of its own: figures of one are never those of another."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest

import tauten as tt
from tauten.describe.stage import Context, Role, stage
from tauten.describe.view import View
from tauten.improve.replay import estimates, step_key
from tauten.improve.simulate.library import cost_key, visit_key
from tauten.plan.lower import Lowered, lower
from tauten.plan.measurements import Measurements
from tauten.plan.plan import ModelChoice, Plan, StagePlan


@stage(
    roles={"find": Role("finder", ("onnx",)), "read": Role("reader", ("onnx",))},
    views={"photo": View("pixels", {"max_side": 0})},
    effects="pure",
)
async def look(photo: tt.Image, ctx: Context) -> str:
    return ""


@tt.workflow
def desk(photo: tt.Image) -> str:
    return look(photo)  # type: ignore[no-any-return]  # a port, while it is drawn


def lowered(**changes: Any) -> Lowered:
    assert desk.graph is not None
    return lower(desk.graph, Plan(graph=desk.graph.hash, stages={"look": StagePlan(**changes)}))


def keys(**changes: Any) -> dict[str, tuple[Any, str]]:
    under = lowered(**changes)
    return {step.name: (step_key(under, step), visit_key(under, step)) for step in under.steps}


SMALL = {"max_side": 320}
SPUN = {"read": ModelChoice(options={"spin": True})}


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"view": SMALL}, {"look.photo", "look"}),
        ({"roles": SPUN}, {"look"}),
        ({"decode": "process"}, {"look.photo"}),
        ({"locked": True, "why": "as it is"}, set()),
    ],
    ids=["the view that it is given", "an option of one model", "where it is decoded", "nothing"],
)
def test_steps_that_do_other_work_are_other_steps(changes: dict[str, Any], other: set[str]) -> None:
    before, after = keys(), keys(**changes)
    assert {name for name in before if before[name][0] != after[name][0]} == other
    assert {name for name in before if before[name][1] != after[name][1]} == other


def test_a_large_picture_tells_nothing_of_a_small_one() -> None:
    measurements = Measurements()
    whole, small = lowered(), lowered(view=SMALL)
    [look_at] = [step for step in whole.steps if step.name == "look"]
    measurements.observe(step_key(whole, look_at), "work", 0.5)
    assert set(estimates(measurements, whole)) == {"look"}
    assert estimates(measurements, small) == {}


def test_other_providers_cost_otherwise() -> None:
    def key(**options: Any) -> str:
        return cost_key(ModelChoice("gpt", backend="remote", options=options))

    assert key(provider=["one"]) != key(provider=["two"])
    assert key(provider=["one"]) == key(provider=["one"])
    assert key(sizes=[1, 4]) != key(sizes=[1, 8])
    assert key(kind=look) == key(), "code is no option that a plan could write"
