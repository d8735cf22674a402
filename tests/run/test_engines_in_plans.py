"""What a plan may say of engines that batch by themselves: nothing that they would not do."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.describe.stage import Role, stage
from tauten.errors import PlanError
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.engine import Engine

TELL = Role("told", ("synthetic_slots",))
ASK = Role("told", ("synthetic",))


@stage(roles={"llm": TELL}, effects="pure")
async def speak(text: tt.Text, ctx: tt.Context) -> str:
    return "".join([chunk.text async for chunk in ctx.stream("llm", {"prompt": text.text})])


@stage(roles={"llm": TELL}, effects="pure")
async def number(q: int, ctx: tt.Context) -> str:
    return "".join([chunk.text async for chunk in ctx.stream("llm", {"prompt": str(q)})])


@stage(roles={"llm": TELL, "model": ASK}, effects="pure")
async def both(text: tt.Text, ctx: tt.Context) -> str:
    return str(await ctx.infer("model", text.text))


@tt.workflow
def spoken(text: tt.Text) -> str:
    return speak(text)  # type: ignore[arg-type,return-value]


@tt.workflow
def twice(text: tt.Text, q: int) -> list[str]:
    return [speak(text), number(q)]  # type: ignore[arg-type,list-item]


@tt.workflow
def mixed(text: tt.Text) -> str:
    return both(text)  # type: ignore[arg-type,return-value]


SAID: list[dict[str, Any]] = [
    {"replicas": 2},
    {"batch": Batch(max=4)},
    {"batch": Batch(max=1)},
    {"batch": Batch(wait="off")},
    {"cpus": ("0",)},
    {"nodes": (0,)},
]


def opened(workflow: Any, plan: Plan) -> int:
    """How many deployments a plan opens."""

    async def body(engine: Engine) -> int:
        await engine.open(workflow, plan)
        return len(engine.deployments.views())

    found: int = virtual(body)
    return found


@pytest.mark.parametrize("said", SAID, ids=str)
@pytest.mark.parametrize("of", ["stage", "role"])
def test_what_an_engine_would_not_do_is_refused(said: dict[str, Any], of: str) -> None:
    stages = StagePlan(**said) if of == "stage" else StagePlan(roles={"llm": ModelChoice(**said)})
    (key,) = said
    with pytest.raises(
        PlanError, match=rf"E122 stage 'speak'.*: synthetic_slots cannot do {key} = "
    ) as refused:
        opened(spoken, Plan(stages={"speak": stages}))
    assert refused.value.help == f"leave `{key}` out; `slots` says how many streams run at a time"


def test_a_plan_that_says_nothing_of_it_runs() -> None:
    """Although there is a default limit of batches for what each stage takes; it parts no engine in two."""
    said = StagePlan(settings={"slots": 2}, threads=1)
    assert opened(spoken, Plan(stages={"speak": said})) == 1
    assert opened(twice, Plan()) == 1


@pytest.mark.parametrize("said", SAID[:4], ids=str)
def test_of_several_models_a_stage_means_those_that_can_do_it(said: dict[str, Any]) -> None:
    assert opened(mixed, Plan(stages={"both": StagePlan(**said)})) == 2
    with pytest.raises(PlanError, match="E122 stage 'both', role 'llm'"):
        opened(mixed, Plan(stages={"both": StagePlan(roles={"llm": ModelChoice(**said)})}))
