"""The formula is the simulation of requests that are alone: the same plans, the same times, no queue between them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import tauten as tt
from simulate.kit_desk import BATCHED, ITEMS, NAIVE, OVERLAP, desk, learned
from tauten.clock import run_virtual
from tauten.describe.stage import Context, Role, stage
from tauten.errors import PlanError
from tauten.improve.optimizer.formula import Walk, formula
from tauten.improve.optimizer.pricing import Pricer
from tauten.improve.simulate.capture import KeepingEngine, capture
from tauten.improve.simulate.library import Library
from tauten.improve.simulate.machine import Shared
from tauten.improve.simulate.simulator import Simulator
from tauten.plan.lower import lower
from tauten.plan.plan import Batch, Plan, StagePlan

ROOMY = Shared(cores=64)
ROUNDING_S = 2e-4  # of a step's own code


def compared(workflow: Any, library: Library, plan: Plan) -> None:
    """Each request alone: by the formula, and by simulation, whose deployments know by then how long runs take."""
    walk = Walk(library, lower(workflow.graph, plan), cores=ROOMY.cores)
    alone = Simulator(workflow, library, ROOMY)
    arrivals = [(100.0 * place, id) for place, id in enumerate([*library.inputs] * 3)]
    done = alone.run(plan, arrivals).done[-len(library.inputs) :]
    for told in done:
        by_formula = walk.way(told.id)
        assert (by_formula.seconds, by_formula.first_s) == (
            pytest.approx(told.seconds, abs=ROUNDING_S),
            pytest.approx(told.first_s, abs=ROUNDING_S),
        ), told.id


def of(workflow: Any, items: list[tuple[str, Any]], *plans: Plan) -> Library:
    library = Library()

    async def main() -> None:
        async with KeepingEngine(clock=asyncio.get_running_loop().time) as engine:
            for each in plans:
                library.add(await capture(engine, workflow, each, items, repeats=2))

    run_virtual(main())
    return library


PLANS = {
    "naive": NAIVE,
    "overlap": OVERLAP,
    "batched": BATCHED,
    "replicas": NAIVE.edit("look", replicas=3),
    "both": NAIVE.edit("look", replicas=2, batch=Batch(max=4)),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_request_alone_takes_what_a_simulation_says(plan: Plan) -> None:
    compared(desk, learned(NAIVE, BATCHED), plan)


def test_figures_are_those_of_requests_one_at_a_time() -> None:
    library = learned(NAIVE)
    told = Pricer(desk, library, ROOMY, rate=0.0)(OVERLAP)
    found = formula(library, lower(desk.graph, OVERLAP), cores=ROOMY.cores)  # type: ignore[arg-type]
    assert found.failed == 0.0
    assert found.values == {name: pytest.approx(value, abs=0.2) for name, value in told.values.items()}


def test_cores_are_left_out_where_their_number_is_not_told() -> None:
    assert "core_ms" not in formula(learned(NAIVE), lower(desk.graph, NAIVE)).values  # type: ignore[arg-type]


def test_what_was_never_measured_is_not_made_up() -> None:
    with pytest.raises(PlanError, match="was not"):
        formula(learned(NAIVE), lower(desk.graph, NAIVE.edit("hear", threads=2)))  # type: ignore[arg-type]


# -- workflows of other shapes -------------------------------------------------------------------------------


@stage(roles={"model": Role("slow", ("synthetic",), options={"ms_per_batch": 40.0})}, effects="pure")
async def slow(words: str, ctx: Context) -> str:
    return str(await ctx.infer("model", words))


@stage(roles={"model": Role("quick", ("synthetic",), options={"ms_per_batch": 10.0})}, effects="pure")
async def quick(words: str, ctx: Context) -> str:
    await asyncio.sleep(0.003)
    return str(await ctx.infer("model", words))


@stage(pure=True)
async def hard(words: str) -> bool:
    return "hard" in words


@stage(
    roles={
        "llm": Role(
            "say", ("synthetic_slots",), options={"prefill_ms": 20.0, "ms_per_token": 5.0, "tokens": 8}
        )
    },
    effects="pure",
)
async def say(words: str, ctx: Context) -> AsyncIterator[str]:
    async for chunk in ctx.stream("llm", {"prompt": words}):
        yield chunk.text


@tt.workflow
def routed(words: str) -> str:
    return tt.when(hard(words), slow(words), quick(words))  # type: ignore[no-any-return]


@tt.workflow
def gathered(words: list[str]) -> list[str]:
    return tt.map(quick, words)  # type: ignore[no-any-return]


@tt.workflow
def told_whole(words: str) -> str:
    return slow(say(words))  # it wants the stream's whole text


@tt.workflow
def spoken(words: str) -> tt.Stream[str]:
    return tt.when(hard(words), say(slow(words), name="slowly"), say(words))  # type: ignore[no-any-return]


@stage(pure=True)
async def both(one: str, other: str) -> str:
    await asyncio.sleep(0.001)
    return one + other


@tt.workflow
def knotted(words: str) -> list[str]:
    a, b = slow(words, name="a"), quick(words, name="b")
    c, d = quick(a, name="c"), slow(b, name="d")
    e = quick(b, name="e")
    return [c, d, both(c, e, name="f")]


@tt.workflow
def chosen(words: str) -> str:
    checked = tt.option(slow(words, name="careful"), gate=hard(words))
    sure = tt.option(quick(words, name="hasty"), gate=lambda text: "one" in text)
    return tt.choose(checked, sure, slow(words, name="last"))  # type: ignore[no-any-return]


@tt.workflow
def tried(words: str) -> str:
    return tt.fallback(quick(words), slow(words))  # type: ignore[no-any-return]


HARD = [("hard", {"words": "a hard one"}), ("easy", {"words": "one"})]
OTHERS = [("other", {"words": "other"}), ("easy", {"words": "one"})]
LISTS = [("two", {"words": ["a", "b"]}), ("five", {"words": list("abcde")}), ("none", {"words": []})]


def plan_of(workflow: Any, **stages: StagePlan) -> Plan:
    return Plan(graph=workflow.graph.hash, stages=stages)


@pytest.mark.parametrize(
    ("workflow", "items"),
    [
        (routed, HARD),
        (chosen, HARD),
        (chosen, OTHERS),
        (tried, HARD),
        (gathered, LISTS),
        (told_whole, HARD),
        (spoken, HARD),
        (knotted, HARD),
    ],
    ids=["when", "choose", "the last choice", "fallback", "map", "collected", "streamed side", "straight"],
)
def test_every_shape_of_program_is_summed_as_it_runs(workflow: Any, items: list[tuple[str, Any]]) -> None:
    plan = plan_of(workflow)
    compared(workflow, of(workflow, items, plan), plan)


def test_a_knot_ends_when_its_last_step_does() -> None:
    free = {
        name: StagePlan(
            beside=tuple(set("abcdef") - {name}), threads=number + 1
        )  # of each its own deployment
        for number, name in enumerate("abcdef")
    }
    plan = plan_of(knotted, **free)
    shapes = [lower(knotted.graph, plan).program.shape]  # type: ignore[arg-type]
    library = of(
        knotted, HARD, plan_of(knotted, **{n: StagePlan(threads=each.threads) for n, each in free.items()})
    )
    compared(knotted, library, plan)
    assert shapes != ["step"]


def test_members_of_a_map_share_their_model_and_the_number_that_may_run() -> None:
    one = StagePlan(threads=1)  # a core each
    wide = plan_of(gathered, quick=StagePlan(threads=1, replicas=2, batch=Batch(max=1)))
    library = of(gathered, LISTS, plan_of(gathered, quick=one))
    compared(gathered, library, wide)
    walk = Walk(library, lower(gathered.graph, wide))  # type: ignore[arg-type]
    assert walk.way("five").seconds == pytest.approx(0.003 + 3 * 0.010, abs=1e-3)


def test_only_the_side_that_was_taken_counts() -> None:
    library = of(routed, HARD, plan_of(routed))
    walk = Walk(library, lower(routed.graph, plan_of(routed)))  # type: ignore[arg-type]
    assert walk.way("hard").seconds == pytest.approx(0.040, abs=ROUNDING_S)
    assert walk.way("easy").seconds == pytest.approx(0.013, abs=ROUNDING_S)


def test_the_desk_is_what_its_told_times_add_up_to() -> None:
    """Not only equal to a simulation: 100 + 4 ms of hearing, 30 + 4 + 4 + 2 x 6 of looking, 50 + 19 x 5 of telling."""
    walk = Walk(learned(NAIVE), lower(desk.graph, NAIVE))  # type: ignore[arg-type]
    alone = walk.way(ITEMS[2][0])
    assert alone.seconds == pytest.approx(0.104 + 0.050 + 19 * 0.005 + 0.004, abs=0.006)
    pictured = walk.way(ITEMS[0][0])
    assert pictured.seconds - alone.seconds == pytest.approx(0.030 + 0.004 + 0.004 + 2 * 0.006, abs=1e-3)
