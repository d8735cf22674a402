"""Triage: three calls of a language model, of which two know nothing of one another; its recording and its metric."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

import tauten as tt
from examples.kit_recordings import answered_by, digest, digest_elsewhere, texts
from tauten.examples.triage import inbox
from tauten.examples.triage.inbox import QUEUES, Ticket, drafted, same, sorted_into, triage
from tauten.examples.triage.recording import HALVES, Half, queues, recording
from tauten.improve.labelled import WHOLE, answer_of, clusters, labelled, metric_of, open_recording, score
from tauten.improve.recording import Document, Label
from tauten.improve.replay import replay
from tauten.plan.lower import lower
from tauten.plan.plan import load_plan
from tauten.run.engine import Engine

NAIVE = Path(inbox.__file__).with_name("naive.toml")
CALLS = ("queue", "subject", "draft")


# -- the workflow --------------------------------------------------------------------------------------------


def test_three_calls_of_which_one_needs_the_others() -> None:
    graph = triage.graph
    assert graph is not None
    lowered = lower(graph, load_plan(NAIVE))
    calls = [
        step.name for step in lowered.steps if any(each.backend == "llm" for each in step.models.values())
    ]
    assert sorted(calls) == sorted(CALLS)
    before = {name: above(name) for name in CALLS}
    assert "queue" not in before["subject"]
    assert "subject" not in before["queue"]
    assert {"queue", "subject", "retrieve"} <= before["draft"]
    assert "subject" in above("retrieve")


def above(name: str) -> set[str]:
    """The stages that a stage waits for, at any distance."""
    graph = triage.graph
    assert graph is not None
    direct = set(graph.stages[name].upstream)
    return direct.union(*(above(each) for each in direct))


@pytest.mark.parametrize(
    ("said", "queue"),
    [(" howto", "howto"), ("Crash.", "crash"), ("office", "office"), ("refund", "office"), ("", "office")],
)
def test_what_the_model_says_is_always_a_queue(said: str, queue: str) -> None:
    found = sorted_into(tt.Text(said))
    assert found == tt.Text(queue)
    assert queue in QUEUES


# -- the metric ----------------------------------------------------------------------------------------------

PLACE = ("library/exceptions.rst", "KeyError")
LABEL = Label(
    documents=(Document(*PLACE),),
    accept=(("key is not found",),),
    answer={"queue": "crash", "subject": "KeyError"},
)
OFFICE = Label(answerable=False, answer={"queue": "office", "subject": "the invoice"})
QUOTED = tt.Answer("Raised when a key is not found.", True, source=PLACE[0], titles=(PLACE[1],))
RIGHT = Ticket("crash", "KeyError", QUOTED, "KeyError is raised when a key is not found.")
REFUSED = Ticket("office", "cancel the invoice", tt.Answer("Not found.", False), "Thank you.")


@pytest.mark.parametrize(
    ("change", "share"),
    [
        ({}, 1.0),
        ({"queue": "howto"}, 0.75),
        ({"subject": "IndexError"}, 0.75),
        ({"draft": "A key is not found."}, 0.75),
        ({"draft": "KeyError needs two administrators and another database server."}, 0.75),
        ({"draft": ""}, 0.75),
        ({"answer": tt.Answer("Not found.", False)}, 0.5),
        ({"queue": "", "subject": "", "draft": "", "answer": tt.Answer("", False)}, 0.0),
    ],
)
def test_each_part_of_a_ticket_counts_alike(change: dict[str, object], share: float) -> None:
    metric = metric_of(triage)
    assert metric is not None
    assert metric(msgspec.structs.replace(RIGHT, **change), LABEL) == share


def test_what_is_for_the_office_is_not_looked_up() -> None:
    metric = metric_of(triage)
    assert metric is not None
    assert metric(REFUSED, OFFICE) == 1.0
    assert metric(msgspec.structs.replace(REFUSED, answer=QUOTED), OFFICE) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("said", "known", "right"),
    [
        ("KeyError", "KeyError", True),
        (" the KeyError", "KeyError", True),
        ("cancelling the contract", "the contract", True),
        ("os.path.basename()", "os.path.basename", True),
        ("basename", "os.path.basename", False),
        ("change the delivery address of the contract", "the contract", False),
        ("", "the contract", False),
    ],
)
def test_a_subject_may_have_two_words_beside_it(said: str, known: str, right: bool) -> None:
    assert same(said, known) is right


def test_an_empty_draft_is_no_draft() -> None:
    assert not drafted(msgspec.structs.replace(RIGHT, draft=""), "KeyError")


# -- the recording -------------------------------------------------------------------------------------------


def test_it_is_found_and_every_item_has_a_label() -> None:
    own = open_recording(triage, "", usual=WHOLE)
    assert own.name == "triage"
    assert len(own) == len(labelled(own)) >= 100
    assert len(recording(split="dev")) == len(recording(split="held_out"))
    assert {item.label.answer["queue"] for item in own} == set(QUEUES)
    assert all(set(item.inputs) == set(triage.inputs) for item in own)


def test_it_is_the_same_every_time() -> None:
    assert digest(recording()) == digest_elsewhere("tauten.examples.triage.recording")


def test_the_halves_share_no_message_no_sentence_and_no_subject() -> None:
    whole = recording()
    assert texts(whole, "dev").isdisjoint(texts(whole, "held_out"))
    assert len(texts(whole, "dev")) == len(recording(split="dev"))
    sentences = [{each for queue in queues(half).values() for each in queue.sentences} for half in HALVES]
    assert sentences[0].isdisjoint(sentences[1])
    topic = clusters(whole)
    of = [{topic[item.id] for item in whole if item.split == half} for half in HALVES]
    assert of[0].isdisjoint(of[1])


def test_a_message_names_its_subject() -> None:
    for item in recording():
        assert item.label.answer["subject"] in str(item.inputs["message"])


@pytest.mark.parametrize("half", HALVES)
def test_the_documents_answer_what_their_labels_say(half: Half) -> None:
    lost = [
        item.id for item in recording(split=half) if item.label.answerable and not answered_by(item.label)
    ]
    assert lost == []


def test_the_quick_set_is_five_of_each_queue_in_each_half() -> None:
    quick = recording(quick=True)
    counts = {(half, queue): 0 for half in HALVES for queue in QUEUES}
    for item in quick:
        counts[item.split, item.tags[0]] += 1  # type: ignore[index]
    assert set(counts.values()) == {5}


# -- on real models ------------------------------------------------------------------------------------------


@pytest.mark.models
def test_a_crash_is_named_and_looked_up() -> None:
    [item] = [each for each in recording(split="dev") if each.id == "dev/crash/ZeroDivisionError/0"]

    async def serve() -> Ticket:
        async with Engine() as engine:
            name = await engine.open(triage, load_plan(NAIVE))
            done = await replay(engine, name, [(item.id, item.inputs)])
            metric = metric_of(triage)
            assert metric is not None
            assert score(metric, triage, done.served[0], item.label) >= 0.5
            ticket: Ticket = answer_of(triage, done.served[0])
            return ticket

    found = asyncio.run(serve())
    assert found.queue in QUEUES
    assert "ZeroDivisionError" in found.subject
    assert found.answer.source == "library/exceptions.rst"
    assert found.draft
