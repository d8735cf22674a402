"""One open model and the items that it is measured with: what a child process does when it is told to.

Times are taken here, beside the backend, so that no message is in them. A run that fails is an answer with the
reason in it; the next one may go well.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tauten.clock import Clock, real
from tauten.errors import TautenError
from tauten.run.contracts import ModelSpec, find
from tauten.run.kernel import tree_bytes

# What each backend imports when it opens: loaded before, so that neither the time nor the memory of the model
# includes its engine. A backend that is not named here opens with whatever it brings.
_ENGINES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "whisper": "ctranslate2",
}


class Opened(msgspec.Struct, frozen=True):
    """What opening a model took: seconds, bytes above the process before; and what is in force."""

    load_s: float
    memory_bytes: int | None
    properties: dict[str, str]
    streams: bool  # it batches by itself
    places: tuple[tuple[int, float], ...]  # of each item: which group it may share a batch in, its weight


class Ran(msgspec.Struct, frozen=True):
    """One run. `weight` is that of its items together; `error` says why it gave nothing."""

    seconds: float
    weight: float = 0.0
    first_s: float | None = None  # until the first token, a stream's mean
    tokens_in: float | None = None  # tokens a second, read
    tokens_out: float | None = None  # tokens a second that one stream said
    memory_bytes: int | None = None  # after it, above the process before the model
    error: str = ""


@dataclass(slots=True)
class _Said:
    """What one stream did: when, from the start, and how many tokens."""

    prefill_s: float | None = None
    first_s: float | None = None
    last_s: float = 0.0
    more: int = 0  # tokens after the first ones
    read: float = 0.0  # tokens of the prompt that were not cached

    @property
    def rate(self) -> float:
        """Tokens a second once it spoke."""
        spoke = self.last_s - (self.first_s or 0.0)
        return self.more / spoke if self.more and spoke > 0.0 else 0.0


class Bench:
    """A backend, its items, and the memory that was held before it was opened."""

    def __init__(self, clock: Clock = real) -> None:
        self._clock = clock
        self._backend: Any = None
        self._items: Sequence[Any] = ()
        self._weights: list[float] = []
        self._before: int | None = None
        self.streams = False

    async def open(self, name: str, spec: ModelSpec, items: Sequence[Any]) -> Opened:
        """Load the model alone; raises what the backend raises."""
        made = find("backends", name)
        _import_engine(name)
        self._items, self._before = items, held_bytes()
        self.streams = hasattr(made, "start")
        self._backend = made(spec)
        began = self._clock()
        opening = self._backend.open()
        if self.streams:
            await opening
        load_s = self._clock() - began
        places = self._places()
        self._weights = [weight for _, weight in places]
        return Opened(load_s, self._grown(), dict(self._backend.properties()), self.streams, places)

    def _places(self) -> tuple[tuple[int, float], ...]:
        if self.streams:  # any may run beside any; how large they are, the engine says when it ran them
            return tuple((0, 0.0) for _ in self._items)
        groups: dict[Hashable, int] = {}
        return tuple(
            (groups.setdefault(self._backend.group(item), len(groups)), float(self._backend.weight(item)))
            for item in self._items
        )

    async def run(self, members: Sequence[int]) -> Ran:
        """Run these items together, once."""
        items = [self._items[index] for index in members]
        try:
            if self.streams:
                ran = await self._streamed(items)
            else:
                began = self._clock()
                results = self._backend.run(items)
                weight = sum(self._weights[index] for index in members)
                ran = Ran(self._clock() - began, weight, error=_failure(results))
        except Exception as error:  # noqa: BLE001 - whatever the engine raised is the answer
            return Ran(0.0, error=_said(error))
        return msgspec.structs.replace(ran, memory_bytes=self._grown())

    async def _streamed(self, items: Sequence[Any]) -> Ran:
        began = self._clock()
        said = await asyncio.gather(*(self._stream(item, began) for item in items))
        return Ran(
            self._clock() - began,
            weight=sum(each.read for each in said),
            first_s=_mean([each.first_s for each in said if each.first_s is not None]),
            tokens_in=_mean([each.read / each.prefill_s for each in said if each.read and each.prefill_s]),
            tokens_out=_mean([each.rate for each in said if each.rate]),
        )

    async def _stream(self, item: Mapping[str, Any], began: float) -> _Said:
        """One stream to its end. Its first chunk is empty and marks that the prompt was read."""
        said = _Said()
        async for chunk in self._backend.start(item):
            now = self._clock() - began
            if said.prefill_s is None:
                said.prefill_s = now
            if chunk.tokens and said.first_s is None:
                said.first_s = now
            elif chunk.tokens:
                said.more, said.last_s = said.more + chunk.tokens, now
            if chunk.usage:
                said.read = chunk.usage.get("input_tokens", 0.0) - chunk.usage.get("cached_tokens", 0.0)
        return said

    async def close(self) -> None:
        if self._backend is not None:
            closing = self._backend.close()
            if self.streams:
                await closing
            self._backend = None

    def _grown(self) -> int | None:
        now = held_bytes()
        return None if now is None or self._before is None else max(0, now - self._before)


def held_bytes() -> int | None:
    """Resident bytes of this process and all below it; None off Linux.

    Not the proportional set size: that of a library falls when another process that measures maps it too.
    """
    return tree_bytes(os.getpid())


def _import_engine(name: str) -> None:
    if name in _ENGINES:
        try:
            importlib.import_module(_ENGINES[name])
        except ImportError:
            return  # opening says what is missing, and how to get it


def _failure(results: Sequence[Any]) -> str:
    return next((_said(each) for each in results if isinstance(each, BaseException)), "")


def _said(error: BaseException) -> str:
    if isinstance(error, TautenError):
        return f"{error.code} {error.message}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
