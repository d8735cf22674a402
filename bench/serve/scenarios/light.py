"""A light way to send prepared requests: sockets and no HTTP library, so that the client leaves the cores alone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tauten.describe.payload import Payload
from tauten.improve.load.http import REFUSED, SHOWN, TIMED_OUT
from tauten.improve.load.target import Outcome, Response
from tauten.improve.load.targets.native import NativeTarget
from tauten.improve.load.targets.oip import OipTarget


class Link(asyncio.Protocol):
    """A connection with at most one request in flight."""

    def __init__(self) -> None:
        self.buffer, self.wanted, self.status = b"", 0, 0
        self.last = False  # the server closes after this answer
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is a transport by another name

    def data_received(self, data: bytes) -> None:
        self.buffer = data = self.buffer + data if self.buffer else data
        if not self.wanted:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return
            self.status, size = int(data[9:12]), content_length(data[:end])
            self.last = b"\r\nconnection: close" in data[:end].lower()
            self.wanted = end + 4 + size
        if len(data) >= self.wanted:
            body, self.buffer, self.wanted = data[: SHOWN * 8], b"", 0
            if self.answer is not None and not self.answer.done():
                self.answer.set_result(body)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError("the server hung up"))


def content_length(head: bytes) -> int:
    """Bytes of the body that a head announces; none without the word."""
    lower = head.lower()
    at = lower.find(b"content-length:")
    return int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


class LightTarget:
    """Sends what another target prepares."""

    shares_loop = False

    def __init__(self, inner: NativeTarget | OipTarget) -> None:
        self.inner, self.name = inner, inner.name
        where = urlsplit(inner.client.url)
        self.host, self.port, self.path = where.hostname or "", where.port or 80, where.path
        self.free: list[Link] = []
        self.links: set[Link] = set()

    async def open(self) -> None:
        await self.inner.open()

    def prepare(self, inputs: Mapping[str, Payload]) -> tuple[bytes, bytes]:
        """The head up to where a deadline is named, and the body."""
        body, headers = self.inner.prepare(inputs)
        lines = [f"POST {self.path} HTTP/1.1", f"host: {self.host}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n", body

    async def send(self, prepared: Any, budget_s: float) -> Response:
        head, body = prepared
        deadline = (
            b"" if math.isinf(budget_s) else b"x-tauten-deadline-ms: %d\r\n" % max(1, round(budget_s * 1e3))
        )
        link = await self._link()
        whole = False
        link.answer = asyncio.get_running_loop().create_future()
        try:
            assert link.transport is not None
            link.transport.write(head + deadline + b"\r\n" + body)
            answer = await link.answer
            whole = True
        except ConnectionResetError as error:
            return Response("failed", error=f"cut: {error}", lost=True)
        finally:
            link.answer = None
            if whole and link.transport is not None and not link.last:
                self.free.append(link)
            else:
                self._drop(link)
        return told(link.status, answer)

    async def _link(self) -> Link:
        while self.free:
            link = self.free.pop()
            if link.transport is not None:
                return link
            self.links.discard(link)
        _, link = await asyncio.get_running_loop().create_connection(Link, self.host, self.port)
        self.links.add(link)
        return link

    def _drop(self, link: Link) -> None:
        self.links.discard(link)
        if link.transport is not None:
            link.transport.abort()

    def zombies(self) -> int | None:
        return None

    async def close(self) -> None:
        for link in list(self.links):
            self._drop(link)
        self.free.clear()
        await self.inner.close()


def told(status: int, answer: bytes) -> Response:
    """What a status says of how a request ended."""
    if status < 300:
        return Response()
    outcome: Outcome = "refused" if status in REFUSED else "timed_out" if status in TIMED_OUT else "failed"
    shown = answer.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")[:SHOWN]
    return Response(outcome, error=f"HTTP {status}: {shown}")
