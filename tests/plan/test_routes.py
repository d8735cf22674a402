"""Routes in plans: how files spell them, what they lower to, what is refused, and that they survive."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from tauten.errors import PlanError
from tauten.plan.lower import lower
from tauten.plan.plan import (
    Plan,
    RouteOption,
    RoutePlan,
    StagePlan,
    diff_plans,
    format_plan,
    parse_plan,
    rebase,
    stage_keys,
    staged,
)
from tauten.plan.routed import overlaid, routed


@tt.workflow
def tell(question: tt.Text) -> tt.Stream[tt.Text]:
    return tt.generate("{{ question }}", question=question)


@tt.workflow
def heard(sound: tt.Audio) -> tt.Stream[tt.Text]:
    return tt.generate("{{ words }}", words=tt.transcribe(sound))


FILE = """\
tauten = "plan/1"

[stage.generate]
max_tokens = 64
why = "the cloud where we are full"

[stage.generate.route]
policy = "spill"
wait_s = 0.3

[[stage.generate.route.options]]
name = "here"
model = "smollm2-135m-instruct"

[[stage.generate.route.options]]
name = "cloud"
cents_per_token = 0.02
model = "gpt-small"
backend = "remote"
provider = ["openai", "groq/other"]
"""


def test_a_file_as_people_write_it() -> None:
    stage = parse_plan(FILE).stages["generate"]
    assert stage.settings == {"max_tokens": 64}
    route = stage.route
    assert route is not None
    assert (route.policy, route.settings) == ("spill", {"wait_s": 0.3})
    here, cloud = route.options
    assert (here.name, here.stage.model, here.cents_per_token) == ("here", "smollm2-135m-instruct", None)
    assert (cloud.stage.backend, cloud.cents_per_token) == ("remote", 0.02)
    assert cloud.stage.settings == {"provider": ["openai", "groq/other"]}


NAMES = st.text("abcxyz_-0", min_size=1, max_size=6)
WAYS = st.builds(
    StagePlan,
    model=NAMES,
    backend=NAMES,
    threads=st.integers(0, 4),
    settings=st.dictionaries(st.sampled_from(["provider", "slots"]), NAMES | st.lists(NAMES), max_size=2),
)
ROUTES = st.builds(
    RoutePlan,
    options=st.lists(
        st.builds(RouteOption, NAMES, WAYS, st.none() | st.floats(0, 9, allow_nan=False)),
        min_size=1,
        max_size=4,
    ).map(tuple),
    policy=NAMES,
    settings=st.dictionaries(st.sampled_from(["wait_s", "seed", "most"]), st.integers(0, 9), max_size=2),
)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        NAMES, st.builds(StagePlan, route=st.none() | ROUTES, why=NAMES, threads=st.integers(0, 2))
    )
)
def test_a_plan_with_routes_survives_its_file(stages: dict[str, StagePlan]) -> None:
    plan = Plan(name="told", stages=stages)
    text = format_plan(plan)
    assert parse_plan(text) == plan
    assert parse_plan(text).id == plan.id
    for name, stage in stages.items():
        assert staged(name, stage_keys(stage)) == stage


def test_the_order_of_options_is_part_of_a_plan() -> None:
    one, other = RouteOption("a", StagePlan(model="m")), RouteOption("b", StagePlan(model="n"))
    plans = [
        Plan(stages={"generate": StagePlan(route=RoutePlan(options))})
        for options in ((one, other), (other, one))
    ]
    assert plans[0].id != plans[1].id
    assert [row[1] for row in diff_plans(*plans)] == ["route"]


# -- lowering --------------------------------------------------------------------------------------------------


def two(**stage: Any) -> StagePlan:
    options = (
        RouteOption("a", StagePlan(model="m", backend="synthetic_slots")),
        RouteOption("b", StagePlan(model="n", backend="synthetic_slots", settings={"tokens": 3})),
    )
    return StagePlan(route=RoutePlan(options, "order"), **stage)


def test_each_way_is_a_step_behind_a_choice_of_the_stages_name() -> None:
    assert tell.graph is not None
    plan = Plan(stages={"generate": two(settings={"max_tokens": 9}, threads=2)})
    steps = {step.name: step for step in lower(tell.graph, plan).steps}
    assert list(steps) == ["generate:a", "generate:b", "generate"]
    choice = steps["generate"]
    assert (choice.control, choice.params["policy"], choice.models) == ("choose", "order", {})
    assert set(choice.sides) == {"value0", "value1"}
    a, b = steps["generate:a"], steps["generate:b"]
    assert (a.models["model"].model, b.models["model"].model) == ("m", "n")
    assert b.models["model"].options["tokens"] == 3
    for way in (a, b):
        assert way.params["max_tokens"] == 9
        assert way.models["model"].threads == 2
        assert way.plan.route is None


def test_the_workflow_stays_what_it_is() -> None:
    assert tell.graph is not None
    plan = Plan(graph=tell.graph.hash, stages={"generate": two()})
    lowered = lower(tell.graph, plan)
    assert lowered.graph.hash == tell.graph.hash
    assert lowered.plan is plan
    assert routed(tell.graph, Plan()) == (tell.graph, Plan())
    kept, dropped = rebase(plan, tell.graph)
    assert (kept.stages, dropped) == (plan.stages, [])


def test_what_both_ways_decode_is_decoded_once() -> None:
    assert heard.graph is not None
    options = tuple(RouteOption(name, StagePlan(variant=name)) for name in ("int8", "fp32"))
    plan = Plan(stages={"transcribe": StagePlan(route=RoutePlan(options))})
    names = [step.name for step in lower(heard.graph, plan).steps]
    assert names == ["transcribe:int8.audio", "transcribe:int8", "transcribe:fp32", "transcribe", "generate"]


def test_what_runs_beside_a_stage_runs_beside_its_choice() -> None:
    @tt.stage(pure=True)
    async def other(question: str) -> str:
        return question

    @tt.workflow
    def both(question: tt.Text) -> tuple[tt.Stream[tt.Text], str]:  # type: ignore[return]
        return tt.generate("{{ question }}", question=question), other(question)  # type: ignore[return-value]

    assert both.graph is not None
    plan = Plan(stages={"generate": two(beside=("other",))})
    assert lower(both.graph, plan).program.shape == "parallel"


def test_an_option_is_laid_over_the_stages_plan() -> None:
    base = parse_plan(
        'tauten = "plan/1"\n[stage.s]\nthreads = 4\nmodel = "m"\nx = 1\n[stage.s.read]\nbackend = "onnx"\n'
    )
    over = parse_plan('tauten = "plan/1"\n[stage.s]\nmodel = "n"\ny = 2\n[stage.s.read]\nthreads = 1\n')
    found = overlaid(base.stages["s"], over.stages["s"])
    assert (found.model, found.threads, found.settings) == ("n", 4, {"x": 1, "y": 2})
    assert (found.roles["read"].backend, found.roles["read"].threads) == ("onnx", 1)


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "settings", "says"),
    [
        ([], {}, "its options are []"),
        (["a"], {}, "its options are ['a']"),
        (["a", "a"], {}, "its options are ['a', 'a']"),
        (["a", ""], {}, "its options are ['a', '']"),
        (["a", "b:c"], {}, "an option is called 'b:c'"),
    ],
)
def test_a_route_that_makes_no_sense(options: list[str], settings: dict[str, Any], says: str) -> None:
    assert tell.graph is not None
    route = RoutePlan(tuple(RouteOption(name, StagePlan()) for name in options), settings=settings)
    with pytest.raises(PlanError) as caught:
        lower(tell.graph, Plan(stages={"generate": StagePlan(route=route)}))
    assert caught.value.code == "E141"
    assert says in caught.value.message


def test_effects_are_not_run_a_second_time() -> None:
    @tt.stage
    async def pay(amount: int) -> int:
        return amount

    @tt.workflow
    def paying(amount: int) -> int:
        return pay(amount)

    assert paying.graph is not None
    options = (RouteOption("a", StagePlan()), RouteOption("b", StagePlan()))
    once = lower(paying.graph, Plan(stages={"pay": StagePlan(route=RoutePlan(options))}))
    assert "falls_back" not in once.steps[-1].params["options"]
    twice = RoutePlan(options, settings={"falls_back": True})
    with pytest.raises(PlanError, match="it has effects"):
        lower(paying.graph, Plan(stages={"pay": StagePlan(route=twice)}))


def test_control_flow_has_no_route() -> None:
    @tt.workflow
    def chosen(question: tt.Text) -> tt.Stream[tt.Text]:
        return tt.fallback(  # type: ignore[no-any-return]
            tt.generate("{{ q }}", q=question, name="a"), tt.generate("{{ q }}", q=question, name="b")
        )

    assert chosen.graph is not None
    with pytest.raises(PlanError, match="control flow"):
        lower(chosen.graph, Plan(stages={"fallback": two()}))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('beside = ["x"]', "`beside` in stage.generate.route.options"),
        ('route = { policy = "cost" }', "`route` in stage.generate.route.options"),
        ('cents_per_token = "much"', "cents_per_token"),
        ('provider = "https://example.org"', "no absolute paths or hosts"),
    ],
)
def test_what_an_option_cannot_say(line: str, says: str) -> None:
    kept = [each for each in FILE.splitlines() if not each.startswith((line.split()[0], "provider"))]
    with pytest.raises(PlanError) as caught:
        parse_plan("\n".join([*kept, line]))
    assert says in caught.value.message
