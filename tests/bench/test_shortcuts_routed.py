"""Retrieval first and the cascade of make bench-shortcuts: their labels, their workflows, verdicts that can be lost."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from bench.kit_shortcuts import form, rows, section, verdicts
from tauten.describe.said import Said, TokenLogprob
from tauten.errors import StageError
from tauten.examples.document_chat.recording import recording
from tauten.examples.explained import REFUSED, SHORT
from tauten.improve.recording import Document, Label
from tauten.improve.replay import Served
from tauten.run.attribution import attribute
from tauten.run.gating.gate import Labelled
from tauten.run.gating.gates import gate_names, open_gate
from tauten.run.request import Request
from tauten.run.routing.decision import Decision

arms, certified, chat, sorting = (
    importlib.import_module(f"bench.shortcuts.routed.{name}")
    for name in ("arms", "certified", "chat", "sorting")
)
retrieval_first, cascade = (section(name) for name in ("retrieval_first", "cascade"))

LABEL = Label(documents=(Document("a/b.rst", r"(^|> )b\(\)$"),), accept=(("closes the file",),))
QUOTED = "It closes the file after its suite.\n\n[a/b.rst: A > b()]"
SENTENCE = f"{QUOTED}{SHORT}The file is closed after its suite."


# -- retrieval first -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "simple", "right"),
    [
        (QUOTED, True, True),
        (QUOTED, False, False),  # what is complex has to be explained
        (SENTENCE, True, True),
        (SENTENCE, False, True),
        (f"{QUOTED}{SHORT}A rocket was launched by administrators.", True, False),
        (QUOTED.replace("closes", "opens"), True, False),
    ],
)
def test_a_complex_question_wants_a_sentence_of_the_model(text: str, simple: bool, right: bool) -> None:
    assert chat.right(text, LABEL, simple) is right


def test_a_quotation_alone_is_worse_only_where_an_explanation_would_have_been_right() -> None:
    assert chat.would_do(QUOTED, LABEL, simple=True)
    assert not chat.would_do(QUOTED, LABEL, simple=False)
    wrong = QUOTED.replace("closes", "opens")
    assert chat.would_do(wrong, LABEL, simple=True)  # the model explains the same quotation
    assert chat.would_do(wrong, LABEL, simple=False)
    assert chat.would_do(QUOTED, Label(answerable=False), simple=False)  # either path should have refused


def test_what_has_no_answer_must_be_refused() -> None:
    nothing = Label(answerable=False)
    assert chat.right(f"{REFUSED} in the documents: nothing fits.", nothing, False)
    assert not chat.right(QUOTED, nothing, False)


def test_both_halves_are_a_mix_and_no_dev_question_is_measured() -> None:
    _, dev, held_out = retrieval_first._recordings(form.Settings())
    for half in (dev, held_out):
        share = sum(map(chat.is_simple, half)) / len(half)
        assert 0.5 < share < 0.9
    assert {item.split for item in dev} == {"dev"}
    assert {item.split for item in held_out} == {"held_out"}
    assert len({item.id for item in dev}) == len(dev)
    assert not any("again" in item.id for item in dev)  # a gate is certified on draws, not on repeats


def test_the_workflows_ask_the_model_where_they_should() -> None:
    graphs = {each.name: each.graph for each in (chat.searched, chat.model_first, chat.search_first)}
    assert "generate" not in graphs["searched"].stages
    assert {"generate", "quoted", "explained", "choose"} <= set(graphs["search_first"].stages)
    assert "choose" not in graphs["model_first"].stages
    assert chat.same(tt.Text(QUOTED), tt.Text(QUOTED))
    assert not chat.same(tt.Text(QUOTED), tt.Text(SENTENCE))


# -- arms ----------------------------------------------------------------------------------------------------


def served(name: str, value: Any, chosen: str = "", tokens: float = 0.0) -> Served:
    """A request that was served, as far as arms look at it."""
    now = iter(range(100))
    request = Request(lambda: float(next(now)))
    request.trace.end = request.trace.start + 1.0
    if chosen:
        request.trace.routes = (decision(chosen),)
    if tokens:
        request.trace.spend("generate", "output_tokens", tokens)
    return Served(name, [value], request.trace, attribute(request.trace))


def decision(chosen: str) -> Decision:
    import msgspec

    fields: dict[str, Any] = dict.fromkeys((each.name for each in msgspec.structs.fields(Decision)), None)
    return Decision(**{**fields, "step": "choose", "chosen": chosen})


def arm(right: Sequence[bool], chosen: str = "", tokens: float = 0.0) -> Any:
    found = [served(str(number), tt.Text("x"), chosen, tokens) for number in range(len(right))]
    return arms.Arm(found, {str(number): each for number, each in enumerate(right)})


def test_an_arm_knows_who_was_asked_and_what_was_wrong() -> None:
    found = arm([True] * 99 + [False], chosen="quoted")
    assert found.share == pytest.approx(0.99)
    assert len(found.chose("quoted")) == 100
    assert found.chose("explained") == found.made("generate") == []
    wrong, bound = arms.wrong_bound(found, found.chose("quoted"))
    assert wrong == 1
    assert 0.04 < bound < 0.05  # one of a hundred proves at most 4.7 %
    assert arms.wrong_bound(found, []) == (0, None)
    assert len(arm([True], tokens=3.0).made("generate")) == 1


def test_losses_are_judged_item_by_item() -> None:
    good, worse = arm([True] * 100), arm([True] * 80 + [False] * 20)
    assert arms.verdict(good, good, 0.05).decision == "accept"
    assert arms.verdict(good, worse, 0.05).decision == "reject"


def test_a_gate_of_the_bench_is_certified_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path))
    items = [Labelled(0.9, True)] * 100 + [Labelled(0.1, False)] * 100
    items = [items[(7 * number) % 200] for number in range(200)]  # in no order of their labels
    with certified.certified("bench-test", items) as verdict:
        assert verdict.open
        assert 0.1 < verdict.threshold <= 0.9
        assert open_gate("bench-test").allows(0.95)
    assert not open_gate("bench-test").allows(0.95)
    assert "bench-test" not in gate_names()
    with certified.certified("bench-test", items[:20]) as verdict:
        assert not verdict.open


def test_thresholds_are_chosen_by_scores_and_begin_where_a_proof_is_possible() -> None:
    items = [Labelled(number / 200, number % 3 == 0) for number in range(200)]
    found = certified.thresholds(items, 59)
    assert sum(each.score >= found[0] for each in items) == 59
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0.0
    assert found == certified.thresholds([each._replace(correct=True) for each in items], 59)
    assert certified.thresholds(items[:58], 59) == []


# -- verdicts ------------------------------------------------------------------------------------------------


class Kept:
    """What a section's `judge` reads besides rows."""

    def __init__(self, names: Sequence[str], after: Sequence[bool]) -> None:
        self.arms = dict(zip(names, (arm([True] * len(after)), arm(after)), strict=True))


def routed_rows(**ours: float) -> Any:
    usual = {"calls": 50, "simple_p50_ms": 20.0, "taken": 60, "wrong": 1}
    return rows(
        **{
            retrieval_first.MODEL: {"calls": 100, "simple_p50_ms": 500.0},
            retrieval_first.SEARCH: {**usual, **ours},
        }
    )


def test_retrieval_first_can_miss() -> None:
    kept = Kept((retrieval_first.MODEL, retrieval_first.SEARCH), [True] * 100)
    found = routed_rows()
    assert set(verdicts(retrieval_first.judge(kept, found)).values()) == {True}
    assert found[retrieval_first.SEARCH].figures["saved"] == 0.5
    few = verdicts(retrieval_first.judge(kept, routed_rows(calls=90, wrong=6)))
    assert not few["share of model calls saved"]
    assert not few["worse than explained, among those that the search answered"]
    worse = Kept((retrieval_first.MODEL, retrieval_first.SEARCH), [True] * 90 + [False] * 10)
    assert not verdicts(retrieval_first.judge(worse, routed_rows()))["right answers lost, at most with 95 %"]


def cascade_rows(dollars: float, wrong: int = 0, taken: int = 60, gap: int = 0) -> Any:
    return rows(
        **{
            cascade.LARGE: {"dollars": 1.0, "gap_tokens": 0},
            cascade.CASCADE: {"dollars": dollars, "wrong": wrong, "taken": taken, "gap_tokens": gap},
        }
    )


def test_the_cascade_can_miss() -> None:
    kept = Kept((cascade.LARGE, cascade.CASCADE), [True] * 100)
    assert set(verdicts(cascade.judge(kept, cascade_rows(0.5))).values()) == {True}
    dear = verdicts(cascade.judge(kept, cascade_rows(0.7, wrong=9, gap=1)))
    assert [name for name, met in dear.items() if not met] == [
        "cost of the cascade, of the large one's",
        "wrong among those that the small one answered",
        "tokens that the books differ by",
    ]
    nothing = verdicts(cascade.judge(kept, cascade_rows(1.0, taken=0)))
    assert nothing["wrong among those that the small one answered"] is None


# -- the cascade ---------------------------------------------------------------------------------------------


def test_messages_have_the_queue_that_they_were_made_for() -> None:
    dev, held_out = sorting.messages("dev", 1), sorting.messages("held_out", 1)
    assert {each.queue for each in dev} == set(sorting.QUEUES)
    assert len(dev) == len(held_out) == 192
    assert not {each.text for each in dev} & {each.text for each in held_out}
    assert dev == sorting.messages("dev", 1)
    assert dev != sorting.messages("dev", 2)


def test_the_examples_prompt_is_told_as_turns() -> None:
    first, *turns = sorting.conversation()
    assert first["role"] == "system"
    assert "howto" in first["content"]
    assert [each["role"] for each in turns] == ["user", "assistant"] * 9
    assert {each["content"] for each in turns[1::2]} == set(sorting.QUEUES)
    assert not any("{{" in each["content"] for each in turns)


def test_answers_are_the_same_where_they_name_the_same_queue() -> None:
    assert sorting.same(tt.Text("crash\n"), tt.Text("Crash"))
    assert not sorting.same(tt.Text("howto"), tt.Text("crash"))
    assert sorting.queue_of("I do not know") == "office"


def test_a_label_of_the_gate_is_what_the_small_model_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "a": [Said("crash", (TokenLogprob(b"crash", -0.1),))],
        "b": [Said("howto", (TokenLogprob(b"howto", -2.0),))],
    }
    dev = [sorting.Message("a", "crash"), sorting.Message("b", "office")]

    async def run(workflow: Any, asked: Sequence[Any], *more: Any) -> Any:
        done = [served(each.name, None) for each in asked]
        for one, message in zip(done, dev, strict=True):
            one.values[:] = said[message.text]
        return arms.Arm(done, {})

    monkeypatch.setattr(cascade.arms, "run", run)
    found = asyncio.run(cascade.labels(dev, sorting))
    assert [each.correct for each in found] == [True, False]
    assert found[0].score > found[1].score


def test_a_request_that_fails_is_a_wrong_answer() -> None:
    @tt.stage(pure=True)
    async def only_short(text: str) -> str:
        if len(text) > 3:
            raise ValueError(text)
        return text

    @tt.workflow
    def short(text: str) -> str:
        return only_short(text)

    asked = [
        arms.Asked(each, {"text": each}, lambda answer: answer == "one") for each in ("one", "two", "three")
    ]
    found = asyncio.run(arms.run(short, asked))
    assert found.scores == {"one": True, "two": False, "three": False}
    assert isinstance(found.served[2].error, StageError)
    assert found.p50_ms(["nobody"]) is None


@pytest.mark.models
def test_the_search_labels_what_it_would_have_answered() -> None:
    dev = [item for item in recording(split="dev") if "first" in item.tags][:12]
    found = asyncio.run(retrieval_first.labels(dev))
    assert len(found) == len(dev)
    assert any(each.correct for each in found)
    assert all(0.0 <= each.score <= 1.0 for each in found)


@pytest.mark.models
def test_a_small_cascade_with_the_local_model_and_a_priced_stand_in() -> None:
    """Quick, so that the gate stays closed: every message goes on to the large one, and the books have it to the token."""
    settings = form.Settings(quick=True, rounds=1)

    async def main() -> Any:
        from bench.kit_shortcuts import rounds

        async with cascade.opened(settings) as found:
            return await rounds.measured(found, settings)

    found = asyncio.run(main())
    assert [row.reason for row in found.rows] == ["", "", ""]
    by_name = {row.name: row for row in found.rows}
    assert by_name[cascade.LARGE].get("right") == 1.0
    assert by_name[cascade.LARGE].get("asked_large") == 1.0
    assert by_name[cascade.SMALL].get("asked_large") == 0.0
    assert (by_name[cascade.LARGE].get("dollars") or 0) > 0
    assert verdicts(found.checks)["tokens that the books differ by"]
