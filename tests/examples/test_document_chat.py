"""The document chat: what is drawn, what its recording holds, what its metric takes for right."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import tauten as tt
from examples.kit_recordings import accepted_share, answered_by, digest, digest_elsewhere, texts
from tauten.describe.passages import Chunk
from tauten.examples.document_chat import chat
from tauten.examples.document_chat.chat import document_chat, is_prose, quotation
from tauten.examples.document_chat.recording import HALVES, Half, asked, recording, topics
from tauten.examples.explained import REFUSED, SHORT, covered
from tauten.improve.labelled import WHOLE, answer_of, clusters, labelled, metric_of, open_recording, scores
from tauten.improve.recording import Document, Label
from tauten.improve.replay import replay
from tauten.plan.lower import lower
from tauten.plan.plan import load_plan
from tauten.run.engine import Engine

NAIVE = Path(chat.__file__).with_name("naive.toml")


# -- the workflow --------------------------------------------------------------------------------------------


def test_the_model_is_asked_only_of_prose() -> None:
    graph = document_chat.graph
    assert graph is not None
    assert set(graph.stages) >= {"retrieve", "quote", "is_prose", "generate", "reply"}
    assert document_chat.streams


def test_the_naive_plan_fits_the_workflow() -> None:
    graph = document_chat.graph
    assert graph is not None
    lowered = lower(graph, load_plan(NAIVE))
    by_name = {step.name: step for step in lowered.steps}
    assert by_name["retrieve"].models["embed"].batch.max == 1
    assert "prefix_cache" not in by_name["generate"].plan.settings


@pytest.mark.parametrize(("kind", "prose"), [("section", True), ("definition", False), ("term", False)])
def test_definitions_answer_by_themselves(kind: str, prose: bool) -> None:
    chunk = Chunk("a.rst", ("A",), (), kind=kind)  # type: ignore[arg-type]
    passage = tt.Passage(chunk, 1.0, 0.9, 3.0, 1)
    assert is_prose(tt.Found("why?", (passage,))) is prose
    assert is_prose(tt.Found("why?", (passage,), refused=True)) is False
    assert is_prose(tt.Found("why?")) is False


def test_a_quotation_names_its_place_and_a_refusal_has_none() -> None:
    found = tt.Answer("Use it.", True, code="it()", source="a/b.rst", titles=("A", "b()"))
    assert quotation(found) == "Use it.\n\nit()\n\n[a/b.rst: A > b()]"
    assert quotation(tt.Answer("Not found.", False, source="a/b.rst", titles=("A",))) == "Not found."


# -- the metric ----------------------------------------------------------------------------------------------

LABEL = Label(documents=(Document("a/b.rst", r"(^|> )b\(\)$"),), accept=(("closes the file",),))
QUOTED = "It closes the file after its suite.\n\n[a/b.rst: A > b()]"
ELSEWHERE = "It closes the file after its suite.\n\n[a/c.rst: A > b()]"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (QUOTED, True),
        (QUOTED + SHORT + "The file is closed after its suite.", True),
        (QUOTED + SHORT + "A database server must be restarted by administrators.", False),
        (QUOTED + SHORT, False),
        (ELSEWHERE, False),
        (QUOTED.replace("closes", "opens"), False),
        ("It is open.\n\n[a/b.rst: A > b()]" + SHORT + "It closes the file.", False),
        ("It closes the file after its suite.", False),
        (f"{REFUSED} in the documents: nothing fits. It closes the file. [a/b.rst: A > b()]", True),
    ],
    ids="quoted closed foreign silent elsewhere other-words only-the-model no-place cited".split(),
)
def test_a_right_answer_quotes_the_right_place_and_adds_nothing(answer: str, right: bool) -> None:
    metric = metric_of(document_chat)
    assert metric is not None
    assert metric(tt.Text(answer), LABEL) == right


def test_what_has_no_answer_must_be_refused() -> None:
    metric = metric_of(document_chat)
    assert metric is not None
    assert metric(tt.Text(f"{REFUSED} in the documents of x: nothing fits."), Label(answerable=False)) == 1.0
    assert metric(tt.Text(QUOTED), Label(answerable=False)) == 0.0
    assert metric(tt.Text(f"{REFUSED} in the documents of x: nothing fits."), LABEL) == 0.0


def test_three_of_four_words_must_be_quoted() -> None:
    assert covered("alpha beta gamma rocket", "gamma beta alpha")
    assert not covered("alpha beta rocket", "gamma beta alpha")
    assert not covered(" it is ", "it is")


# -- the recording -------------------------------------------------------------------------------------------


def test_it_is_found_and_every_item_has_a_label() -> None:
    own = open_recording(document_chat, "", usual=WHOLE)
    assert own.name == "document_chat"
    assert len(own) == len(labelled(own)) >= 300
    assert all(set(item.inputs) == set(document_chat.inputs) for item in own)


def test_it_is_the_same_every_time() -> None:
    assert digest(recording()) == digest_elsewhere("tauten.examples.document_chat.recording")


def test_the_halves_share_no_question_and_no_topic() -> None:
    whole = recording()
    assert texts(whole, "dev").isdisjoint(texts(whole, "held_out"))
    topic = clusters(whole)
    of = {half: {topic[item.id] for item in whole if item.split == half} for half in HALVES}
    shared = of["dev"] & of["held_out"]
    assert all(name.startswith("refused-") for name in shared)  # numbered in each half anew


@pytest.mark.parametrize("half", HALVES)
def test_three_in_ten_resemble_an_earlier_one(half: Half) -> None:
    items = list(recording(split=half))
    repeated = sum("repeated" in item.tags for item in items) / len(items)
    reworded = sum("reworded" in item.tags for item in items) / len(items)
    assert 0.14 <= repeated <= 0.28
    assert 0.04 <= reworded <= 0.14
    prose = sum("prose" in item.tags for item in items) / len(items)
    assert 0.2 <= prose <= 0.35  # the share that the language model answers


def test_a_repeat_comes_after_what_it_repeats_in_the_same_words() -> None:
    said: dict[str, str] = {}
    for item in recording():
        first, _, again = item.id.partition("/again-")
        assert bool(again) == (first in said) == ("repeated" in item.tags)
        assert said.setdefault(first, str(item.inputs["question"])) == str(item.inputs["question"])


def test_other_words_ask_the_same() -> None:
    label = {}
    for item in recording():
        assert label.setdefault((item.split, clusters([item])[item.id]), item.label) == item.label
    assert len(label) == sum(len(topics(half)) for half in HALVES)


@pytest.mark.parametrize("half", HALVES)
def test_popular_topics_are_asked_most(half: Half) -> None:
    counts: dict[str, int] = {}
    for each in asked(half):
        counts[each.topic.name] = counts.get(each.topic.name, 0) + 1
    assert max(counts.values()) >= 5
    assert sorted(counts.values())[len(counts) // 2] == 1


def test_the_quick_set_is_thirty_of_each_half() -> None:
    quick = recording(quick=True)
    assert [sum(item.split == half for item in quick) for half in HALVES] == [30, 30]
    assert quick[0].at_s == 0.0


@pytest.mark.parametrize("half", HALVES)
def test_the_documents_answer_every_topic_where_its_label_says(half: Half) -> None:
    lost = [each.name for each in topics(half) if each.label.answerable and not answered_by(each.label)]
    assert lost == []


@pytest.mark.parametrize("half", HALVES)
def test_no_label_accepts_just_anything(half: Half) -> None:
    loose = {each.name: share for each in topics(half) if (share := accepted_share(each.label)) > 0.04}
    assert loose == {}


# -- on real models ------------------------------------------------------------------------------------------

CHOSEN = ("dev/KeyError/0", "dev/worker-threads/0", "dev/refused-10/0")


@pytest.mark.models
def test_a_definition_prose_and_a_refusal() -> None:
    items = [item for item in recording(split="dev") if item.id in CHOSEN]
    assert len(items) == len(CHOSEN)

    async def serve() -> dict[str, str]:
        async with Engine() as engine:
            name = await engine.open(document_chat, load_plan(NAIVE))
            done = await replay(engine, name, [(item.id, item.inputs) for item in items])
            metric = metric_of(document_chat)
            assert metric is not None
            assert set(scores(metric, document_chat, done.served, items)) == set(CHOSEN)
            assert [each.error for each in done.served] == [None] * len(CHOSEN)
            return {each.id: str(answer_of(document_chat, each)) for each in done.served}

    said = asyncio.run(serve())
    definition, prose, refusal = (said[id] for id in CHOSEN)
    assert "library/exceptions.rst" in definition
    assert SHORT not in definition
    assert prose.partition(SHORT)[2].strip()
    assert refusal.startswith(REFUSED)
    assert SHORT not in refusal
