"""Embeddings: texts as a request, their vectors as one value."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tauten.run.remote.conversation import sent
from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Content, Reply
from tauten.run.remote.providers import Provider
from tauten.run.remote.question import Delta, Question, Said, decoded, whole
from tauten.run.remote.units import counted, text_tokens

MOST_CALL_TOKENS = 200_000.0  # estimated, of one call: a third below OpenAI's bound, because an estimate errs


class Embedding:
    """The value is an array of float32, a row a text."""

    path: ClassVar[str] = "/embeddings"

    def __init__(self, texts: Sequence[str], dimensions: int | None = None) -> None:
        self.texts = list(texts)
        self.dimensions = dimensions

    @property
    def input_units(self) -> Mapping[str, float]:
        return {"input_tokens": sum(map(text_tokens, self.texts))}

    @property
    def most_units(self) -> Mapping[str, float]:
        return {"input_tokens": float(sum(len(each.encode()) + 2 for each in self.texts)), "requests": 1.0}

    @property
    def tokens(self) -> float:
        return self.input_units["input_tokens"]

    def may_go_on(self, said: Said) -> bool:
        return False

    def spoken_to(self, provider: Provider) -> Question:
        return self

    def content(self, provider: Provider, model: str, said: Said) -> Content:
        body: dict[str, Any] = {"model": model, "input": self.texts, "encoding_format": "base64"}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        return Content(sent(body, provider))

    async def deltas(self, reply: Reply) -> AsyncGenerator[Delta, None]:
        answer = decoded(await whole(reply))
        usage = answer.get("usage")
        units = counted(usage) if isinstance(usage, dict) else {}
        yield Delta(value=self._rows(answer), finish="stop", units=units)

    def _rows(self, answer: dict[str, Any]) -> Any:
        """The vectors in the order of the texts, which need not be that of the answer."""
        try:
            rows = {int(each["index"]): _vector(each["embedding"]) for each in answer["data"]}
            return np.stack([rows[index] for index in range(len(self.texts))])
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise Failure("fault", f"an answer without a vector for each text ({error})") from error


def in_batches(texts: Sequence[str], most: int) -> list[list[str]]:
    """As many calls as a provider's bounds ask for: on texts, and on all their tokens."""
    found: list[list[str]] = [[]]
    tokens = 0.0
    for text in texts:
        own = text_tokens(text)
        if found[-1] and (len(found[-1]) >= most or tokens + own > MOST_CALL_TOKENS):
            found.append([])
            tokens = 0.0
        found[-1].append(text)
        tokens += own
    return found


def _vector(said: Any) -> Any:
    """Base64 of float32, or a list of numbers from those who know only that."""
    if isinstance(said, str):
        return np.frombuffer(base64.b64decode(said, validate=True), "<f4")
    return np.asarray(said, np.float32)
