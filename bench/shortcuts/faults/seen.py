"""What a client of our server saw of one request, through the API that most clients use."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

PATIENCE_S: Final = 30.0  # a client that waits longer than any budget: what it sees then is a hang
MOST_TOKENS: Final = 8


@dataclass
class Seen:
    """`code` is the error that was told, by status or in the stream; `whole`: the answer came to its proper end."""

    stream: bool
    budget_ms: float
    status: int = 0
    code: str = ""
    words: int = 0
    whole: bool = False
    ms: float = 0.0
    retry_after: bool = False  # it was told when to come again
    left: bool = False  # the client left by itself

    def said(self) -> str:
        """In words."""
        if self.left:
            return f"left after {self.words} words"
        if self.whole:
            return "whole"
        how = f"{self.status} {self.code}".strip() if self.status != 200 else f"error event {self.code}"
        if self.status == 200 and not self.code:
            how = "cut, and nobody said so,"
        return f"{how} after {self.words} words" if self.words else how


async def ask(
    client: aiohttp.ClientSession,
    url: str,
    model: str,
    prompt: str,
    *,
    stream: bool,
    budget_ms: float,
    leave_after: int = 0,
    headers: dict[str, str] | None = None,
) -> Seen:
    """One conversation. `leave_after` words the client closes its connection."""
    seen = Seen(stream, budget_ms)
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": MOST_TOKENS}
    told = {"x-tauten-deadline-ms": f"{budget_ms:g}", **(headers or {})}
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with client.post(
                f"{url}/v1/chat/completions", json={**body, "stream": stream}, headers=told
            ) as answer:
                seen.status = answer.status
                seen.retry_after = "retry-after" in answer.headers
                if answer.status != 200 or not stream:
                    _read_whole(seen, await answer.read())
                else:
                    await _read_stream(seen, answer, leave_after)
    except TimeoutError:
        seen.code = "no end"
    except aiohttp.ClientError as error:
        seen.code = type(error).__name__
    seen.ms = 1e3 * (time.perf_counter() - began)
    return seen


def _read_whole(seen: Seen, data: bytes) -> None:
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError:
        seen.code = "no JSON"
        return
    if "error" in found:
        seen.code = str(found["error"].get("code") or "error")
        return
    choice = found["choices"][0]
    seen.words = len(choice["message"]["content"].split())
    seen.whole = bool(choice["finish_reason"])


async def _read_stream(seen: Seen, answer: aiohttp.ClientResponse, leave_after: int) -> None:
    finish = ""
    async for line in answer.content:
        if not line.startswith(b"data: "):
            continue
        data = line[6:].strip()
        if data == b"[DONE]":
            seen.whole = bool(finish) and not seen.code
            return
        found = json.loads(data)
        if "error" in found:
            seen.code = str(found["error"].get("code") or "error")
        for choice in found.get("choices", ()):
            seen.words += len((choice["delta"].get("content") or "").split())
            finish = choice.get("finish_reason") or finish
        if leave_after and seen.words >= leave_after:
            seen.left = True
            answer.close()
            return


def grouped(found: Sequence[Seen]) -> str:
    """All of them in words, those that saw the same together."""
    return ", ".join(f"{count} × {said}" for said, count in Counter(each.said() for each in found).items())
