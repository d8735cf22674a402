"""A client that reads a long stream slowly: it gets all of it, costs no memory, and delays nobody."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from bench.ground import processes
from bench.ground.serving import Served, asked, serving
from bench.serve.scenarios import books
from bench.serve.scenarios.drive import driver, p_ms, run, summary, texts, workflow_target
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import FLOWS, Settings

READERS = 8
PART_BYTES, PARTS = 65_536, 64  # 4 MB a reader: far beyond what sockets hold
READ_BYTES = 65_536
READ_EVERY_S = 0.05  # 1.3 MB a second and reader; a stream without back-pressure is made in half a second
RECEIVE_BYTES = 65_536  # of the reader's socket buffer: else the kernel takes all of it
RATE = 20.0  # of the others, a fifth of what they could have
SLO_S = 0.5
MEMORY_MB = 8.0  # all readers together: 8 channels of 64 KB in flight and what the allocator keeps


def measure(settings: Settings) -> list[Result]:
    return [run(lambda: _measure(settings))]


async def _measure(settings: Settings) -> Result:
    found = Result(
        "slow_client",
        f"Slow client: {READERS} readers of {PARTS * PART_BYTES / 1e6:.0f} MB each at {READ_BYTES / READ_EVERY_S / 1e6:.1f} MB/s",
        "server-sent events read slowly through a small socket buffer, beside an open loop of quick requests",
    )
    async with (
        serving([f"{FLOWS}:streamed", f"{FLOWS}:paused"]) as served,
        aiohttp.ClientSession() as client,
        driver(workflow_target(served.url, "paused"), texts(), SLO_S, settings.seed) as driven,
    ):
        seconds = max(3.0, settings.overload_s)
        await _read(served, -1, 0.0)  # warm, and as fast as it goes
        alone = await driven.poisson(RATE, seconds)
        memory = processes.pss_mb(served.pids())
        peak, reading = [memory], True

        async def weigh() -> None:
            while reading:
                peak.append(processes.pss_mb(served.pids()))
                await asyncio.sleep(0.2)

        weighing = asyncio.create_task(weigh())
        async with books.watching(client, served.url) as watched:
            readers = [asyncio.create_task(_read(served, number, READ_EVERY_S)) for number in range(READERS)]
            beside = await driven.poisson(RATE, seconds)
            read = await asyncio.gather(*readers)
        reading = False
        await weighing
        await books.settled(client, served.url)
    whole = sum(one["parts"] == PARTS and one["last"] == "done" for one in read)
    found.check("slow readers that got everything", whole, READERS, at_least=True)
    found.check("memory they cost", max(peak) - memory, MEMORY_MB, "MB")
    found.check("p99 of the others", p_ms(beside.measured, 0.99), SLO_S * 1e3, "ms")
    found.check("others lost", sum(not one.good for one in beside.measured), 0)
    found.check("zombie work", watched.most["zombies"], 0)
    found.check("the server ended well", served.exit_code, 0)
    found.figures = {
        "alone": summary(alone, SLO_S),
        "beside": summary(beside, SLO_S),
        "reading_s": [round(one["took_s"], 2) for one in read],
        "memory_mb": {"before": memory, "most": max(peak)},
        "most": watched.most,
    }
    return found


async def _read(served: Served, number: int, every_s: float) -> dict[str, Any]:
    """One stream, so many bytes at a time; how many parts came, and the name of the last event."""
    where = urlsplit(served.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=RECEIVE_BYTES)
    _small_buffer(writer)
    document = {"inputs": {"text": f"{PARTS} {PART_BYTES} 0 for {number}"}}
    began = time.monotonic()
    writer.write(asked("/v1/workflows/streamed", document, "accept: text/event-stream", "connection: close"))
    count, last, rest = 0, "", b""
    while data := await reader.read(READ_BYTES):
        lines = (rest + data).split(b"\n")
        rest = lines.pop()
        for line in lines:
            if line.startswith(b"event:"):
                last = line[6:].strip().decode()
                count += last == "output"
        if every_s:
            await asyncio.sleep(every_s)
    writer.close()
    return {"parts": count, "last": last, "took_s": time.monotonic() - began}


def _small_buffer(writer: asyncio.StreamWriter) -> None:
    import socket

    link = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
