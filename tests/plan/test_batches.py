"""Limits of batches where a plan says nothing: by what a stage takes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.describe.stage import Role, StageKind, stage
from tauten.describe.stages import detect_speech, embed, generate, ocr, quote, retrieve, speak, transcribe
from tauten.plan.batches import DEFAULTS, modality
from tauten.plan.lower import model_choices
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.engine import Engine

MODEL = {"model": Role("none", ("synthetic",))}


@stage(roles=MODEL, effects="pure")
async def read(q: tt.Text, ctx: tt.Context) -> int:
    return len(await ctx.infer("model", q))


@stage(roles=MODEL, effects="pure")
async def plain(q: int, ctx: tt.Context) -> int:
    return len(await ctx.infer("model", q))


@tt.workflow
def reading(q: tt.Text) -> int:
    return read(q)  # type: ignore[arg-type,return-value]


def limits(kind: StageKind[..., Any], plan: StagePlan | None = None) -> dict[str, Batch]:
    chosen = model_choices(kind, plan or StagePlan(), {})
    return {role: choice.batch for role, choice in chosen.items()}


@pytest.mark.parametrize(
    ("kind", "takes"),
    [
        (transcribe.transcribe, "audio"),
        (ocr.ocr, "image"),
        (embed.embed, "text"),
        (retrieve.retrieve, "text"),
        (quote.quote, "text"),
        (generate.generate, "text"),
        (read, "text"),
        (plain, ""),
    ],
)
def test_what_a_stage_takes(kind: StageKind[..., Any], takes: str) -> None:
    assert modality(kind) == takes
    wanted = DEFAULTS.get(takes, Batch(max=1))
    assert set(limits(kind).values()) == {wanted}


def test_models_without_a_batch_axis_run_alone() -> None:
    assert limits(speak.speak)["voice"] == Batch(max=1)
    assert limits(detect_speech.detect_speech)["model"] == Batch(max=1)


def test_the_plan_comes_first_and_defaults_fill_the_rest() -> None:
    text = DEFAULTS["text"]
    assert limits(read, StagePlan(batch=Batch(max=1)))["model"] == Batch(max=1)
    assert limits(read, StagePlan(batch=Batch(max=8)))["model"] == Batch(max=8), "no bound of weight"
    assert limits(read, StagePlan(batch=Batch(wait="off")))["model"] == Batch(text.max, "off", text.weight)
    assert limits(read, StagePlan(batch=Batch(weight=5.0)))["model"] == Batch(text.max, weight=5.0)
    role = StagePlan(batch=Batch(max=8), roles={"model": ModelChoice(batch=Batch(max=2))})
    assert limits(read, role)["model"] == Batch(max=2)


@pytest.mark.parametrize(("batch", "largest"), [(Batch(), 32), (Batch(max=1), 1), (Batch(max=4), 4)])
def test_requests_that_wait_together_share_a_run(batch: Batch, largest: int) -> None:
    async def body(engine: Engine) -> None:
        options = {"ms_per_batch": 10.0}
        choice = ModelChoice(options=options, batch=batch)
        await engine.open(reading, Plan(stages={"read": StagePlan(roles={"model": choice})}))
        await asyncio.gather(*[engine.run({"q": "why?"}) for _ in range(40)])
        (view,) = engine.deployments.views().values()
        assert max(view.batch_sizes) == largest

    virtual(body)
