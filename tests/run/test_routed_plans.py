"""Plans with routes, running: variants, backends and providers of one stage, without a change of code."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from remote.kit_provider import StandIn, cuts, says, status
from tauten.errors import BackendError, PlanError, TautenError
from tauten.improve.routing import replayed
from tauten.plan.plan import Plan, RouteOption, RoutePlan, StagePlan
from tauten.run.engine import Engine


@tt.workflow
def tell(question: tt.Text) -> tt.Stream[tt.Text]:
    return tt.generate("{{ question }}", question=question)


@tt.stage(pure=True)
async def upper(text: tt.Text) -> str:
    return text.text.upper()


@tt.workflow
def loud(question: tt.Text) -> str:
    return upper(tt.generate("{{ question }}", question=question))


def synthetic(name: str, **options: Any) -> RouteOption:
    settings = {"answer": "constant", "value": f"from {name}", **options}
    return RouteOption(name, StagePlan(model=name, backend="synthetic_slots", settings=settings))


def routed(workflow: Any, *options: RouteOption, policy: str = "order", **settings: Any) -> Plan:
    stage = StagePlan(route=RoutePlan(options, policy, settings))
    return Plan(graph=workflow.graph.hash, stages={"generate": stage})


def answers(workflow: Any, plan: Plan, times: int = 1) -> list[Any]:
    async def body(engine: Engine) -> list[Any]:
        await engine.open(workflow, plan)
        return [await engine.run(workflow.bind("hi")) for _ in range(times)]

    found: list[Any] = virtual(body)
    return found


def test_one_way_is_run_and_the_decision_is_kept() -> None:
    [done] = answers(tell, routed(tell, synthetic("a"), synthetic("b")))
    assert done.value.text == "from a"
    [decision] = done.trace.routes
    assert (decision.step, decision.policy, decision.order) == (
        "generate",
        "order",
        ("generate:a", "generate:b"),
    )
    assert (decision.chosen, set(decision.outcomes)) == ("generate:a", {"generate:a"})
    assert done.trace.notes["generate"] == "order: option 1 of 2, generate:a is first"
    assert any(step == "generate:a" for step, _, _ in done.trace.spent)
    assert replayed([decision], "order").same == 1


def test_a_policy_by_its_name_with_its_settings() -> None:
    plan = routed(
        tell,
        synthetic("slow", prefill_ms=900),
        synthetic("quick", prefill_ms=10),
        policy="latency",
        decay_s=5.0,
    )
    done = answers(tell, plan, times=4)
    assert [each.value.text for each in done[2:]] == ["from quick"] * 2, "each was tried once"


def test_who_reads_the_stage_reads_whichever_way_it_went() -> None:
    [done] = answers(loud, routed(loud, synthetic("a"), synthetic("b")))
    assert done.value == "FROM A"


def test_a_failure_before_the_first_word_goes_on_with_the_next() -> None:
    plan = routed(tell, synthetic("a", fail_every=1), synthetic("b", fail_every=1), synthetic("c"))
    [done] = answers(tell, plan)
    assert done.value.text == "from c"
    [decision] = done.trace.routes
    assert decision.chosen == "generate:c"
    assert {name: each.failed for name, each in decision.outcomes.items()} == {
        "generate:a": True,
        "generate:b": True,
        "generate:c": False,
    }
    assert "generate:a failed: synthetic failure" in done.trace.notes["generate"]


def test_where_all_fail_the_last_failure_is_the_answer() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(tell, routed(tell, synthetic("a", fail_every=1), synthetic("b", fail_every=1)))
        with pytest.raises(BackendError, match="synthetic failure"):
            await engine.run(tell.bind("hi"))

    virtual(body)


def test_without_falling_back_one_failure_is_one() -> None:
    async def body(engine: Engine) -> None:
        plan = routed(tell, synthetic("a", fail_every=1), synthetic("b"), falls_back=False)
        await engine.open(tell, plan)
        with pytest.raises(BackendError):
            await engine.run(tell.bind("hi"))

    virtual(body)


def test_a_request_that_leaves_while_it_falls_back_leaves_nothing_behind() -> None:
    async def body(engine: Engine) -> None:
        slow = synthetic("slow", prefill_ms=5_000)
        await engine.open(tell, routed(tell, slow, synthetic("b")))
        with pytest.raises(TautenError):
            await engine.run(tell.bind("hi"), deadline_ms=100)
        await asyncio.sleep(10)
        assert engine.zombies() == 0

    virtual(body)


def test_a_choice_in_code_may_fall_back_too() -> None:
    @tt.workflow
    def either(question: tt.Text) -> tt.Stream[tt.Text]:
        return tt.choose(  # type: ignore[no-any-return]
            tt.generate("{{ q }}", q=question, name="one"),
            tt.generate("{{ q }}", q=question, name="two"),
            policy="order",
            falls_back=True,
        )

    assert either.graph is not None
    stages = {
        name: StagePlan(model=name, backend="synthetic_slots", settings={"fail_every": every})
        for name, every in (("one", 1), ("two", 0))
    }
    [done] = answers(either, Plan(graph=either.graph.hash, stages=stages))
    assert done.value.text == "hi"
    assert done.trace.routes[0].chosen == "two"


def test_falling_back_comes_to_those_whom_a_policy_did_not_draw() -> None:
    broken = [synthetic(name, fail_every=1) for name in "abcd"]
    plan = routed(tell, *broken, synthetic("e"), policy="latency")
    for done in answers(tell, plan, times=6):
        assert done.value.text == "from e"
        [decision] = done.trace.routes
        assert len(decision.order) == 5
        assert decision.chosen == "generate:e"


# -- here and elsewhere ------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "providers.toml"
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


def cloud(name: str) -> RouteOption:
    return RouteOption(name, StagePlan(model="m", backend="remote", settings={"provider": name}))


def test_a_chain_from_a_provider_to_this_machine(file: Path) -> None:
    async def scene() -> Any:
        async with StandIn(status(401)) as stand, Engine() as engine:
            file.write_text(f'[cloud]\nurl = "{stand.url}"\n')
            await engine.open(tell, routed(tell, cloud("cloud"), synthetic("here")))
            return await engine.run(tell.bind("hi"))

    done = asyncio.run(scene())
    assert done.value.text == "from here"
    [decision] = done.trace.routes
    assert [each.local for each in decision.candidates] == [False, True]
    assert (decision.chosen, decision.outcomes["generate:cloud"].failed) == ("generate:here", True)
    [call] = done.trace.provider_calls
    assert (call.step, call.outcome) == ("generate:cloud", "failed")


def test_words_that_are_with_the_reader_are_not_begun_anew(file: Path) -> None:
    async def scene() -> list[str]:
        async with StandIn(cuts("so ", "far")) as stand, Engine() as engine:
            file.write_text(f'[cloud]\nurl = "{stand.url}"\n')
            await engine.open(tell, routed(tell, cloud("cloud"), synthetic("here")))
            seen = []
            try:
                async for each in engine.stream(tell.bind("hi")):
                    seen.append(str(each))
            except BackendError as error:
                seen.append(error.code)
            return seen

    *said, failure = asyncio.run(scene())
    assert ("".join(said), failure) == ("so far", "E461")


def test_a_provider_that_is_well_keeps_what_it_is_asked(file: Path) -> None:
    async def scene() -> Any:
        async with StandIn(says("from ", "afar")) as stand, Engine() as engine:
            file.write_text(f'[cloud]\nurl = "{stand.url}"\n')
            await engine.open(tell, routed(tell, cloud("cloud"), synthetic("here")))
            return await engine.run(tell.bind("hi"))

    assert asyncio.run(scene()).value.text == "from afar"


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "settings", "code", "says"),
    [
        ("nonsense", {}, "E121", "no router is called"),
        ("order", {"decay_s": 3.0}, "E140", "no setting `decay_s`"),
        ("latency", {"falls_back": 1}, "E140", "falls_back = 1"),
        ("cascade", {}, "E140", "judges answers"),
    ],
)
def test_a_policy_that_does_not_fit(policy: str, settings: dict[str, Any], code: str, says: str) -> None:
    async def body(engine: Engine) -> None:
        with pytest.raises(PlanError) as caught:
            await engine.open(tell, routed(tell, synthetic("a"), synthetic("b"), policy=policy, **settings))
        assert caught.value.code == code
        assert says in caught.value.message

    virtual(body)


def test_a_step_that_is_met_while_it_runs_has_no_route() -> None:
    @tt.workflow
    async def program(question: tt.Text) -> str:
        return str(await tt.generate("{{ q }}", q=question))

    plan = Plan(stages={"generate": StagePlan(route=RoutePlan((synthetic("a"), synthetic("b"))))})

    async def body(engine: Engine) -> None:
        await engine.open(program, plan)
        with pytest.raises(PlanError, match="E141"):
            await engine.run(program.bind("hi"))

    virtual(body)
