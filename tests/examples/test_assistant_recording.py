"""The assistant's recording: the share of repeats that it states, and labels that its own pages and orders bear out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec
import pytest

from examples.kit_recordings import digest, digest_elsewhere, texts
from tauten.describe.payload import Text
from tauten.errors import InputError
from tauten.examples.assistant import plans
from tauten.examples.assistant.desk import assistant
from tauten.examples.assistant.lookup import order_desk, order_numbers, says
from tauten.examples.assistant.orders import STATES, bundled
from tauten.examples.assistant.pages import chunks
from tauten.examples.assistant.recording import (
    HALVES,
    REPEATS,
    REQUESTS,
    REWORDED,
    Half,
    asked,
    recording,
    topics,
)
from tauten.examples.assistant.sweep import sweep
from tauten.examples.help_desk.scoring import accepts, stands_in
from tauten.improve.labelled import WHOLE, clusters, labelled, open_recording


def test_it_is_found_and_every_item_has_a_label() -> None:
    own = open_recording(assistant, "", usual=WHOLE)
    assert own.name == "assistant"
    assert len(own) == len(labelled(own)) == REQUESTS * len(HALVES)
    assert all(set(item.inputs) == set(assistant.inputs) for item in own)


def test_the_desk_brings_the_part_about_orders() -> None:
    own = open_recording(order_desk, "", usual=WHOLE)
    assert {item.tags[0] for item in own} == {"order", "unknown"}
    assert all(order_numbers(item.inputs["question"]) for item in own)


def test_it_is_the_same_every_time() -> None:
    assert digest(recording()) == digest_elsewhere("tauten.examples.assistant.recording")


@pytest.mark.parametrize("repeats", [0.0, 0.1, 0.35, 0.5])
@pytest.mark.parametrize("half", HALVES)
def test_the_share_that_resembles_an_earlier_request_is_the_one_that_was_asked_for(
    half: Half, repeats: float
) -> None:
    items = asked(half, repeats)
    known = sum(each.known for each in items)
    assert known == round(repeats * REQUESTS)
    seen: set[str] = set()
    for each in items:
        assert each.known == (each.topic.name in seen)
        seen.add(each.topic.name)


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_a_share_that_it_cannot_have_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="repeats="):
        recording(repeats=share)


def test_some_repeats_come_in_other_words_while_there_are_any() -> None:
    items = list(recording())
    came = [item.tags[1] for item in items if item.tags[1] != "first"]
    assert len(came) == 2 * round(REPEATS * REQUESTS)
    assert 0.2 <= came.count("reworded") / len(came) <= REWORDED


def test_the_halves_share_no_question_and_no_topic() -> None:
    whole = recording()
    assert texts(whole, "dev").isdisjoint(texts(whole, "held_out"))
    topic = clusters(whole)
    of = [{topic[item.id] for item in whole if item.split == half} for half in HALVES]
    assert of[0].isdisjoint(of[1])


@pytest.mark.parametrize("half", HALVES)
def test_each_half_has_as_many_topics_as_requests(half: Half) -> None:
    names = [topic.name for topic in topics(half)]
    assert len(names) == len(set(names)) == REQUESTS


@pytest.mark.parametrize("half", HALVES)
def test_all_wordings_of_a_topic_name_the_same_orders(half: Half) -> None:
    for topic in topics(half):
        named = {tuple(order_numbers(Text(question))) for question in topic.questions}
        assert named == {(topic.name,) if topic.kind in ("order", "unknown") else ()}, topic.name


@pytest.mark.parametrize("half", HALVES)
def test_the_pages_answer_every_topic_where_its_label_says(half: Half) -> None:
    pages = chunks()
    for topic in topics(half):
        if topic.kind != "page":
            continue
        [passage] = [each for each in pages if stands_in(topic.label, each.source, each.titles)]
        assert accepts(topic.label, passage.text), topic.name


@pytest.mark.parametrize("half", HALVES)
def test_no_label_accepts_another_page(half: Half) -> None:
    pages = chunks()
    for topic in topics(half):
        if topic.kind == "page":
            fitting = [each for each in pages if accepts(topic.label, each.text)]
            assert len(fitting) <= 3, topic.name


def test_the_label_of_an_order_tells_states_apart() -> None:
    order, topic = bundled()[0], topics("dev")[0]
    for state in STATES:
        told = f"Order {order.number} ({order.thing}) {says(msgspec.structs.replace(order, state=state))}."
        assert accepts(topic.label, told) == (state == order.state)


# -- what repeats are worth ----------------------------------------------------------------------------------


def test_without_repeats_every_question_is_a_lookup() -> None:
    [swept] = sweep(plans.of_orders(plans.layered()), [0.0])
    assert swept.lookups == swept.requests
    assert swept.saved == 0.0
    assert swept.mean_ms == pytest.approx(400.0)


def test_the_more_repeats_the_fewer_lookups() -> None:
    told = plans.ruled(plans.of_orders(plans.layered()), ttl_s=0.0, refresh=0.0, stale_s=0.0)
    rows = sweep(told, [0.1, 0.3, 0.5])
    saved = [row.saved for row in rows]
    assert saved == sorted(saved)
    assert saved[0] > 0
    for row in rows:
        assert row.mean_ms == pytest.approx(400.0 * row.lookups / row.requests), "a hit waits for nothing"


def test_results_that_grow_old_save_less() -> None:
    orders = plans.of_orders(plans.layered())
    told = plans.ruled(orders, ttl_s=0.0, refresh=0.0, stale_s=0.0)
    assert sweep(orders, [0.5])[0].lookups > sweep(told, [0.5])[0].lookups
