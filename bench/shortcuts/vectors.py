"""Vectors of questions from the model that our semantic tier embeds with: all caches of a comparison see the same ones."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from tauten.run.caching.semantic.embedding import Embedding
from tauten.run.engine import Engine

Vectors = Mapping[str, NDArray[Any]]


@contextlib.asynccontextmanager
async def embedding() -> AsyncIterator[Embedding]:
    """The model as a deployment, as a server opens it."""
    async with Engine() as engine:
        found = Embedding(engine.deployments, engine.clock)
        try:
            yield found
        finally:
            await found.close()


async def vectors(texts: Sequence[str]) -> Vectors:
    """A vector of length one for each text."""
    async with embedding() as embed:
        return {text: await embed(text) for text in dict.fromkeys(texts)}
