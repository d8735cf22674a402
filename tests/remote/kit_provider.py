"""A provider on a loopback port, made of raw sockets so that it can misbehave, with books of its own."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

PICTURE_TOKENS, SOUND_TOKENS = 100, 30  # of each, as this provider counts


class Seen:
    """One call as the provider saw it; `closed` once its client has closed the connection."""

    def __init__(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.path = path
        self.headers = dict(headers)
        self.body = body
        self.closed = asyncio.Event()
        self.said = 0  # words that were sent
        self.thought = 0  # tokens that were not
        self.number = 0  # of the next event, where events are numbered

    @property
    def typed(self) -> bool:
        """Whether it was asked by the Responses API."""
        return self.path.endswith("/responses")

    @property
    def streamed(self) -> bool:
        return bool(self.json.get("stream"))

    @property
    def most(self) -> int | None:
        body = self.json
        return body.get("max_tokens") or body.get("max_output_tokens") or body.get("max_completion_tokens")

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found

    @property
    def prompt_tokens(self) -> int:
        """A token for each four characters begun, and four for each message; texts for embeddings are counted alike."""
        if self.path.endswith("/embeddings"):
            return sum(math.ceil(len(each) / 4) for each in self.json["input"])
        messages = self.json["input" if self.typed else "messages"]
        return sum(4 + _content_tokens(each.get("content")) for each in messages)

    def usage(self, cached: int = 0) -> dict[str, Any]:
        """What it counts for this call, in the words of the protocol that it was asked by."""
        read, made = self.prompt_tokens, self.said + self.thought
        if not self.typed:
            return {
                "prompt_tokens": read,
                "completion_tokens": made,
                "total_tokens": read + made,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens_details": {"reasoning_tokens": self.thought},
            }
        return {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": self.thought},
            "total_tokens": read + made,
        }


def _content_tokens(content: Any) -> int:
    if not isinstance(content, list):
        return math.ceil(len(content or "") / 4)
    return sum(_part_tokens(each) for each in content)


def _part_tokens(part: Mapping[str, Any]) -> int:
    if "image" in part["type"]:
        return PICTURE_TOKENS
    return SOUND_TOKENS if "audio" in part["type"] else math.ceil(len(part["text"]) / 4)


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
        """Tokens that it would put on a bill: prompts that it began to answer, words that it sent or thought."""
        begun = [each for each in self.calls if each.said or each.thought]
        return sum(each.prompt_tokens for each in begun), sum(each.said + each.thought for each in begun)

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


def typed(seen: Seen, kind: str, **fields: Any) -> bytes:
    """A numbered event of the Responses API, with its name."""
    body = {"type": kind, "sequence_number": seen.number, **fields}
    seen.number += 1
    return f"event: {kind}\n".encode() + b"data: " + msgspec.json.encode(body) + b"\n\n"


def response(seen: Seen, status: str, text: str = "", *, usage: Any = None, **more: Any) -> dict[str, Any]:
    """The object that the events are about."""
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": [part]}
    about = {"id": "resp_1", "object": "response", "status": status, "model": seen.json.get("model")}
    return {**about, "output": [item] if text else [], "error": None, "usage": usage, **more}


async def _begin(seen: Seen, writer: asyncio.StreamWriter, headers: Mapping[str, str] | None = None) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{lines}transfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    if seen.typed:
        for kind in ("response.created", "response.in_progress"):
            writer.write(_chunk(typed(seen, kind, response=response(seen, "in_progress"))))
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        writer.write(_chunk(typed(seen, "response.output_item.added", output_index=0, item=item)))
    else:
        writer.write(_chunk(event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])))
    await writer.drain()


async def _word(seen: Seen, writer: asyncio.StreamWriter, word: str) -> None:
    if seen.typed:
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
        writer.write(_chunk(typed(seen, "response.output_text.delta", delta=word, **place)))
    else:
        writer.write(_chunk(event(choices=[{"index": 0, "delta": {"content": word}}])))
    await writer.drain()
    seen.said += 1


def _ends(seen: Seen, text: str, *, cut: bool, cached: int, usage: bool) -> list[bytes]:
    """The last events of a whole answer."""
    counts = seen.usage(cached) if usage else None
    if seen.typed:
        status = "incomplete" if cut else "completed"
        why = {"incomplete_details": {"reason": "max_output_tokens"}} if cut else {}
        return [typed(seen, f"response.{status}", response=response(seen, status, text, usage=counts, **why))]
    finish = event(choices=[{"index": 0, "delta": {}, "finish_reason": "length" if cut else "stop"}])
    return [finish, *([event(choices=[], usage=counts)] if usage else []), b"data: [DONE]\n\n"]


def _document(seen: Seen, text: str, *, cut: bool, cached: int) -> bytes:
    """A whole answer in one piece."""
    if seen.typed:
        status = "incomplete" if cut else "completed"
        why = {"incomplete_details": {"reason": "max_output_tokens"}} if cut else {}
        return msgspec.json.encode(response(seen, status, text, usage=seen.usage(cached), **why))
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}
    return msgspec.json.encode({"choices": [choice], "usage": seen.usage(cached)})


def says(
    *words: str,
    gap_s: float = 0.0,
    headers: Mapping[str, str] | None = None,
    usage: bool = True,
    cached: int = 0,
    thought: int = 0,
) -> Act:
    """A whole answer, as long as the call lets it be, in the words of whichever API is asked; one that trickles where
    there is a gap; in one piece where no stream is asked for. `thought` are tokens of reasoning, which nobody sees."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        most = seen.most or len(words)
        given, cut = words[:most], most < len(words)
        seen.thought = thought
        told = {"x-request-id": "req-1", **(headers or {})}
        if not seen.streamed:
            seen.said = len(given)
            body = _document(seen, "".join(given), cut=cut, cached=cached)
            return await gives(body, headers={**told, "content-type": "application/json"})(seen, writer)
        await _begin(seen, writer, told)
        for each in given:
            await asyncio.sleep(gap_s)
            await _word(seen, writer, each)
        for last in _ends(seen, "".join(given), cut=cut, cached=cached, usage=usage):
            writer.write(_chunk(last))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    return act


def cuts(*words: str, clean: bool = False) -> Act:
    """Some words, then the connection is closed; `clean` ends the HTTP body as if all were well."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await _begin(seen, writer)
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
        await _begin(seen, writer)
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
        await _begin(seen, writer)
        for each in words:
            await _word(seen, writer, each)
        writer.write(_chunk(b"data: {nonsense\n\n"))
        await writer.drain()
        return False

    return act


def fails(*words: str) -> Act:
    """A stream that ends with an error event."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await _begin(seen, writer)
        for each in words:
            await _word(seen, writer, each)
        if seen.typed:
            error = {"code": "server_error", "message": "the engine died"}
            failed = response(seen, "failed", error=error, usage=seen.usage())
            writer.write(_chunk(typed(seen, "response.failed", response=failed)) + b"0\r\n\r\n")
        else:
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


def calls_tool(name: str, *pieces: str) -> Act:
    """A call of a tool whose arguments come in pieces, each a token."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await _begin(seen, writer)
        for place, piece in enumerate(pieces):
            seen.said += 1
            if seen.typed:
                writer.write(_chunk(typed(seen, "response.function_call_arguments.delta", delta=piece)))
                continue
            head = {"id": "call_1", "type": "function"} if not place else {}
            function = {"arguments": piece, **({"name": name} if not place else {})}
            call = {"index": 0, **head, "function": function}
            writer.write(_chunk(event(choices=[{"index": 0, "delta": {"tool_calls": [call]}}])))
        if seen.typed:
            item = {"type": "function_call", "call_id": "call_1", "name": name, "arguments": "".join(pieces)}
            writer.write(_chunk(typed(seen, "response.output_item.done", output_index=0, item=item)))
            done = response(seen, "completed", usage=seen.usage()) | {"output": [item]}
            writer.write(_chunk(typed(seen, "response.completed", response=done)))
        else:
            writer.write(_chunk(event(choices=[{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])))
            writer.write(_chunk(event(choices=[], usage=seen.usage())) + _chunk(b"data: [DONE]\n\n"))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    return act


def embeds(size: int = 2) -> Act:
    """Vectors of the texts, in the form that was asked for: each holds the text's length and its place."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> bool:
        rows = [
            [float(len(text)), *[float(place)] * (size - 1)] for place, text in enumerate(seen.json["input"])
        ]
        coded = seen.json.get("encoding_format") == "base64"
        data = [
            {"index": place, "embedding": _packed(row) if coded else row} for place, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": seen.prompt_tokens, "total_tokens": seen.prompt_tokens}
        return await gives(msgspec.json.encode({"data": data, "usage": usage}))(seen, writer)

    return act


def _packed(row: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def providers_toml(urls: Mapping[str, str], more: Sequence[str] = ()) -> str:
    """A file of providers at those addresses."""
    return "\n".join(f'[{name}]\nurl = "{url}"\n' + "\n".join(more) for name, url in urls.items())
