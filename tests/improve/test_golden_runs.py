"""Golden pairs are run: a plan and what a strategy proposes in its place, and their answers are compared.

Identical ones byte for byte; equivalent ones by their decisions and a tolerance; of lossy ones it is shown what they
may do, and that the gate, not the strategy, has to decide.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import tauten as tt
from improve.kit_golden import WORKFLOWS, Case, cases, situation
from simulate.kit_desk import ITEMS
from tauten.clock import run_virtual
from tauten.describe.workflow import Workflow
from tauten.examples.help_desk.recording import recording
from tauten.improve.optimizer.order import ORDER
from tauten.improve.situation import Proposal
from tauten.plan.hardware import hardware
from tauten.plan.plan import Plan
from tauten.run.engine import Engine

SAME = 1e-3  # of a score: engines round in other orders
ALIKE = 0.8  # of the characters of two texts that may differ


def golden(strategy: str, name: str) -> Case:
    return next(case for case in cases(strategy) if case.name == name)


def proposals(strategy: str, name: str) -> dict[str, Proposal]:
    """What a strategy proposes for a golden situation, by change."""
    [chosen] = [each for each in ORDER if each.name == strategy]
    told = chosen.propose(situation(golden(strategy, name)))
    return {each.change: each for each in told if isinstance(each, Proposal)}


def before(strategy: str, name: str) -> tuple[Workflow[..., Any], Plan]:
    case = golden(strategy, name)
    return WORKFLOWS[case.workflow], situation(case).plan


async def answered(
    engine: Engine, workflow: Workflow[..., Any], plan: Plan, inputs: Mapping[str, Any]
) -> list[Any]:
    name = await engine.open(workflow, plan)
    return [value async for value in engine.stream(inputs, plan=name)]


def answers(workflow: Workflow[..., Any], plan: Plan, *inputs: Mapping[str, Any]) -> list[list[Any]]:
    """On the models that a plan names; requests at the same time, so that batches form."""

    async def main() -> list[list[Any]]:
        async with Engine() as engine:
            return await asyncio.gather(*(answered(engine, workflow, plan, each) for each in inputs))

    return asyncio.run(main())


# -- told models: every proposal -------------------------------------------------------------------------------


def spoken_for(plan: Plan) -> list[bytes]:
    found = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Engine(clock=loop.time) as engine:
            given = [answered(engine, WORKFLOWS["desk"], plan, inputs) for _, inputs in ITEMS]
            found.extend(msgspec.json.encode(each) for each in await asyncio.gather(*given))

    run_virtual(main())
    return found


@pytest.mark.parametrize("strategy", ["overlap", "batch"])
def test_told_models_give_the_same_bytes_under_every_proposal(strategy: str) -> None:
    told = [case.name for case in cases(strategy) if case.workflow == "desk"]
    plans = [each.plan for name in told for each in proposals(strategy, name).values()]
    wanted = spoken_for(before(strategy, told[0])[1])
    assert len(plans) > 0
    assert all(len(each) > 10 for each in wanted)
    for plan in plans:
        assert spoken_for(plan) == wanted


# -- real models -----------------------------------------------------------------------------------------------


def item(id: str) -> dict[str, Any]:
    return dict(next(each for each in recording(quick=True) if each.id == id).inputs)


@pytest.fixture(scope="module")
def photo() -> tt.Image:
    return item("dev/shop/picture-only")["photo"]


@pytest.fixture(scope="module")
def question() -> tt.Audio:
    return item("dev/question/0/spoken")["question"]


def similar(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def agree(one: tt.Labels, other: tt.Labels, within: float) -> None:
    assert one.best.name == other.best.name
    assert one.best.score == pytest.approx(other.best.score, abs=within)


@pytest.mark.models
def test_another_engine_decides_the_same(photo: tt.Image) -> None:
    workflow, plan = before("backend", "back to the first engine")
    after = proposals("backend", "back to the first engine")["classify on onnx"]
    [[one]], [[other]] = (
        answers(workflow, plan, {"photo": photo}),
        answers(workflow, after.plan, {"photo": photo}),
    )
    assert after.answers == "equivalent"
    agree(one, other, SAME)


@pytest.mark.models
def test_a_batch_decides_as_each_alone(photo: tt.Image) -> None:
    workflow, plan = before("batch", "pictures, twenty at once")
    after = proposals("batch", "pictures, twenty at once")["classify in batches of 4"]
    [[alone]] = answers(workflow, plan, {"photo": photo})
    together = answers(workflow, after.plan, *[{"photo": photo}] * 4)
    for [each] in together:
        agree(alone, each, SAME)


@pytest.mark.models
@pytest.mark.skipif("amx" not in hardware().flags, reason="without the units bf16 is emulated, and refused")
def test_shorter_numbers_may_change_scores_and_are_called_lossy(photo: tt.Image) -> None:
    name = "an engine with bf16 and a processor that has it; forms with cards"
    workflow, plan = before("quantize", name)
    after = proposals("quantize", name)["classify in bf16"]
    [[one]], [[other]] = (
        answers(workflow, plan, {"photo": photo}),
        answers(workflow, after.plan, {"photo": photo}),
    )
    assert after.answers == "lossy"
    assert one.best.score != other.best.score, "that is why it is no equivalent change"
    assert one.best.score == pytest.approx(other.best.score, abs=0.1)


@pytest.mark.models
def test_another_form_of_an_encoder_means_nearly_the_same() -> None:
    workflow, plan = before("quantize", "a form of the catalog")
    after = proposals("quantize", "a form of the catalog")["embed as int8"]
    text = {"text": tt.Text("Raised when the second argument of a division is zero.")}
    [[one]], [[other]] = answers(workflow, plan, text), answers(workflow, after.plan, text)
    assert after.answers == "lossy"
    cosine = float((one.array * other.array).sum())
    assert 0.9 < cosine < 0.99999


@pytest.mark.models
def test_less_of_a_picture_reads_nearly_the_same(photo: tt.Image) -> None:
    workflow, plan = before("reduce", "a page")
    after = proposals("reduce", "a page")["ocr: min_row_width = 32"]
    [[one]], [[other]] = (
        answers(workflow, plan, {"photo": photo}),
        answers(workflow, after.plan, {"photo": photo}),
    )
    assert after.answers == "lossy"
    assert one.text
    assert similar(one.text, other.text) > ALIKE


@pytest.mark.models
def test_a_question_is_heard_alike_in_a_shorter_window_and_with_a_bound_that_it_does_not_reach(
    question: tt.Audio,
) -> None:
    workflow, plan = before("reduce", "a question")
    shorter = proposals("reduce", "a question")['transcribe: window = "clip"']
    bounded = proposals("compact", "a spoken question")["transcribe: max_tokens = 64"]
    [[whole]] = answers(workflow, plan, {"question": question})
    [[clip]] = answers(workflow, shorter.plan, {"question": question})
    [[few]] = answers(workflow, bounded.plan, {"question": question})
    assert similar(whole.text, clip.text) > ALIKE
    assert few.text == whole.text


ASKED = {"question": tt.Text("How do I close a file?"), "audience": tt.Text("beginners")}


@pytest.mark.models
def test_a_language_model_says_the_same_whatever_is_kept_guessed_or_cut() -> None:
    """Greedy, so that equal arithmetic is equal text."""
    name = "a template that says the same behind what changes"
    workflow, plan = before("prefix", name)
    plan = plan.edit("generate", settings={"max_tokens": 12}, precision="f32")
    wanted = said(workflow, plan)
    assert wanted
    plans = {
        "prefix": proposals("prefix", name)["generate: prefix_cache = true"],
        "lookup": proposals("lookup", "answers that quote")["generate: prompt_lookup = 3, ngram = 3"],
        "chunk": proposals("chunk", "long prompts, read in steps of 64 tokens")[
            "generate: max_batched_tokens = 256"
        ],
    }
    for strategy, proposal in plans.items():
        changed = proposal.plan.stage("generate").settings
        after = plan.edit("generate", settings={**plan.stage("generate").settings, **changed})
        assert said(workflow, after) == wanted, strategy


def said(workflow: Workflow[..., Any], plan: Plan) -> str:
    [pieces] = answers(workflow, plan, ASKED)
    return "".join(piece.text for piece in pieces)
