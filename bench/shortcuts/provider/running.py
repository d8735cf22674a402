"""A stand-in that runs, as the bench sees it: told what to do, asked what it gave."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.shortcuts.provider.acts import Act

ROOT = Path(__file__).parents[3]
START_S = 20.0
END_S = 5.0


class Count(NamedTuple):
    """What the stand-in says that it gave."""

    calls: int
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def since(self, before: Count) -> Count:
        return Count(*(now - then for now, then in zip(self, before, strict=True)))


class Provider:
    """A stand-in by its ports."""

    def __init__(self, pid: int, port: int, orders: int) -> None:
        self.pid, self.port = pid, port
        self._orders = orders

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def acts(self, *following: Act, usual: Act | None = None) -> None:
        """What the next calls meet, one each, and what all meet after them."""
        await self._order("/acts", {"next": following, **({} if usual is None else {"usual": usual})})

    async def answers(self, table: Mapping[str, str]) -> None:
        """What it says to calls whose last message it knows."""
        await self._order("/answers", table)

    async def refuse(self) -> None:
        """No connection any more."""
        await self._order("/refuse")

    async def listen(self) -> None:
        await self._order("/listen")

    async def counts(self) -> dict[str, Any]:
        return await self._order("/counts")

    async def count(self) -> Count:
        """Its bill so far."""
        found = await self.counts()
        return Count(found["calls"], found["input_tokens"], found["output_tokens"])

    async def quiet(self, patience_s: float = 5.0) -> Count:
        """Its bill once no call is under way: a client that left is seen a moment later."""
        for _ in range(int(patience_s / 0.02)):
            found = await self.counts()
            if not found["open"]:
                break
            await asyncio.sleep(0.02)
        return await self.count()

    async def _order(self, path: str, what: Any = None) -> dict[str, Any]:
        body = json.dumps(what or {}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._orders, limit=1 << 24)
        try:
            writer.write(
                b"POST %b HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            found: dict[str, Any] = json.loads(await reader.readexactly(size))
            return found
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def standin(usual: Act | None = None, cores: Sequence[int] = ()) -> AsyncIterator[Provider]:
    """A stand-in in a process of its own, on these cores; it ends with the block, or with us."""
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    process = await asyncio.create_subprocess_exec(
        *pinned,
        *(sys.executable, "-m", "bench.shortcuts.provider.program"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        ports = json.loads(line)
        found = Provider(process.pid, ports["port"], ports["orders"])
        if usual is not None:
            await found.acts(usual=usual)
        yield found
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.kill()
            await process.wait()
