"""The assistant: which orders a question names, what is said of them, what is right, and what its pages hold."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.errors import BackendError, InputError
from tauten.examples.assistant import plans
from tauten.examples.assistant.desk import assistant, reply
from tauten.examples.assistant.lookup import MOST, NONE_NAMED, order_desk, order_numbers, says
from tauten.examples.assistant.orders import LOOKUP_CENTS, STATES, WAIT_S, Order, Orders, bundled, read
from tauten.examples.assistant.pages import HERE, chunks
from tauten.examples.assistant.recording import recording
from tauten.examples.assistant.scoring import metric
from tauten.examples.assistant.source import use
from tauten.examples.explained import REFUSED, SHORT
from tauten.improve.labelled import answer_of, metric_of, scores
from tauten.improve.recording import Document, Label
from tauten.improve.replay import replay
from tauten.plan.lower import lower
from tauten.plan.plan import SemanticPlan
from tauten.run.engine import Engine
from tauten.run.retrieval.building import KnownVectors

POT = Order("T-1111", "blue teapot", "packed", "Red Van", "4 May")
CUP = Order("T-2222", "egg cup", "on its way", "Parcel Owl", "5 May")


def answered(question: str, orders: Orders | None = None, **how: Any) -> Any:
    """One question to the desk without a cache, in virtual time."""

    async def body(engine: Engine) -> Any:
        await engine.open(order_desk)
        with use(orders or Orders([POT, CUP])):
            return await engine.run(order_desk.bind(question), **how)

    return virtual(body)


# -- orders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        ("Where is T-1111?", ["T-1111"]),
        ("where is t1111", ["T-1111"]),
        ("any news of order 1111?", ["T-1111"]),
        ("order no. 1111 and order number 2222", ["T-1111", "T-2222"]),
        ("my parcel #1111, please; #1111!", ["T-1111"]),
        ("order T-1111", ["T-1111"]),
        ("How much is 1111 euros in crowns?", []),
        ("T-11112 is no number of ours", []),
        ("What does shipping cost?", []),
        ("", []),
    ],
)
def test_orders_are_found_in_all_their_spellings(question: str, numbers: list[str]) -> None:
    assert order_numbers(tt.Text(question)) == numbers


def test_a_pasted_list_is_not_a_hundred_lookups() -> None:
    pasted = " ".join(f"T-{number}" for number in range(1000, 1100))
    assert len(order_numbers(tt.Text(pasted))) == MOST


def test_what_is_said_names_the_order_and_its_state() -> None:
    answer = answered("Where are T-1111 and order 2222?")
    assert answer.value.text == (
        "Order T-1111 (blue teapot) is packed and waits for Red Van, since 4 May. "
        "Order T-2222 (egg cup) is on its way with Parcel Owl and should be there on 5 May."
    )
    assert answer.trace.end - answer.trace.start == pytest.approx(WAIT_S), "two lookups side by side"
    assert sum(amount for _, unit, amount in answer.trace.spent if unit == "cents") == 2 * LOOKUP_CENTS


def test_every_state_has_words_of_its_own() -> None:
    said = {says(Order("T-1", "cup", state, "Red Van", "4 May")) for state in STATES}
    assert len(said) == len(STATES)


def test_an_unknown_order_is_said_beside_a_known_one() -> None:
    said = answered("T-9999 and T-1111").value.text
    assert said.startswith("There is no order T-9999. Order T-1111")


def test_a_service_that_cannot_say_is_an_error_and_no_unknown_order() -> None:
    orders = Orders([POT])
    orders.down = True
    with pytest.raises(BackendError, match="cannot be looked up"):
        answered("T-1111", orders)


def test_a_question_without_a_number_is_asked_for_one() -> None:
    orders = Orders([POT])
    assert answered("Where is my order?", orders).value.text == NONE_NAMED
    assert orders.looked == 0


def test_an_order_is_as_it_was_when_the_look_began() -> None:
    async def body(engine: Engine) -> None:
        orders = Orders([POT])
        look = asyncio.ensure_future(orders.find("T-1111"))
        await asyncio.sleep(WAIT_S / 2)
        orders.change("T-1111", "delivered")
        assert await look == POT
        assert await orders.find("T-1111") == orders.now("T-1111") != POT

    virtual(body)


def test_an_order_is_never_in_a_state_that_there_is_not() -> None:
    with pytest.raises(InputError, match="never 'packt'"):
        Orders([POT]).change("T-1111", "packt")


def test_the_bundled_orders_are_whole() -> None:
    numbers = [order.number for order in bundled()]
    assert len(numbers) == len(set(numbers)) == 168
    assert set(numbers).isdisjoint(read().unknown)
    assert {order.state for order in bundled()} == set(STATES)


# -- the drawing and its plans -------------------------------------------------------------------------------


def test_both_plans_fit_and_the_layered_one_gives_every_dear_step_a_cache() -> None:
    graph = assistant.graph
    assert graph is not None
    naive = {step.name: step for step in lower(graph, plans.naive()).steps}
    layered = {step.name: step for step in lower(graph, plans.layered()).steps}
    assert not any(step.plan.cache for step in naive.values())
    cached = {name for name, step in layered.items() if step.plan.cache}
    assert cached == {"order_status", "embed", "search", "quote", "generate"}


def test_only_what_looks_at_the_world_grows_old() -> None:
    layered = plans.layered()
    aged = {name for name, stage in layered.stages.items() if plans.cache_rules(stage.cache).ttl_s}
    assert aged == {"order_status"}
    rules = plans.cache_rules(layered.stages["order_status"].cache)
    assert 0 < rules.negative_s < rules.ttl_s, "an unknown number may be an order in a moment"
    assert rules.tags == ("orders",)


def test_the_plans_differ_in_their_caches_only() -> None:
    naive, layered = plans.naive(), plans.layered()
    assert {name: stage.settings for name, stage in naive.stages.items()} == {
        name: stage.settings for name, stage in layered.stages.items() if name in naive.stages
    }
    assert all(layered.stages[name].batch == stage.batch for name, stage in naive.stages.items())


def test_the_desk_takes_the_same_rules() -> None:
    graph = order_desk.graph
    assert graph is not None
    [step] = [step for step in lower(graph, plans.of_orders(plans.layered())).steps if step.plan.cache]
    assert step.plan.cache == plans.layered().stages["order_status"].cache
    quick = plans.ruled(plans.of_orders(plans.layered()), ttl_s=1.0)
    rules = plans.cache_rules(quick.stages["order_status"].cache)
    assert (rules.ttl_s, rules.stale_s) == (1.0, 40.0)


def test_likeness_may_be_put_before_the_model() -> None:
    graph = assistant.graph
    assert graph is not None
    rules = SemanticPlan(field="question", agree=0.8)
    liked = plans.ruled(plans.layered(), "generate", tiers=("memory", "disk", "semantic"), semantic=rules)
    [step] = [step for step in lower(graph, liked).steps if step.name == "generate"]
    assert plans.cache_rules(step.plan.cache).semantic == rules


# -- the pages -----------------------------------------------------------------------------------------------


def test_each_section_is_one_passage_whose_vector_travels_along() -> None:
    known = KnownVectors(HERE / "vectors")
    assert len(chunks()) == 40
    assert [chunk.titles for chunk in chunks() if known.get(chunk.id) is None] == []


def test_a_reply_quotes_its_place_and_marks_the_models_words() -> None:
    quoted = tt.Answer("It is free.", True, source="a.md", titles=("A", "B"))
    assert reply(quoted, None).text == "It is free.\n\n[a.md: A > B]"
    assert reply(quoted, tt.Text(" Free. ")).text == f"It is free.\n\n[a.md: A > B]{SHORT}Free."
    assert reply(tt.Answer("Not found.", False, source="a.md"), None).text == "Not found."


# -- the metric ----------------------------------------------------------------------------------------------

PAGE = Label(documents=(Document("a.md", r"(^|> )B$"),), accept=(("is free",),))
ORDER = Label(accept=(("T-1111", "is packed", "teapot"),))
QUOTED = "Shipping is free.\n\n[a.md: A > B]"


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        ("Order T-1111 (blue teapot) is packed and waits.", ORDER, True),
        ("Order T-1111 (blue teapot) was delivered.", ORDER, False),
        (QUOTED, PAGE, True),
        (f"{QUOTED}{SHORT}Shipping is free.", PAGE, True),
        (f"{QUOTED}{SHORT}Administrators restart another database.", PAGE, False),
        (f"{QUOTED}{SHORT}", PAGE, False),
        (QUOTED.replace("a.md", "c.md"), PAGE, False),
        (QUOTED.replace("free", "dear"), PAGE, False),
        (f"{REFUSED} in the documents: nothing fits.", Label(answerable=False), True),
        (QUOTED, Label(answerable=False), False),
        (f"{REFUSED} in the documents: nothing fits.", PAGE, False),
    ],
)
def test_right_is_what_the_order_is_or_what_the_page_says(answer: str, label: Label, right: bool) -> None:
    assert metric(tt.Text(answer), label) == right


def test_both_workflows_are_judged_by_it() -> None:
    assert metric_of(assistant) is metric
    assert metric_of(order_desk) is metric


# -- on real models ------------------------------------------------------------------------------------------


@pytest.mark.models
def test_an_order_a_page_and_a_refusal_under_both_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_RESULTS", str(tmp_path))
    chosen = {kind: next(item for item in recording(split="dev") if item.tags[0] == kind) for kind in KINDS}

    async def serve(plan: Any) -> dict[str, str]:
        async with Engine() as engine:
            name = await engine.open(assistant, plan)
            again = [(item.id, item.inputs) for item in chosen.values() for _ in range(2)]
            done = await replay(engine, name, again)
            assert [each.error for each in done.served] == [None] * len(again)
            assert set(scores(metric, assistant, done.served, chosen.values())) == {
                item.id for item in chosen.values()
            }
            said = [(each.id, str(answer_of(assistant, each))) for each in done.served]
            assert said[::2] == said[1::2], "the second is what the first was"
            return dict(said)

    with use(Orders(wait_s=0.0)):
        naive, layered = (asyncio.run(serve(plan)) for plan in (plans.naive(), plans.layered()))
    assert naive == layered
    assert naive[chosen["refused"].id].startswith(REFUSED)
    assert chosen["order"].id.split("/")[1] in naive[chosen["order"].id]


KINDS = ("order", "unknown", "page", "refused")
