"""A slot backend made of told latencies and words: streams for tests and for the simulator."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, ClassVar

import msgspec

from tauten.errors import BackendError, PlanError, suggest
from tauten.run.contracts import Chunk, ModelSpec

_ANSWERS = ("echo", "constant", "table")


class SyntheticSlotsBackend:
    """Waits `prefill_ms`, then gives a word every `ms_per_token`, both spread lognormally by `sigma`.

    Each further open stream adds the fraction `slowdown` to a token's time. `tokens` sets the length
    (0: that of the answer). Answers and failures are told as to the synthetic batch backend. Time is
    the event loop's, so streams run on a virtual clock as they are.
    """

    name: ClassVar[str] = "synthetic_slots"
    needs_files: ClassVar[bool] = False
    option_keys: ClassVar[frozenset[str]] = frozenset(
        {"prefill_ms", "ms_per_token", "tokens", "sigma", "slowdown", "slots", "seed"}
        | {"answer", "value", "table", "fail_every"}
    )

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        options = spec.options
        self.slots = int(options.get("slots", 8))  # as many as the llm backend offers
        self.active = 0
        self._prefill_s = float(options.get("prefill_ms", 0.0)) / 1000
        self._token_s = float(options.get("ms_per_token", 0.0)) / 1000
        self._sigma = float(options.get("sigma", 0.0))
        self._slowdown = float(options.get("slowdown", 0.0))
        self._kind = str(options.get("answer", "echo"))
        if self._kind not in _ANSWERS:
            raise PlanError(
                f"synthetic_slots option answer = {self._kind!r}",
                help=suggest(self._kind, _ANSWERS),
                code="E122",
            )
        if min(self._prefill_s, self._token_s, self._sigma, self._slowdown) < 0 or self.slots < 1:
            raise PlanError(
                "synthetic_slots: times cannot be negative, slots must be positive",
                code="E122",
                help="give times of 0 or more, and 1 slot or more",
            )
        self._open = False
        self._seen = 0
        self._draws = random.Random(0)

    async def open(self) -> None:
        if not self._open:
            self._draws = random.Random(int(self.spec.options.get("seed", 0)))
            self._seen = 0
            self._open = True

    async def start(self, item: Mapping[str, Any]) -> AsyncIterator[Chunk]:
        if not self._open:
            raise BackendError(
                "synthetic_slots: start() on a closed backend", help="call open() first", code="E406"
            )
        self._seen += 1
        every = int(self.spec.options.get("fail_every", 0))
        self.active += 1
        try:
            if every and self._seen % every == 0:
                raise BackendError(
                    f"synthetic failure of stream {self._seen}", help="fail_every asked for it"
                )
            async for chunk in self._stream(item):
                yield chunk
        finally:
            self.active -= 1

    def lingering(self) -> Collection[float]:
        return ()  # closing a stream ends it at once

    async def _stream(self, item: Mapping[str, Any]) -> AsyncIterator[Chunk]:
        now = asyncio.get_running_loop().time
        prompt = _prompt(item)
        words, finish = self._words(prompt, item.get("max_tokens"))
        await asyncio.sleep(self._spread(self._prefill_s))
        yield Chunk(at=now())
        for word in words:
            await asyncio.sleep(self._spread(self._token_s) * (1 + self._slowdown * (self.active - 1)))
            yield Chunk(text=word, tokens=1, at=now())
        usage = {
            "input_tokens": float(len(_split(prompt))),
            "cached_tokens": 0.0,
            "output_tokens": float(len(words)),
        }
        yield Chunk(done=True, finish=finish, usage=usage, at=now())

    def _words(self, prompt: str, limit: int | None) -> tuple[list[str], str]:
        words = _split(self._answer(prompt))
        wanted = int(self.spec.options.get("tokens", 0)) or len(words)
        if words and wanted > len(words):
            words = (words * (wanted // len(words) + 1))[:wanted]
        words = words[:wanted]
        if limit is not None and limit < len(words):
            return words[:limit], "length"
        return words, "stop"

    def _answer(self, prompt: str) -> str:
        value = str(self.spec.options.get("value", ""))
        if self._kind == "table":
            key = hashlib.sha256(msgspec.json.encode(prompt)).hexdigest()
            return str(self.spec.options.get("table", {}).get(key, value))
        return prompt if self._kind == "echo" else value

    def _spread(self, mean_s: float) -> float:
        if not self._sigma:
            return mean_s
        return mean_s * self._draws.lognormvariate(-(self._sigma**2) / 2, self._sigma)

    def properties(self) -> Mapping[str, str]:
        return {"precision": "none", "threads": "0", "device": "synthetic", "slots": str(self.slots)}

    async def close(self) -> None:
        self._open = False


def _prompt(item: Mapping[str, Any]) -> str:
    if "prompt" in item:
        return str(item["prompt"])
    messages = item.get("messages") or [{"content": ""}]
    return str(messages[-1]["content"])


def _split(text: str) -> list[str]:
    """Words with the space before them: joined again they are the text."""
    return re.findall(r"\s*\S+", text)
