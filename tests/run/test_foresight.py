"""What choices foresee: tokens by what a step read and made before, prices by the price book, and what nobody knows."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from kit.virtual import virtual
from remote.kit_provider import StandIn, says
from tauten.clock import real
from tauten.improve.routing import load, replayed, save
from tauten.plan.lower import lower
from tauten.plan.plan import Plan, StagePlan
from tauten.run.backends.synthetic_slots import SyntheticSlotsBackend
from tauten.run.contracts import Ask, Candidate, ModelSpec
from tauten.run.deploy.estimates import MOST_CHARACTERS, USUAL_CHARACTERS, Streams
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.engine import Engine
from tauten.run.request import Request
from tauten.run.routers.cost import CostRouter
from tauten.run.routers.hybrid import HybridRouter
from tauten.run.routers.spill import SpillRouter
from tauten.run.routing.decision import Decision
from tauten.run.routing.foresight import Foresight, There, Tokens
from tauten.run.slots import Run
from tauten.run.usage.book import Book
from tauten.run.usage.prices import Prices

TEMPLATE = "{{ question }}"


@tt.workflow
def either(question: tt.Text) -> tt.Stream[tt.Text]:
    return tt.choose(  # type: ignore[no-any-return]
        tt.generate(TEMPLATE, question=question, name="one"),
        tt.generate(TEMPLATE, question=question, name="two"),
        policy="cost",
    )


def plan(workflow: Any, **stages: dict[str, Any]) -> Plan:
    told = {
        name: StagePlan(model=name, backend="synthetic_slots", settings=options)
        for name, options in stages.items()
    }
    return Plan(graph=workflow.graph.hash, stages=told)


def decisions(workflow: Any, plan: Plan, questions: list[str]) -> list[Decision]:
    async def body(engine: Engine) -> list[Decision]:
        await engine.open(workflow, plan)
        return [(await engine.run(workflow.bind(each))).trace.routes[0] for each in questions]

    found: list[Decision] = virtual(body)
    return found


def of(decision: Decision, name: str) -> Candidate:
    return next(each for each in decision.candidates if each.name == name)


# -- tokens ----------------------------------------------------------------------------------------------------


def test_what_is_read_and_made_is_learned_of_what_came_before() -> None:
    told = plan(either, one={"tokens": 5}, two={"tokens": 5})
    seen = decisions(either, told, ["four words as always"] * 12)
    first, last = seen[0], seen[-1]
    assert of(first, "one").output_tokens == 128.0, "as much as generate may say: nothing is known yet"
    asked = of(last, last.chosen)
    assert asked.output_tokens == 5.0
    assert asked.input_tokens == pytest.approx(4.0, abs=0.5), "words, as this engine counts"
    assert last.ask.tokens == max(each.input_tokens + each.output_tokens for each in last.candidates)


def test_a_longer_prompt_is_foreseen_longer() -> None:
    told = plan(either, one={"tokens": 2, "prefill_ms": 5}, two={"tokens": 2, "prefill_ms": 5})
    seen = decisions(either, told, ["some words here"] * 8 + ["some words here " * 40])
    short, long = seen[-2], seen[-1]
    name = short.chosen
    assert of(long, name).input_tokens > 20 * of(short, name).input_tokens


def test_made_tokens_are_a_high_quantile_bounded_by_what_the_step_may_say() -> None:
    @tt.workflow
    def bounded(question: tt.Text) -> tt.Stream[tt.Text]:
        return tt.choose(  # type: ignore[no-any-return]
            tt.generate(TEMPLATE, question=question, max_tokens=6, name="one"),
            tt.generate(TEMPLATE, question=question, max_tokens=6, name="two"),
            policy="order",
        )

    told = plan(bounded, one={}, two={})
    words = ["w"] * 1
    seen = decisions(bounded, told, [" ".join(words * count) for count in (*[2] * 17, *[5] * 3, 2)])
    assert of(seen[0], "one").output_tokens == 6.0
    assert of(seen[17], "one").output_tokens == 2.0
    assert of(seen[-1], "one").output_tokens == 5.0, "more than a tenth of the answers were that long"
    assert of(seen[-1], "two").output_tokens == 6.0, "which nobody asked"


def test_what_is_not_there_yet_is_learned_as_a_rest() -> None:
    @tt.stage(pure=True)
    async def found(question: str) -> str:
        return f"{question} and much more of what was found"

    @tt.workflow
    def grounded(question: tt.Text) -> tt.Stream[tt.Text]:
        return tt.choose(  # type: ignore[no-any-return]
            tt.generate(TEMPLATE, question=found(question), name="one"),
            tt.generate(TEMPLATE, question=question, name="two"),
            policy="order",
        )

    seen = decisions(grounded, plan(grounded, one={}, two={}), ["ask me"] * 20)
    assert of(seen[0], "one").input_tokens < 2.0
    assert of(seen[-1], "one").input_tokens == pytest.approx(9.0, abs=0.5), "as it read in the end"


def test_a_tokenizer_counts_where_there_is_one() -> None:
    class Words:
        context = 100

        def read(self, item: Any) -> Any:
            raise AssertionError("a prompt is not made twice")

        def count(self, text: str) -> int:
            return len(text.split())

    assert either.graph is not None
    [step] = [each for each in lower(either.graph, plan(either, one={}, two={})).steps if each.name == "one"]
    place = SlotDeployment(SyntheticSlotsBackend(ModelSpec("one")), label="one", clock=real)
    seen = Foresight(step, place, {"input.question": 0}, Words())
    run = Run(Request(real), [tt.Text("five words in this one")], 0.0)
    there = seen.there(run)
    assert there == There(22, 5.0)
    assert seen.weight(Tokens(5.0, 0.0)) == 5.0
    seen.learn(there, Tokens(9.0, 2.0))
    assert seen.tokens(there) == Tokens(9.0, 2.0), "four more are what the model's own form adds"
    seen.learn(there, Tokens())
    assert seen.tokens(there) == Tokens(9.0, 2.0), "a result that was kept teaches nothing"
    long = Run(Request(real), [tt.Text("x" * 40_000)], 0.0)
    assert seen.there(long) == There(40_000), "too long to be counted on the way"
    assert seen.tokens(There(40_000)).read == 40_000 / USUAL_CHARACTERS + 4.0


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), max_size=30))
def test_characters_a_token_stay_within_reason(prompts: list[tuple[float, float]]) -> None:
    streams = Streams()
    assert streams.characters_a_token == USUAL_CHARACTERS
    for characters, tokens in prompts:
        streams.spelled(characters, tokens)
    assert 0.0 < streams.characters_a_token <= MOST_CHARACTERS


def test_characters_a_token_become_those_of_the_model() -> None:
    streams = Streams()
    for _ in range(60):
        streams.spelled(300.0, 150.0)
        streams.observe(75.0, 0.1, 0.1, 3.0, 1.0)
    assert streams.characters_a_token == pytest.approx(2.0, rel=0.05)
    streams.spelled(0.0, 9.0)
    streams.spelled(9.0, 0.0)
    assert streams.characters_a_token == pytest.approx(2.0, rel=0.05), "what says nothing changes nothing"


# -- prices ----------------------------------------------------------------------------------------------------

PRICES = """
tauten = "prices/1"
[[price]]
provider = "cheap"
model = "small"
per_million = { input_tokens = "1.00", output_tokens = "2.00" }
[[price]]
provider = "dear"
model = "small"
per_million = { input_tokens = "10.00", output_tokens = "20.00" }
"""
MACHINE = '[[machine]]\ncore_hour = "36.00"\n'
WORDS = ("The ", "sea ", "is ", "deep")


async def asked(
    workflow: Any, folder: Path, stages: dict[str, StagePlan], times: int = 3, prices: str = PRICES
) -> list[Any]:
    """Traces of some requests, one after another, with stand-in providers `cheap`, `dear` and `nobody`."""
    (folder / "prices.toml").write_text(prices)
    book = Book(str(folder / "book.db"), Prices([folder / "prices.toml"], bundled=False))
    try:
        async with StandIn(says(*WORDS)) as stand, Engine(book=book) as engine:
            tables = [f'[{name}]\nurl = "{stand.url}"\n' for name in ("cheap", "dear", "nobody")]
            (folder / "providers.toml").write_text("".join(tables))
            await engine.open(workflow, Plan(graph=workflow.graph.hash, stages=stages))
            return [(await engine.run(workflow.bind("How is the sea?"))).trace for _ in range(times)]
    finally:
        await book.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(tmp_path / "providers.toml"))
    return tmp_path


def remote(provider: str) -> StagePlan:
    return StagePlan(model="small", backend="remote", settings={"provider": provider})


def test_the_price_book_says_what_providers_cost(folder: Path) -> None:
    stages = {"one": remote("dear"), "two": remote("cheap")}
    traces = asyncio.run(asked(either, folder, stages))
    decision = traces[-1].routes[0]
    assert decision.chosen == "two"
    cheap, dear = of(decision, "two"), of(decision, "one")
    assert cheap.cents is not None
    assert dear.cents is not None
    assert (cheap.input_tokens, cheap.output_tokens) == (pytest.approx(8.0, abs=1.0), 4.0)
    assert cheap.cents == pytest.approx((cheap.input_tokens * 1.0 + 4 * 2.0) / 1e4)
    assert cheap.cost_per_token == pytest.approx(cheap.cents / (cheap.input_tokens + 4))
    assert (cheap.priced_by, cheap.local) == ("prices.toml", False)
    said = traces[-1].notes["choose"]
    assert said.startswith("cost: option 2 of 2, two: ")
    assert "cents for 8 tokens in, 4 out as foreseen" in said


def test_a_price_that_nobody_knows_loses_and_that_is_said(folder: Path) -> None:
    stages = {"one": remote("nobody"), "two": remote("dear")}
    traces = asyncio.run(asked(either, folder, stages))
    decision = traces[-1].routes[0]
    assert decision.chosen == "two"
    assert (of(decision, "one").cents, of(decision, "one").cost_per_token) == (None, None)
    assert traces[-1].notes["choose"].endswith("; nobody knows what one costs")


def test_a_written_price_is_for_the_tokens_that_are_foreseen(folder: Path) -> None:
    @tt.workflow
    def written(question: tt.Text) -> tt.Stream[tt.Text]:
        return tt.choose(  # type: ignore[no-any-return]
            tt.option(tt.generate(TEMPLATE, question=question, name="one"), cents_per_token=0.5),
            tt.generate(TEMPLATE, question=question, name="two"),
            policy="cost",
        )

    traces = asyncio.run(asked(written, folder, {"one": remote("nobody"), "two": remote("dear")}))
    one = of(traces[-1].routes[0], "one")
    assert one.cents == pytest.approx(0.5 * (one.input_tokens + one.output_tokens))
    assert (one.cost_per_token, one.priced_by) == (0.5, "cents_per_token")
    assert traces[-1].routes[0].chosen == "two"


def test_an_engine_here_that_nobody_prices_is_not_taken_for_free(folder: Path) -> None:
    stages = {"one": StagePlan(model="one", backend="synthetic_slots"), "two": remote("dear")}
    traces = asyncio.run(asked(either, folder, stages))
    here = of(traces[-1].routes[0], "one")
    assert (here.cents, here.local) == (None, True)
    assert traces[-1].routes[0].chosen == "two"


def test_work_of_this_machine_is_priced_once_it_was_measured(folder: Path) -> None:
    from datetime import UTC, datetime

    from tauten.run.routing.bill import Bill
    from tauten.run.routing.foresight import Tokens

    class Place:
        backend = None

    (folder / "prices.toml").write_text(PRICES + MACHINE)
    place: Any = Place()
    bill = Bill(Prices([folder / "prices.toml"], bundled=False), [place])
    wall, own = datetime(2026, 6, 1, tzinfo=UTC), {place: Tokens(10.0, 10.0)}
    assert bill.of(own, 20.0, wall).cents is None
    bill.worked(2.0)
    assert bill.of(own, 20.0, wall).cents == pytest.approx(2.0), "two core-seconds at 36 dollars an hour"
    bill.worked(0.0)
    assert bill.of(own, 20.0, wall).cents == pytest.approx(2.0), "what was kept took nothing"
    assert bill.of({}, 0.0, wall).cents is None


# -- routers ---------------------------------------------------------------------------------------------------


def test_cost_is_that_of_the_request_and_not_of_the_token() -> None:
    wordy = Candidate("wordy", cost_per_token=0.01, cents=9.0, input_tokens=100, output_tokens=800)
    brief = Candidate("brief", cost_per_token=0.02, cents=4.0, input_tokens=100, output_tokens=100)
    route = CostRouter({}).route(Ask(), [wordy, brief])
    assert route.order == ("brief", "wordy")
    assert route.why.startswith("brief: 4 cents for 100 tokens in, 100 out as foreseen")
    assert CostRouter({"most": 0.015}).route(Ask(), [wordy, brief]).order[0] == "wordy", (
        "`most` is of a token"
    )
    assert (
        HybridRouter({"latency": 0.0, "cost": 1.0, "load": 0.0}).route(Ask(), [wordy, brief]).order[0]
        == "brief"
    )


def test_an_unknown_price_is_named_where_it_decides() -> None:
    there = [Candidate("a"), Candidate("b", cost_per_token=0.1), Candidate("c")]
    assert CostRouter({}).route(Ask(), there).why.endswith("nobody knows what a and c costs")
    assert "of an unknown price" in CostRouter({}).route(Ask(), there[:1]).why
    assert "the price of a and c is unknown" in HybridRouter({}).route(Ask(), there).why


@pytest.mark.parametrize(
    ("price", "says_"),
    [
        ({"cents": 2.0, "cost_per_token": 0.1}, "for 2 cents as foreseen"),
        ({"cost_per_token": 0.1}, "for 0.1 cents a token"),
        ({}, "at a price that nobody knows"),
    ],
)
def test_who_spills_says_what_it_costs(price: dict[str, float], says_: str) -> None:
    there = [Candidate("here", wait_s=9.0), Candidate("away", local=False, **price)]
    assert says_ in SpillRouter({}).route(Ask(), there).why
    at_home = SpillRouter({}).route(Ask(), [Candidate("here"), there[1]]).why
    assert says_ not in at_home


def test_decisions_with_prices_are_replayed_offline(folder: Path) -> None:
    stages = {"one": remote("dear"), "two": remote("cheap")}
    traces = asyncio.run(asked(either, folder, stages, times=5))
    kept = [trace.routes[0] for trace in traces]
    save(folder / "kept.routes", kept)
    assert load(folder / "kept.routes") == kept
    same = replayed(load(folder / "kept.routes"), "cost")
    assert same.same == 5
    other = replayed(kept, "order")
    assert other.replayed.chosen == {"one": 5}
    assert other.replayed.cents is not None
    assert other.recorded.cents is not None
    assert other.replayed.cents > other.recorded.cents
