"""A whole `tauten serve` process on a free port, and clients that ask it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

FLOW = """
import asyncio
from collections.abc import AsyncIterator
import tauten as tt

@tt.stage(pure=True)
async def shout(text: tt.Text, *, mark: str = "") -> tt.Text:
    await asyncio.sleep(0.005)
    return tt.Text(text.text.upper() + mark)

@tt.stage(pure=True)
async def count(text: tt.Text) -> AsyncIterator[tt.Text]:
    for number in range(int(text.text) if text.text.isdigit() else 1):
        yield tt.Text(f"{number} ")
        await asyncio.sleep(0.05)

@tt.workflow(slo=tt.Slo(p95_ms=5000))
def flow(text: tt.Text) -> tt.Text:
    return shout(text)

@tt.workflow
def counting(text: tt.Text) -> tt.Stream[tt.Text]:
    return count(text)
"""


@dataclass
class Running:
    """A server that said that it is ready. `err` grows while it runs."""

    process: asyncio.subprocess.Process
    url: str
    said: dict[str, Any]
    err: list[str] = field(default_factory=list)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, when it has ended."""
        return await asyncio.wait_for(self.process.wait(), 30)

    def logged(self) -> list[dict[str, Any]]:
        """Its JSON log lines so far."""
        return [json.loads(line) for line in self.err if line.startswith("{")]


@asynccontextmanager
async def serving(folder: Path, *words: str, text: str = FLOW) -> AsyncIterator[Running]:
    """`tauten serve flow.py:flow flow.py:counting` with more words; it is gone afterwards, whatever happens."""
    (folder / "flow.py").write_text(text)
    targets = [
        word for word in words if not word.startswith("-") and any(end in word for end in (".py", ".onnx"))
    ]
    ours = [] if targets else ["flow.py:flow", "flow.py:counting"]
    fixed = ["--port", "0", "--grpc-port", "off", "--json", "--log", "json", "--access-log-sample", "1"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tauten", "serve", *ours, *fixed, *words),
        cwd=folder,
        env={**os.environ, "TAUTEN_STORE": str(folder / "store")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    err: list[str] = []
    reading = asyncio.get_running_loop().create_task(_read(process, err))
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, f"it ended with {await process.wait()}: {err}"
        said = json.loads(line)
        yield Running(process, said["url"], said, err)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def _read(process: asyncio.subprocess.Process, lines: list[str]) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        lines.append(line.decode().rstrip("\n"))


async def post(
    client: aiohttp.ClientSession, url: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and JSON of one request."""
    async with client.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def ran(client: aiohttp.ClientSession, server: Running, text: str = "x") -> tuple[int, Any]:
    """One run of `flow`."""
    return await post(client, f"{server.url}/v1/workflows/flow", {"inputs": {"text": text}})


async def counted(client: aiohttp.ClientSession, server: Running, number: int) -> list[dict[str, Any]]:
    """The events of one streamed run of `counting`; raises where the stream breaks."""
    events: list[dict[str, Any]] = []
    body = {"inputs": {"text": str(number)}}
    headers = {"accept": "text/event-stream"}
    async with client.post(f"{server.url}/v1/workflows/counting", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
    return events


async def ready(client: aiohttp.ClientSession, server: Running) -> int:
    """The status of the readiness probe."""
    async with client.get(f"{server.url}/health/ready") as answer:
        return answer.status


def summary(events: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """How many increments came, and how the stream ended."""
    return sum(each["type"] == "output" for each in events), events[-1]["type"] if events else ""
