"""Questions embedded by a deployment: the vectors that the model gives, and what a threshold alone would let pass."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tauten.examples.paraphrases import pairs
from tauten.run.caching.semantic.checks import refusal
from tauten.run.caching.semantic.embedding import Embedding
from tauten.run.engine import Engine
from tauten.run.retrieval.embedder import embedder


@pytest.mark.models
def test_vectors_are_those_of_the_model_and_a_threshold_alone_passes_traps_that_checks_refuse() -> None:
    chosen = [pair for pair in pairs("dev") if pair.kind in ("paraphrase", "negation", "order")]
    texts = sorted({text for pair in chosen for text in (pair.kept, pair.asked)})

    async def main() -> dict[str, np.ndarray]:
        async with Engine() as engine:
            embed = Embedding(engine.deployments, engine.clock)
            found = dict(zip(texts, await asyncio.gather(*(embed(text) for text in texts)), strict=True))
            await embed.close()
            assert not engine.deployments.views(), "the model is let go of"
            return found

    vectors = asyncio.run(main())
    direct = embedder()(texts)
    for text, vector in zip(texts, direct, strict=True):
        assert np.allclose(vectors[text], vector, atol=1e-3)
    scores = {pair: float(vectors[pair.kept] @ vectors[pair.asked]) for pair in chosen}
    threshold = float(np.median([score for pair, score in scores.items() if pair.same]))
    traps = [pair for pair in chosen if not pair.same and scores[pair] >= threshold]
    assert traps, "a threshold that half of the paraphrases pass lets traps pass"
    assert all(refusal(pair.kept, pair.asked)[0] for pair in traps)
