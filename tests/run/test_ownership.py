"""Whose the seconds of a real run are: control steps, maps, stages that call stages, the workflow's own code."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import tauten as tt
from kit.stages import both, wait
from kit.virtual import answer
from tauten.plan.plan import Plan, StagePlan
from tauten.run.attribution import Attribution, attribute


@tt.stage(pure=True)
async def broken(text: str) -> str:
    await asyncio.sleep(2.0)
    raise ValueError("broken")


@tt.stage(pure=True)
async def caller(text: str) -> str:
    text = await wait(text, s=3.0, name="first")  # type: ignore[misc,call-arg]
    await asyncio.sleep(1.0)
    return str(await wait(text, s=5.0, name="second"))  # type: ignore[misc,call-arg]


def found(workflow: Any, given: Any, plan: Plan | None = None) -> Attribution:
    return attribute(answer(workflow, given, plan=plan).trace)


def seconds(seen: Attribution) -> dict[tuple[str, str], float]:
    return {key: round(s, 6) for key, s in seen.exclusive().items() if s > 0}


def test_the_stages_behind_a_condition_own_their_time() -> None:
    @tt.workflow
    def drawn(q: str) -> str:
        first = wait(q, name="first")
        side = wait(wait(first, s=2.0, name="inner"), s=3.0, name="outer")
        return wait(tt.when(tt.equals(first, "x"), side, otherwise=first), s=4.0, name="last")

    seen = found(drawn, "x")
    user = {name: own for (name, cause), own in seconds(seen).items() if cause == "user"}
    assert user == {"first": 1, "inner": 2, "outer": 3, "last": 4}
    assert seen.unattributed == 0
    assert [name for name in seen.path if name not in ("equals", "when")] == [*user]
    assert set(seen.slack.values()) == {0}
    assert seconds(found(drawn, "y")) == {("first", "user"): 1, ("last", "user"): 4}


def test_what_a_failed_alternative_took_is_its_own() -> None:
    @tt.workflow
    def drawn(q: str) -> str:
        return wait(tt.fallback(broken(q), wait(q, s=3.0, name="second")), name="last")

    seen = found(drawn, "x")
    assert seconds(seen) == {("broken", "user"): 2, ("second", "user"): 3, ("last", "user"): 1}
    assert seen.unattributed == 0


def test_members_of_a_map_own_its_time_in_turn_and_at_once() -> None:
    @tt.workflow
    def at_once(q: list[str]) -> list[str]:
        return tt.map(wait, q)  # type: ignore[no-any-return]

    @tt.workflow
    def two_at_once(q: list[str]) -> list[str]:
        return tt.map(wait, q, concurrency=2)  # type: ignore[no-any-return]

    seen = found(at_once, ["a", "b", "c"])
    assert sum(seconds(seen).values()) == 1
    assert {cause for _, cause in seconds(seen)} == {"user"}
    assert sum(seen.off_path.values()) == 2
    seen = found(two_at_once, ["a", "b", "c"])
    assert seconds(seen)["wait[2]", "user"] == 1
    assert sum(seconds(seen).values()) == 2
    assert {cause for _, cause in seconds(seen)} == {"user"}


def test_a_stage_that_calls_stages_owns_only_what_is_left() -> None:
    @tt.workflow
    def drawn(q: str) -> str:
        return caller(q)

    @tt.workflow
    async def observed(q: str) -> str:
        return await caller(q)  # type: ignore[misc,no-any-return]

    for workflow in (drawn, observed):
        seen = found(workflow, "x")
        assert seconds(seen) == {
            ("caller", "user"): 1,
            ("caller/first", "user"): 3,
            ("caller/second", "user"): 5,
        }
        assert seen.off_path == {}
        assert set(seen.slack.values()) == {0}


def test_stages_called_at_once_share_their_caller_s_time_and_the_shorter_has_slack() -> None:
    @tt.stage(pure=True)
    async def together(text: str) -> str:
        both_done = asyncio.gather(
            wait(text, s=2.0, name="short"),  # type: ignore[call-overload]
            wait(text, s=6.0, name="long"),
        )
        return "".join(await both_done)

    @tt.workflow
    def drawn(q: str) -> str:
        return together(q)

    seen = found(drawn, "x")
    assert sum(seconds(seen).values()) == 6
    assert ("together", "user") not in seconds(seen)
    assert seen.unattributed == 0


def test_the_body_of_an_observed_workflow_is_the_user_s_code() -> None:
    @tt.workflow
    async def observed(q: str) -> str:
        await asyncio.sleep(2.0)
        q = await wait(q)  # type: ignore[misc]
        await asyncio.sleep(4.0)
        return q

    seen = found(observed, "x")
    assert seconds(seen) == {("(workflow)", "user"): 6, ("wait", "user"): 1}
    assert seen.unattributed == 0


def test_a_branch_that_the_plan_waits_for_is_on_the_path_though_nobody_uses_it_there() -> None:
    @tt.workflow
    def drawn(q: str) -> str:
        a, b = wait(q, s=1.0, name="a"), wait(q, s=1.0005, name="b")
        return both(wait(a, name="after"), b)

    plan = Plan(graph=drawn.graph.hash, stages={"a": StagePlan(beside=("b",))})  # type: ignore[union-attr]
    seen = found(drawn, "x", plan)
    assert seen.path == ["b", "after"]  # half a millisecond later than `a`, and `after` began only then
    assert seconds(seen) == {("b", "user"): 1.0005, ("after", "user"): 1}
    assert round(seen.slack["a"], 6) == 0.0005
