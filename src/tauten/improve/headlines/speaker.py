"""A language model that is open: asked, and timed from the question to each of its tokens."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tauten.clock import Clock, real
from tauten.run.contracts import Chunk, ModelSpec, find

if TYPE_CHECKING:
    from tauten.models.store import Store

MODEL = "smollm2-135m-instruct"


class Said(msgspec.Struct, frozen=True):
    """One answer: its text, how long it took, and the tokens it read, found in a cache, and wrote."""

    text: str
    first_s: float  # until the first token
    seconds: float
    read: int
    cached: int
    wrote: int
    finish: str = "stop"


class Speaker(Protocol):
    """What can be asked. `properties` is what is in force."""

    async def ask(self, item: Mapping[str, Any]) -> Said: ...

    def properties(self) -> Mapping[str, str]: ...


class BackendSpeaker:
    """A slot backend that the caller opened and closes."""

    def __init__(self, backend: Any, clock: Clock = real) -> None:
        self._backend = backend
        self._clock = clock

    def properties(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self._backend.properties()
        return found

    async def ask(self, item: Mapping[str, Any]) -> Said:
        """Ask alone and wait for the end; raises what the backend raises."""
        began = self._clock()
        first_s, made = 0.0, 0
        words: list[str] = []
        last = Chunk()
        async with aclosing(self._backend.start(item)) as chunks:
            async for chunk in chunks:
                if chunk.tokens and not made:
                    first_s = self._clock() - began
                made += chunk.tokens
                words.append(chunk.text)
                last = chunk
        seconds = self._clock() - began
        usage = last.usage
        return Said(
            "".join(words),
            first_s or seconds,
            seconds,
            int(usage.get("input_tokens", 0)),
            int(usage.get("cached_tokens", 0)),
            int(usage.get("output_tokens", made)),
            last.finish,
        )


@asynccontextmanager
async def speaking(spec: ModelSpec) -> AsyncIterator[Speaker]:
    """Open the model on the backend for language models; closed at the end."""
    backend = find("backends", "llm")(spec)
    try:
        await backend.open()
        yield BackendSpeaker(backend)
    finally:
        await backend.close()


def language_model(store: Store, **options: Any) -> ModelSpec:
    """The language model of the catalog with these settings of its backend."""
    model, variant = store.find(MODEL)
    return ModelSpec(model, variant, store.files(model, variant), options=options)
