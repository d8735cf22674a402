"""Vectors of questions from a model that is a deployment like any other: its queue, its batches, its place in the plan."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tauten.describe.tokens import token_items
from tauten.errors import PlanError
from tauten.plan.likeness import USUAL
from tauten.plan.plan import Batch, ModelChoice, SemanticPlan
from tauten.run.caching.naming import content_name
from tauten.run.caching.semantic.gate import ASKING
from tauten.run.deploy.deployment import Deployment
from tauten.run.request import Request

if TYPE_CHECKING:
    from tauten.clock import Clock
    from tauten.run.deploy.deployments import Deployments

CAUSE: Final = "embed"  # the time of it, in traces
BATCH: Final = Batch(max=32)  # as many texts as stages put into one batch
TRIED: Final = (
    "How do I reset my password?"  # as long as what is asked: the first run of a model is its slowest
)


def choice_of(rules: SemanticPlan) -> ModelChoice:
    """The model that a plan names for it."""
    return ModelChoice(
        model=rules.model,
        variant=rules.variant,
        backend=rules.backend,
        precision=rules.precision,
        threads=rules.threads,
        batch=BATCH,
    )


MODEL: Final = choice_of(USUAL)


class Nobody(NamedTuple):
    """Who asks when nobody does: a plan is opened, a gate is proved."""

    name: str
    request: Request


class _Opened(NamedTuple):
    """The model at work."""

    deployment: Deployment
    tokenizer: Path
    weights: str


def revision_of(choice: ModelChoice) -> str:
    """What evidence about its scores is of: the model, and how it is computed."""
    return "/".join((choice.model, choice.variant, choice.backend, choice.precision))


class Embedding:
    """The `embed` of a semantic tier: a function from a text to a vector of length one.

    The model is opened with the first question, or before, by `open`. It is held by `keys`; without, until it is closed.
    """

    def __init__(
        self,
        deployments: Deployments,
        clock: Clock,
        choice: ModelChoice = MODEL,
        keys: list[str] | None = None,
    ) -> None:
        self._deployments = deployments
        self._clock = clock
        self._choice = choice
        self._mine: list[str] = []
        self._keys = self._mine if keys is None else keys
        self._opened: asyncio.Future[_Opened] | None = None

    @property
    def revision(self) -> str:
        """What evidence about its scores is of."""
        return revision_of(self._choice)

    async def open(self) -> str:
        """Open the model and embed a text: nothing is loaded with the first question. Gives what its vectors may be
        compared with: model and weights. Raises PlanError E135 for a model that embeds no text."""
        opened = await self._model()
        try:
            await self(TRIED)
        except (LookupError, TypeError, ValueError) as error:
            raise _unfit(
                self._choice, f"gave no vector for a text ({error.__class__.__name__}: {error})"
            ) from error
        return f"{self.revision}:{opened.weights}"

    async def __call__(self, text: str) -> NDArray[Any]:
        opened = await self._model()
        ask = ASKING.get() or Nobody("semantic", Request(self._clock))
        [item] = token_items(opened.tokenizer, [text])  # some 50 us for a question
        answer = await opened.deployment.infer(ask.request, ask.name, item, cause=CAUSE)
        vector = np.asarray(answer["embedding"], np.float32)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise ValueError(f"a vector of shape {vector.shape}")
        length: NDArray[Any] = vector / max(float(np.linalg.norm(vector)), 1e-9)
        return length

    async def _model(self) -> _Opened:
        if self._opened is None:
            self._opened = asyncio.ensure_future(self._open())
        return await asyncio.shield(self._opened)

    async def _open(self) -> _Opened:
        files = await self._deployments.files(self._choice)
        if "tokenizer.json" not in files:
            raise _unfit(self._choice, "has no tokenizer")
        deployment = await self._deployments.take(self._keys, self._choice, files)
        if not isinstance(deployment, Deployment):
            raise _unfit(self._choice, "speaks")
        return _Opened(deployment, files["tokenizer.json"], _weights(files))

    async def close(self) -> None:
        """Let go of the model, where nobody else holds it for this."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await asyncio.wait([opened])
        await self._deployments.release(self._mine)


def _weights(files: Mapping[str, Path]) -> str:
    """A name of the files as they are: vectors of other weights are never compared."""
    states = {}
    for name, path in files.items():
        found = path.stat()
        states[name] = (found.st_size, found.st_mtime_ns)
    return content_name(states).hex()[:16]


def _unfit(choice: ModelChoice, why: str) -> PlanError:
    return PlanError(
        f"cache: semantic.model = {choice.model!r} {why}",
        help="name a model that gives an `embedding` for a text, such as minilm-l6-v2",
        code="E135",
    )
