"""Embed texts outside a workflow: for building an index and for one query at the command line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tauten.describe.tokens import token_items
from tauten.run.contracts import BatchBackend, ModelSpec, find

_TOKENS_AT_ONCE = (
    4096  # in one call of the model: some 15 MB of activations; more gains nothing on a few cores
)


def embedder(
    model: str = "minilm-l6-v2",
    variant: str = "",
    backend: str = "onnx",
    threads: int = 0,
    *,
    files: Mapping[str, Path] | None = None,
) -> Callable[[list[str]], NDArray[np.float32]]:
    """A function from texts to vectors of length one; loads the model at its first call.

    `files` are the model's files where they do not come from the store. `threads` 0 is the engine's default.
    """
    opened: list[_Embedder] = []

    def embed(texts: list[str]) -> NDArray[np.float32]:
        if not opened:
            found = dict(files) if files is not None else _stored(model, variant)
            opened.append(_Embedder(ModelSpec(model, variant, found, threads=threads), backend))
        return opened[0](texts)

    return embed


def _stored(model: str, variant: str) -> dict[str, Path]:
    from tauten.models import Store

    return dict(Store().files(model, variant or None))


class _Embedder:
    """An opened backend, called directly: no queue, no deadline, one caller."""

    def __init__(self, spec: ModelSpec, backend: str) -> None:
        self._tokenizer = spec.files["tokenizer.json"]
        self._backend: BatchBackend = find("backends", backend)(spec)
        self._backend.open()

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        items = token_items(self._tokenizer, texts)
        results: list[Any] = [None] * len(items)
        for members in self._batches(items):
            answers = self._backend.run([items[number] for number in members])
            for number, answer in zip(members, answers, strict=True):
                if isinstance(answer, BaseException):
                    raise answer
                results[number] = answer["embedding"]
        return np.array(results, np.float32)

    def _batches(self, items: list[dict[str, NDArray[np.int64]]]) -> list[list[int]]:
        """Items that may share a call, within a bound on their tokens."""
        groups: dict[Hashable, list[list[int]]] = {}
        for number, item in enumerate(items):
            batches = groups.setdefault(self._backend.group(item), [[]])
            if (len(batches[-1]) + 1) * len(item["input_ids"]) > _TOKENS_AT_ONCE:
                batches.append([])
            batches[-1].append(number)
        return [batch for batches in groups.values() for batch in batches if batch]
