"""A provider on a loopback port, made of raw sockets so that it can misbehave, with books of its own."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec


class Seen:
    """One call as the provider saw it; `closed` once its client has closed the connection."""

    def __init__(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.path = path
        self.headers = dict(headers)
        self.body = body
        self.closed = asyncio.Event()
        self.said = 0  # words that were sent

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found

    @property
    def prompt_tokens(self) -> int:
        """A token for each four characters begun, and four for each message."""
        return sum(4 + math.ceil(len(each["content"]) / 4) for each in self.json["messages"])


Act = Callable[[Seen, asyncio.StreamWriter], Awaitable[bool]]
"""What a call meets; whether the connection may be used again."""


class StandIn:
    """Meets each call with the next act; with the last one from then on."""

    def __init__(self, *acts: Act) -> None:
        self.acts = deque(acts)
        self.calls: list[Seen] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> StandIn:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *why: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def billed(self) -> tuple[int, int]:
        """Tokens that it would put on a bill: prompts that it began to answer, words that it sent."""
        begun = [each for each in self.calls if each.said]
        return sum(each.prompt_tokens for each in begun), sum(each.said for each in begun)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while (seen := await self._read(reader)) is not None:
                self.calls.append(seen)
                act = self.acts.popleft() if len(self.acts) > 1 else self.acts[0]
                if not await self._met(act, seen, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is gone, as it may be
        finally:
            self._serving.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    @staticmethod
    async def _met(act: Act, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Do it while watching for the client to leave."""
        doing = asyncio.ensure_future(act(seen, writer))
        leaving = asyncio.ensure_future(_gone(reader))
        try:
            await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                seen.closed.set()
                return False
            return await doing
        finally:
            for each in (doing, leaving):
                each.cancel()
            await asyncio.wait((doing, leaving))
            for each in (doing, leaving):
                if not each.cancelled():
                    each.exception()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Seen | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.decode().split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Seen(first.split()[1], headers, body)


async def _gone(reader: asyncio.StreamReader) -> None:
    """Until the client closes: a client of ours never sends two calls at once."""
    try:
        while not reader.at_eof():
            await asyncio.sleep(0.002)
            if reader.exception() is not None:
                return
    except ConnectionError:
        return


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


async def _begin(writer: asyncio.StreamWriter, headers: Mapping[str, str] | None = None) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{lines}transfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    writer.write(_chunk(event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])))
    await writer.drain()


async def _word(seen: Seen, writer: asyncio.StreamWriter, word: str) -> None:
    writer.write(_chunk(event(choices=[{"index": 0, "delta": {"content": word}}])))
    await writer.drain()
    seen.said += 1


def says(
    *words: str, gap_s: float = 0.0, headers: Mapping[str, str] | None = None, usage: bool = True
) -> Act:
    """A whole answer, as long as the call lets it be; one that trickles where there is a gap."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await _begin(writer, {"x-request-id": "req-1", **(headers or {})})
        most = seen.json.get("max_tokens") or len(words)
        for each in words[:most]:
            await asyncio.sleep(gap_s)
            await _word(seen, writer, each)
        finish = "length" if most < len(words) else "stop"
        writer.write(_chunk(event(choices=[{"index": 0, "delta": {}, "finish_reason": finish}])))
        if usage:
            counts = {"prompt_tokens": seen.prompt_tokens, "completion_tokens": seen.said}
            writer.write(_chunk(event(choices=[], usage=counts)))
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
        return True

    return act


def cuts(*words: str, clean: bool = False) -> Act:
    """Some words, then the connection is closed; `clean` ends the HTTP body as if all were well."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await _begin(writer)
        for each in words:
            await _word(seen, writer, each)
        if clean:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return clean

    return act


def stops(*words: str) -> Act:
    """Some words, then silence."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await _begin(writer)
        for each in words:
            await _word(seen, writer, each)
        await asyncio.sleep(3600)
        return False

    return act


def hangs() -> Act:
    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(3600)
        return False

    return act


def hangs_up() -> Act:
    """The call is read, and the connection reset."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        reset = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        return False

    return act


def raw(data: bytes) -> Act:
    """Whatever bytes, then the end."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        await writer.drain()
        return False

    return act


def garbage(*words: str) -> Act:
    """A stream whose events turn to nonsense."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await _begin(writer)
        for each in words:
            await _word(seen, writer, each)
        writer.write(_chunk(b"data: {nonsense\n\n"))
        await writer.drain()
        return False

    return act


def fails(*words: str) -> Act:
    """A stream that ends with an error event."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await _begin(writer)
        for each in words:
            await _word(seen, writer, each)
        writer.write(_chunk(event(error={"message": "the engine died"})) + b"0\r\n\r\n")
        await writer.drain()
        return True

    return act


def status(code: int, headers: Mapping[str, str] | None = None) -> Act:
    return gives(msgspec.json.encode({"error": {"message": f"told to say {code}"}}), code, headers)


def gives(body: bytes, code: int = 200, headers: Mapping[str, str] | None = None) -> Act:
    """A body of known length."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {code} Told\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True

    return act


def speaks(*parts: bytes, cut: bool = False) -> Act:
    """Sound in parts."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n")
        for each in parts:
            writer.write(_chunk(each))
            await writer.drain()
            await asyncio.sleep(0.005)
        if not cut:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return not cut

    return act


def providers_toml(urls: Mapping[str, str], more: Sequence[str] = ()) -> str:
    """A file of providers at those addresses."""
    return "\n".join(f'[{name}]\nurl = "{url}"\n' + "\n".join(more) for name, url in urls.items())
