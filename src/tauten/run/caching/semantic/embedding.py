"""Vectors of questions from a model that is a deployment like any other: its queue, its batches, its place in the plan."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from tauten.describe.tokens import token_items
from tauten.plan.plan import Batch, ModelChoice
from tauten.run.request import Request

if TYPE_CHECKING:
    from tauten.clock import Clock
    from tauten.run.deploy.deployments import Deployments

MODEL: Final = ModelChoice(
    model="minilm-l6-v2",
    backend="onnx",
    batch=Batch(max=32),  # as many texts as stages put into one batch
)


class Embedding:
    """The `embed` of a semantic tier. Opened with the first question, and held until it is closed."""

    def __init__(self, deployments: Deployments, clock: Clock, choice: ModelChoice = MODEL) -> None:
        self._deployments = deployments
        self._clock = clock
        self._choice = choice
        self._keys: list[str] = []
        self._opened: asyncio.Future[tuple[Any, Any]] | None = None

    @property
    def revision(self) -> str:
        """What vectors of it may be compared with."""
        return "/".join(
            (self._choice.model, self._choice.variant, self._choice.backend, self._choice.precision)
        )

    async def __call__(self, text: str) -> NDArray[Any]:
        if self._opened is None:
            self._opened = asyncio.ensure_future(self._open())
        deployment, tokenizer = await asyncio.shield(self._opened)
        [item] = token_items(tokenizer, [text])  # some 50 us for a question
        answer = await deployment.infer(Request(self._clock), "semantic", item)
        vector: NDArray[Any] = answer["embedding"]
        return vector

    async def _open(self) -> tuple[Any, Any]:
        files = await self._deployments.files(self._choice)
        return await self._deployments.take(self._keys, self._choice, files), files["tokenizer.json"]

    async def close(self) -> None:
        """Let go of the model."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await asyncio.wait([opened])
        await self._deployments.release(self._keys)
