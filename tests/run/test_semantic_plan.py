"""What a plan may say of a cache by likeness, what is refused, and what it is named by."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tauten as tt
from kit.likeness import Letters, without_model
from kit.virtual import virtual
from tauten.describe.stage import stage
from tauten.errors import PlanError
from tauten.explain.planned import planned_text
from tauten.plan.caching import check_rules
from tauten.plan.likeness import likeness_rules
from tauten.plan.lower import lower
from tauten.plan.plan import CachePlan, Plan, SemanticPlan, StagePlan, format_plan, parse_plan
from tauten.run.caching.semantic.opening import about, gate_name, gate_of
from tauten.run.engine import Engine

BOTH = ("memory", "semantic")


@stage(pure=True)
async def reply(question: tt.Text, passages: list[str]) -> str:
    return question.text


@stage(pure=True)
async def spelled(number: int) -> str:
    return str(number)


@stage(pure=True)
async def two_texts(question: tt.Text, style: str) -> str:
    return question.text


@stage(pure=True)
async def seen(photo: tt.Image) -> str:
    return "a photo"


@tt.workflow
def desk(question: tt.Text, passages: list[str]) -> str:
    return reply(question, passages)


@tt.workflow
def numbers(number: int) -> str:
    return spelled(number)


@tt.workflow
def two(question: tt.Text, style: str) -> str:
    return two_texts(question, style)


@tt.workflow
def photos(photo: tt.Image) -> str:
    return seen(photo)


@tt.workflow
def generated(question: tt.Text, passage: tt.Text) -> str:
    return tt.generate("Answer {{ question }} from {{ passage }}", question=question, passage=passage)


@tt.workflow
def talk(messages: list[dict[str, Any]]) -> str:
    return tt.chat(messages)


def planned(workflow: Any, step: str, **how: Any) -> Plan:
    rules = CachePlan(tiers=BOTH, semantic=SemanticPlan(**how))
    return Plan(graph=workflow.graph.hash, stages={step: StagePlan(cache=rules)})


def test_a_plan_file_says_it_and_is_written_as_it_was_read() -> None:
    text = (
        'tauten = "plan/1"\n[stage.reply]\n'
        'cache = { tiers = ["memory", "semantic"], semantic = { field = "question", epsilon = 0.05, gate = "desk" } }\n'
    )
    plan = parse_plan(text)
    rules = plan.stage("reply").cache
    assert isinstance(rules, CachePlan)
    assert rules.semantic == SemanticPlan(field="question", epsilon=0.05, gate="desk")
    again = parse_plan(format_plan(plan))
    assert again.stage("reply") == plan.stage("reply")
    assert again.id == plan.id


def test_the_usual_rules_are_those_that_nobody_has_to_say() -> None:
    assert likeness_rules(CachePlan(tiers=BOTH)) == SemanticPlan()
    assert likeness_rules(CachePlan()) is None


def test_plans_that_promise_something_else_are_other_plans() -> None:
    plain, strict = planned(desk, "reply"), planned(desk, "reply", epsilon=0.01)
    assert (
        len({plain.id, strict.id, Plan(graph=plain.graph, stages={"reply": StagePlan(cache=True)}).id}) == 3
    )


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (CachePlan(semantic=SemanticPlan()), 'no tier "semantic"'),
        (CachePlan(tiers=("semantic",)), "before it has looked for what is the same"),
        (CachePlan(tiers=("memory", "semantic", "disk")), "before it has looked for what is the same"),
        (CachePlan(tiers=BOTH, semantic=SemanticPlan(epsilon=0.0)), "epsilon"),
        (CachePlan(tiers=BOTH, semantic=SemanticPlan(epsilon=0.5)), "epsilon"),
        (CachePlan(tiers=BOTH, semantic=SemanticPlan(confidence=1.0)), "confidence"),
        (CachePlan(tiers=BOTH, semantic=SemanticPlan(confidence=0.5)), "confidence"),
        (CachePlan(tiers=BOTH, semantic=SemanticPlan(shadow=0.0)), "shadow"),
        (CachePlan(tiers=BOTH, semantic=SemanticPlan(agree=1.1)), "agree"),
        (CachePlan(tiers=BOTH, semantic=SemanticPlan(threads=-1)), "threads"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules: CachePlan, words: str) -> None:
    with pytest.raises(PlanError, match="E135") as refused:
        check_rules(rules, "stage 'reply'")
    assert words in refused.value.message


def test_rules_at_their_bounds_are_taken() -> None:
    check_rules(CachePlan(tiers=BOTH, semantic=SemanticPlan(shadow=1.0, agree=1.0, confidence=0.99)))
    check_rules(CachePlan(tiers=("memory", "disk", "semantic")))


@pytest.mark.parametrize(
    ("workflow", "step", "how", "words"),
    [
        (desk, "reply", {"field": "answer"}, "no input of it"),
        (desk, "reply", {"category": "kind"}, "no input of it"),
        (numbers, "spelled", {"field": "number"}, "nobody words otherwise"),
        (photos, "seen", {"field": "photo"}, "nobody words otherwise"),
        (desk, "reply", {"field": "passages"}, "nobody words otherwise"),
        (photos, "seen", {}, "none of its inputs is surely one text"),
        (two, "two_texts", {}, "2 of its inputs are text"),
        (generated, "generate", {}, "which of them may be worded otherwise"),
        (talk, "chat", {}, "none of its inputs is surely one text"),
    ],
)
def test_a_stage_that_nobody_asks_in_words_has_no_such_cache(
    workflow: Any, step: str, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError, match="E135") as refused:
        lower(workflow.graph, planned(workflow, step, **how))
    assert words in refused.value.message
    assert step in refused.value.where


@pytest.mark.parametrize(
    ("workflow", "step", "how"),
    [
        (desk, "reply", {}),
        (two, "two_texts", {"field": "question", "category": "style"}),
        (generated, "generate", {"field": "question"}),
        (talk, "chat", {"field": "messages"}),
    ],
)
def test_a_stage_that_is_asked_in_words_has_one(workflow: Any, step: str, how: dict[str, Any]) -> None:
    lower(workflow.graph, planned(workflow, step, **how))


def test_a_field_that_is_misspelled_is_found() -> None:
    with pytest.raises(PlanError, match="did you mean `question`"):
        lower(desk.graph, planned(desk, "reply", field="questoin"))  # type: ignore[arg-type]


def test_explain_says_what_is_promised() -> None:
    assert desk.graph is not None
    text = planned_text(
        "desk", lower(desk.graph, planned(desk, "reply", epsilon=0.005, field="question")), {}
    )
    said = " ".join(text.split())
    assert "answers by likeness of question (minilm-l6-v2): at most 0.5% wrong with 95% confidence" in said
    plain = Plan(graph=desk.graph.hash, stages={"reply": StagePlan(cache=True)})
    assert "likeness" not in planned_text("desk", lower(desk.graph, plain), {})


# -- its gate ---------------------------------------------------------------------------------------------


def test_a_gate_is_named_by_the_workflow_and_the_stage_unless_the_plan_names_it() -> None:
    assert gate_name("desk", "reply", SemanticPlan()) == "desk.reply"
    assert gate_name("desk", "read/reply@12", SemanticPlan()) == "desk.read-reply-12"
    assert gate_name("desk", "reply", SemanticPlan(gate="ours")) == "ours"
    assert len(gate_name("d" * 80, "reply", SemanticPlan())) == 64


def test_scores_of_another_model_or_field_are_another_evidence() -> None:
    names = [
        about(SemanticPlan(**how)) for how in ({}, {"field": "q"}, {"model": "other"}, {"variant": "int8"})
    ]
    assert len(set(names)) == 4
    assert about(SemanticPlan(epsilon=0.1, gate="x")) == names[0]


def test_what_was_proved_for_another_promise_or_model_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kit.likeness import proved

    with without_model(monkeypatch, tmp_path):
        rules = SemanticPlan(gate="desk")
        assert proved("w", "s", rules).opens()
        assert gate_of("w", "s", rules).opens(), "the same gate"
        for how in ({"epsilon": 0.01}, {"confidence": 0.99}, {"model": "other"}, {"field": "question"}):
            assert not gate_of("w", "s", SemanticPlan(gate="desk", **how)).opens(), how  # type: ignore[arg-type]


# -- opening ----------------------------------------------------------------------------------------------


def test_a_model_is_opened_with_the_plan_and_none_where_likeness_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(engine: Engine) -> None:
        assert desk.graph is not None
        await engine.open(desk, Plan(graph=desk.graph.hash, stages={"reply": StagePlan(cache=True)}))
        assert Letters.opened == 0
        await engine.swap(desk, planned(desk, "reply"))
        assert Letters.opened == 1
        [seen] = engine.deployments.caches.seen().values()
        assert list(seen.tiers) == ["memory", "semantic"]
        await engine.swap(desk, Plan(graph=desk.graph.hash, stages={"reply": StagePlan(cache=True)}))
        [seen] = engine.deployments.caches.seen().values()
        assert list(seen.tiers) == ["memory"]

    with without_model(monkeypatch, tmp_path):
        virtual(body)


def test_a_model_that_gives_no_vector_is_refused_when_the_plan_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The synthetic backend has no tokenizer: it embeds nothing."""
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path))

    async def body(engine: Engine) -> None:
        with pytest.raises(PlanError, match="has no tokenizer") as refused:
            await engine.open(desk, planned(desk, "reply", model="echo", backend="synthetic"))
        assert refused.value.code == "E135"
        assert not engine.deployments.views(), "nothing is left open"

    virtual(body)


# -- what counts as the same answer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "share", "agree"),
    [
        ("Ten days.", "Ten  days", 1.0, True),
        ("a = b", "a == b", 1.0, False),
        ("Ten days.", "ten days", 1.0, False),
        (tt.Text("Ten days."), "Ten days.", 1.0, True),
        ("You have ten days to send it back.", "You have 10 days to send it back", 0.8, True),
        ("You have ten days to send it back.", "You have 12 days to send it back", 0.5, False),
        ("You can send it back.", "You can not send it back.", 0.5, False),
        ("Press the red button.", "Write to our office.", 0.5, False),
        ("", "", 0.5, True),
        ({"a": 1}, {"a": 1}, 1.0, True),
        ({"a": 1}, {"a": 2}, 0.1, False),
        (np.ones(3), np.ones(3), 1.0, True),
        (object(), object(), 0.1, False),
    ],
)
def test_answers_are_as_good_where_they_say_the_same(one: Any, other: Any, share: float, agree: bool) -> None:
    from tauten.run.caching.semantic import sameness

    assert sameness.agree(one, other, share) is agree
    assert sameness.agree(other, one, share) is agree


def test_a_stage_may_say_what_is_as_good_and_what_raises_is_not() -> None:
    import asyncio

    from tauten.run.caching.semantic.sameness import sameness

    def same(one: str, other: str) -> bool:
        return int(one) == int(other)

    @stage(pure=True, same=same)
    async def digits(text: str) -> str:
        return text

    judge = sameness(digits, 1.0)

    async def main() -> list[bool]:
        return [await judge("7", "07"), await judge("7", "8"), await judge("7", "seven")]

    assert asyncio.run(main()) == [True, False, False]
