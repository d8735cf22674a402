"""Items are heard at the deployment: of every role, under any plan, in drawn workflows and in running code."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import tauten as tt
from simulate.kit_desk import ITEMS, NAIVE, OVERLAP, desk
from tauten.clock import run_virtual
from tauten.describe.stage import Context, Role, stage
from tauten.errors import TautenError
from tauten.improve.measuring.overheard import Ear, Heard, OverhearingEngine, copied, overhear
from tauten.plan.plan import Batch, Plan, StagePlan


def heard(workflow: Any, plan: Plan | None, requests: Any, **more: Any) -> dict[tuple[str, str], Heard]:
    async def main() -> Any:
        return await overhear(workflow, plan, requests, clock=asyncio.get_running_loop().time, **more)

    found: dict[tuple[str, str], Heard] = run_virtual(main())
    return found


REQUESTS = [inputs for _, inputs in ITEMS]


@pytest.mark.parametrize(
    "plan", [None, NAIVE, OVERLAP.edit("look", batch=Batch(max=4))], ids=["none", "naive", "other"]
)
def test_every_role_of_every_step_is_heard(plan: Plan | None) -> None:
    found = heard(desk, plan, REQUESTS)
    assert {where: each.items for where, each in found.items()} == {
        ("hear", "model"): ["a", "b", "c"],
        ("look", "see"): ["xy", "wxyzuv"],
        ("look", "read"): [f"xy {n}" for n in range(2)] + [f"wxyzuv {n}" for n in range(6)],
        ("tell", "llm"): [{"prompt": f"{sound} {rows}"} for sound, rows in _prompts()],
    }
    assert found["look", "see"].choice.options == {"ms_per_batch": 30.0}
    assert found["tell", "llm"].choice.backend == "synthetic_slots"


def _prompts() -> list[tuple[str, Any]]:
    photos = {"a": "xy", "b": "wxyzuv", "c": None}
    return [
        (sound, [f"{photo} {number}" for number in range(len(photo))] if photo else None)
        for sound, photo in photos.items()
    ]


def test_the_plans_choice_is_what_will_be_measured() -> None:
    found = heard(desk, NAIVE.edit("hear", threads=2), REQUESTS[:1])
    assert found["hear", "model"].choice.threads == 2


def test_a_model_that_nobody_came_to_has_no_items() -> None:
    found = heard(desk, NAIVE, [{"sound": "c"}])
    assert found["look", "see"].items == []


def test_items_beyond_the_bound_are_drawn_evenly_and_again_the_same() -> None:
    requests = [{"sound": str(number)} for number in range(40)]
    first, second = (heard(desk, NAIVE, requests, most=5)["hear", "model"].items for _ in range(2))
    assert first == second == sorted(first, key=int)
    assert len(first) == 5
    assert first != [str(number) for number in range(5)], "only the first ones were kept"
    assert heard(desk, NAIVE, requests, most=5, seed=1)["hear", "model"].items != first


@stage(roles={"model": Role("inner", ("synthetic",), options={"ms_per_batch": 1.0})}, effects="pure")
async def inner(words: str, ctx: Context) -> str:
    return str(await ctx.infer("model", words))


@stage(roles={"model": Role("stream", ("synthetic_slots",), options={"tokens": 2})}, effects="pure")
async def speak(words: str, ctx: Context) -> AsyncIterator[str]:
    async for chunk in ctx.stream("model", {"prompt": words}):
        yield chunk.text


@tt.workflow
async def agent(words: str) -> str:
    for turn in range(2):
        words = await inner(f"{words}{turn}", name="step")
    async for _ in speak(words):
        pass
    return words


def test_running_code_is_heard_step_by_step() -> None:
    found = heard(agent, None, [{"words": "a"}])
    steps = {where: each.items for where, each in found.items()}
    assert list(steps) == [("step", "model"), ("speak", "model")]
    assert steps["step", "model"][0] == "a0"
    assert len(steps["step", "model"]) == 2


@tt.workflow
def mapped(words: list[str]) -> list[str]:
    return tt.map(inner, words)  # type: ignore[no-any-return]


def test_members_of_a_map_are_items_of_its_step() -> None:
    found = heard(mapped, None, [{"words": ["a", "b", "c"]}])
    assert {where[0]: each.items for where, each in found.items()} == {"inner": ["a", "b", "c"]}


@stage
def shout(words: str) -> str:
    return words.upper()


@tt.workflow
def shouting(words: str) -> str:
    return inner(shout(words))


def test_code_of_the_users_own_is_no_model() -> None:
    found = heard(shouting, None, [{"words": "a"}])
    assert {where: each.items for where, each in found.items()} == {("inner", "model"): ["A"]}


def test_arrays_are_copied_before_their_memory_is_used_again() -> None:
    memory = np.zeros(3)
    item = {"x": memory, "deep": {"y": memory}, "n": 1}
    kept = copied(item)
    memory[:] = 7
    assert kept["x"].tolist() == kept["deep"]["y"].tolist() == [0, 0, 0]
    assert (kept["n"], copied("words"), copied(memory).tolist()) == (1, "words", [7, 7, 7])


def test_a_stage_called_alone_is_heard_by_its_kind() -> None:
    async def main() -> Any:
        ear = Ear()
        async with OverhearingEngine(clock=asyncio.get_running_loop().time, ear=ear) as engine:
            await engine.run_stage(inner, ("a",), {})
        return ear.heard("inner", "model")

    assert run_virtual(main()) == ["a"]


def test_a_request_that_fails_is_told() -> None:
    with pytest.raises(TautenError):
        heard(desk, NAIVE.edit("hear", settings={"fail_every": 1}), REQUESTS)


def test_progress_counts_requests() -> None:
    told: list[int] = []
    heard(
        desk, Plan(graph=NAIVE.graph, stages={"hear": StagePlan(threads=1)}), REQUESTS, progress=told.append
    )
    assert told == [1, 2, 3]
