"""Questions embedded by a deployment, and a cache by likeness with a real model: what hits, what a threshold would let pass."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tauten as tt
from kit.likeness import ALIKE, ASKED, OTHER, forget_gates
from tauten.examples.paraphrases import pairs
from tauten.improve.proving import Pair, prove
from tauten.plan.plan import CachePlan, Plan, SemanticPlan, StagePlan
from tauten.run.caching.semantic.checks import refusal
from tauten.run.caching.semantic.embedding import CAUSE, Embedding, Nobody, choice_of
from tauten.run.caching.semantic.gate import ASKING
from tauten.run.caching.semantic.opening import gate_of
from tauten.run.engine import Engine
from tauten.run.gating import gates
from tauten.run.request import Request
from tauten.run.retrieval.embedder import embedder

RULES = SemanticPlan(epsilon=0.05)  # 59 hits without an error prove it: the held-out half has more


@tt.stage(pure=True)
async def reply(question: tt.Text) -> str:
    return "so" if "password" in question.text else question.text


@tt.workflow
def desk(question: tt.Text) -> str:
    return reply(question)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Gates of their own; the models are those of this machine."""
    monkeypatch.setattr(gates, "default_root", lambda: tmp_path)
    yield tmp_path
    forget_gates(tmp_path)


@pytest.mark.models
def test_vectors_are_those_of_the_model_and_a_threshold_alone_passes_traps_that_checks_refuse() -> None:
    chosen = [pair for pair in pairs("dev") if pair.kind in ("paraphrase", "negation", "order")]
    texts = sorted({text for pair in chosen for text in (pair.kept, pair.asked)})

    async def main() -> dict[str, np.ndarray]:
        async with Engine() as engine:
            embed = Embedding(engine.deployments, engine.clock)
            ask = Nobody("reply", Request(engine.clock))
            token = ASKING.set(ask)
            each = await asyncio.gather(*(embed(text) for text in texts))
            ASKING.reset(token)
            assert {cause for _, cause, _, _ in ask.request.trace.rows} >= {CAUSE, "queue"}
            assert max(size for _, size, _ in ask.request.trace.batches) > 1, "they share batches"
            await embed.close()
            assert not engine.deployments.views(), "the model is let go of"
            return dict(zip(texts, each, strict=True))

    vectors = asyncio.run(main())
    direct = embedder()(texts)
    for text, vector in zip(texts, direct, strict=True):
        assert np.allclose(vectors[text], vector, atol=1e-3)
        assert np.linalg.norm(vectors[text]) == pytest.approx(1.0, abs=1e-5)
    scores = {pair: float(vectors[pair.kept] @ vectors[pair.asked]) for pair in chosen}
    threshold = float(np.median([score for pair, score in scores.items() if pair.same]))
    traps = [pair for pair in chosen if not pair.same and scores[pair] >= threshold]
    assert traps, "a threshold that half of the paraphrases pass lets traps pass"
    assert all(refusal(pair.kept, pair.asked)[0] for pair in traps)


@pytest.mark.models
def test_proved_on_the_example_a_paraphrase_hits_a_trap_does_not_and_a_restart_remembers(
    folder: Path,
) -> None:
    """From the recording's held-out half to a served hit, with nothing in between but the plan."""
    assert desk.graph is not None
    rules = CachePlan(tiers=("memory", "semantic"), semantic=RULES)
    plan = Plan(graph=desk.graph.hash, stages={"reply": StagePlan(cache=rules)})

    async def certify() -> None:
        async with Engine() as engine:
            embed = Embedding(engine.deployments, engine.clock, choice_of(RULES))
            labelled = [Pair(each.kept, each.asked, each.same, each.split) for each in pairs()]
            gate = gate_of("desk", "reply", RULES)
            proved = await prove(gate, embed, labelled)
            gate.flush()
            await embed.close()
            assert proved.open, proved.verdicts

    async def served() -> None:
        async with Engine() as engine:
            await engine.open(desk, plan)
            caches = engine.deployments.caches
            [tier] = caches.likes.every()
            tier._draw = lambda: 0.999  # type: ignore[attr-defined]
            found = []
            for text in (ASKED, ALIKE, OTHER):
                answer = await engine.run(desk.bind(text))
                await caches.settled()
                found.append((answer.value, answer.trace.notes["reply:likeness"].partition(";")[0]))
            assert found == [("so", "none"), ("so", "semantic"), (OTHER, "none")]
            assert tier.hits == 1

    asyncio.run(certify())
    forget_gates(folder)
    asyncio.run(served())
    forget_gates(folder)
    asyncio.run(served())
