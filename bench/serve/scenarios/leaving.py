"""Clients that leave in the middle: their work stops in every stage, and nothing is left of it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from bench.ground.serving import Served, asked, serving
from bench.serve.scenarios import books
from bench.serve.scenarios.drive import run
from bench.serve.scenarios.outcome import Result
from bench.serve.scenarios.settings import FLOWS, Settings

STOP_MS = 100.0  # from the departure to the end of the work, in every stage
IDLE_S = 0.1  # CPU time that the server may use in the second after that; a model that runs on takes two
LOOK_S = 0.02  # a look takes some milliseconds of the server's loop
MODEL = "smollm2-135m-instruct"

Body = Callable[[int], tuple[str, dict[str, Any]]]


def measure(settings: Settings) -> list[Result]:
    return [run(lambda: _measure(settings))]


def streaming(number: int) -> tuple[str, dict[str, Any]]:
    return "/v1/workflows/streamed", {"inputs": {"text": f"1000 {10 + number} 10"}}


def queueing(number: int) -> tuple[str, dict[str, Any]]:
    return "/v1/workflows/paused", {"inputs": {"text": f"leaver {number}"}}


def chatting(number: int) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": f"Write a long story about the number {number}."}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 400, "stream": True}
    return "/v1/chat/completions", body


@dataclass(frozen=True)
class Case:
    """Requests of one kind, and how long their clients stay."""

    name: str
    words: str
    body: Body
    stay_s: float


CASES = (
    Case("stream", "in streams of 10 s", streaming, 0.3),
    Case("queue", "in a queue, and in a batch that runs", queueing, 0.03),
    Case("prompt", "while the language model reads their prompts", chatting, 0.2),
    Case("answer", "while it writes their answers", chatting, 1.5),
)


async def _measure(settings: Settings) -> Result:
    found = Result(
        "clients_that_leave",
        f"{settings.leavers} clients that close their connection in the middle",
        "all at once, half of them by a reset: "
        + "; ".join(f"{case.words} ({case.stay_s * 1e3:g} ms after they asked)" for case in CASES),
    )
    targets = [f"{FLOWS}:streamed", f"{FLOWS}:paused", MODEL]
    async with serving(targets) as served, aiohttp.ClientSession() as client:
        for case in CASES:
            await _case(found, case, settings.leavers, served, client)
    found.check("the server ended well", served.exit_code, 0)
    return found


async def _case(found: Result, case: Case, count: int, served: Served, client: aiohttp.ClientSession) -> None:
    before = await books.settled(client, served.url)
    links = [await _asked(served, *case.body(number)) for number in range(count)]
    await asyncio.sleep(case.stay_s)
    left = time.monotonic()
    for number, link in enumerate(links):
        _leave(link, reset=number % 2 == 0)
    stopped_ms, page = await _stopped(client, served.url, left)
    await asyncio.sleep(max(0.0, left + STOP_MS / 1e3 - time.monotonic()))
    used_s = served.cpu_s()
    await asyncio.sleep(1.0)  # nobody looks meanwhile: a look costs CPU time as well
    used_s = served.cpu_s() - used_s
    after = await books.settled(client, served.url)
    known = after.since(before).by("tauten_request_seconds_count", "outcome")
    name = case.name
    found.check(f"{name}: requests stopped after", stopped_ms, STOP_MS, "ms")
    found.check(f"{name}: CPU time in the second after that", used_s, IDLE_S, "s")
    found.check(f"{name}: zombie work", max(each.total("tauten_zombies") for each in (page, after)), 0)
    still = after.total("tauten_deployment_running") + after.total("tauten_queue_length")
    found.check(f"{name}: places still taken", still, 0)
    found.check(f"{name}: requests that the server does not know", count - sum(known.values()), 0)
    found.figures[name] = {"ended": known, "cpu_s": used_s}


async def _asked(served: Served, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection with a request on its way; nothing is read from it."""
    where = urlsplit(served.url)
    link = socket.create_connection((where.hostname or "", where.port or 0), timeout=10)
    link.sendall(asked(path, body, "accept: text/event-stream, application/json"))
    return link


def _leave(link: socket.socket, *, reset: bool) -> None:
    if reset:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    link.close()


async def _stopped(
    client: aiohttp.ClientSession, url: str, left: float, patience_s: float = 15.0
) -> tuple[float | None, books.Page]:
    """Milliseconds until no plan runs a request; None where that did not come."""
    while True:
        page = await books.scrape(client, url)
        now = time.monotonic()
        if not page.total("tauten_running"):
            return (now - left) * 1e3, page
        if now - left > patience_s:
            return None, page
        await asyncio.sleep(LOOK_S)
