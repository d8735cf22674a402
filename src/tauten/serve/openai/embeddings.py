"""Embeddings: texts in, vectors out, as numbers or as base64 of little-endian float32."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from tauten.describe.payload import Json, Tensor
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.kept.flights import shared_with
from tauten.serve.openai import run as shared
from tauten.serve.openai.errors import Refused, checked
from tauten.serve.openai.ports import Inputs, Turn, inputs_of
from tauten.serve.openai.types import MOST_TEXTS, EmbeddingRequest
from tauten.serve.service import Service

if TYPE_CHECKING:
    from tauten.serve.app import Site

AT_ONCE = 32  # texts of one request that run together, where a workflow takes one at a time: a full batch


async def embeddings(site: Site, call: Call) -> Reply:
    """Embed one text or a list of them, in order."""
    fields = await call.read(dict[str, Any])
    asked = checked(fields, EmbeddingRequest)
    service = shared.model(site, asked.model)
    shared.check_gives(service, (Tensor, Json, list, float), "embedding")
    inputs = inputs_of(service.workflow)
    texts = texts_of(asked.input)
    shared.bound_by_client(call, service)
    found = Embedding(call, service, inputs, {k: v for k, v in fields.items() if k not in ("input", "model")})
    vectors = await found.of(texts)
    if asked.dimensions is not None and not inputs.takes("dimensions"):
        _check_dimensions(service, vectors, asked.dimensions)
    data = [
        {"object": "embedding", "index": index, "embedding": _spelled(vector, asked.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    taken = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    body = {"object": "list", "data": data, "model": service.name, "usage": taken}
    ignored = shared.ignored(inputs, {**fields, "dimensions": None})
    return Reply.json(body, headers=[*ignored, *shared_with(call.request)])


def texts_of(given: str | list[Any]) -> list[str]:
    """The texts of a request; token numbers are refused: they mean another text in each vocabulary."""
    texts = [given] if isinstance(given, str) else given
    if not texts or len(texts) > MOST_TEXTS:
        raise _wrong(f"{len(texts)} texts", f"give 1 to {MOST_TEXTS}")
    for text in texts:
        if isinstance(text, int | list):
            raise Refused(
                "the input is tokens, whose numbers mean something else in this model's vocabulary",
                help="send the text itself (in LangChain: check_embedding_ctx_length=False)",
                param="input",
                says="unsupported_value",
            )
        if not isinstance(text, str) or not text:
            raise _wrong("an input that is no text, or an empty one", "give strings that hold something")
    return texts


def _wrong(what: str, help: str) -> Refused:
    return Refused(what, help=help, param="input", says="invalid_value", code="E290")


class Embedding:
    """The texts of one request on their way through a workflow."""

    def __init__(self, call: Call, service: Service, inputs: Inputs, fields: dict[str, Any]) -> None:
        self.call = call
        self.service = service
        self.inputs = inputs
        self.fields = fields
        self.tokens = 0

    async def of(self, texts: list[str]) -> list[Any]:
        """Vectors in the order of the texts: one request of the engine where a workflow takes them all."""
        port = self.inputs.list_of_texts()
        if not port:
            return await self._each(texts)
        turn = Turn(fields={**self.fields, port: texts})
        vectors = _vectors(await self._one(turn), self.service)
        if len(vectors) != len(texts):
            raise shared.unfit(self.service, f"{len(vectors)} vectors for {len(texts)} texts", "embedding")
        return vectors

    async def _each(self, texts: list[str]) -> list[Any]:
        gate = asyncio.Semaphore(AT_ONCE)
        budget = shared.Budget(self.call, self.service)

        async def one(text: str) -> Any:
            async with gate:
                budget.spend()
                return _vector(await self._one(Turn(text=text, fields=self.fields)), self.service)

        tasks = [asyncio.create_task(one(text)) for text in texts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()  # the first that fails ends the others
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, turn: Turn) -> Any:
        answer = await self.call.answer(self.service, self.inputs.fill(turn))
        self.tokens += shared.spent(answer.trace, *shared.ASKED)
        return answer.value


def _vectors(value: Any, service: Service) -> list[Any]:
    if isinstance(value, Tensor) and value.array.ndim == 2:
        return list(value.array)
    if isinstance(value, list):
        return [_vector(each, service) for each in value]
    raise shared.unfit(service, value.__class__.__name__, "embedding")


def _vector(value: Any, service: Service) -> Any:
    """One embedding as a row of numbers."""
    import numpy as np

    if isinstance(value, Tensor):
        row = value.array
    else:
        try:
            row = np.asarray(value.value if isinstance(value, Json) else value, np.float32)
        except (TypeError, ValueError):
            raise shared.unfit(service, value.__class__.__name__, "embedding") from None
    row = row[0] if row.ndim == 2 and len(row) == 1 else row
    if row.ndim != 1 or not row.size:
        raise shared.unfit(service, f"an array of shape {row.shape}", "embedding")
    return row


def _check_dimensions(service: Service, vectors: list[Any], wanted: int) -> None:
    """A vector may be cut only where the model was trained for it (Matryoshka, arXiv 2205.13147)."""
    if wanted != len(vectors[0]):
        raise Refused(
            f"dimensions={wanted}: '{service.name}' gives {len(vectors[0])}, and cutting them would break distances",
            help="leave `dimensions` out; a model trained to be cut has an input of that name",
            param="dimensions",
        )


def _spelled(vector: Any, encoding: str | None) -> Any:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
