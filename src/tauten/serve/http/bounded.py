"""Bounds of size for servers of another make, around the application: what ours refuses is refused there, too."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tauten.serve.http import refused
from tauten.serve.http.cycle import Asgi, Message
from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.wire import Refusal

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def bounded(app: Asgi, limits: HttpLimits) -> Asgi:
    """The app for requests within the limits; others are answered by us, as the thin server answers them."""

    async def guarded(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        excess = of_head(scope, limits)
        if excess is not None:
            if not any(
                name == b"expect" for name, _ in scope["headers"]
            ):  # it has not begun to send its body
                await _drop(receive, limits.linger_s)
            await _say(send, excess)
            return
        body = _Body(receive, send, limits)
        await app(scope, body.receive, body.send)

    return guarded


def of_head(scope: MutableMapping[str, Any], limits: HttpLimits) -> Refusal | None:
    """What is too much in a request's head, or in the body that it announces."""
    headers = scope["headers"]
    target = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string", b""))
    if len(headers) > limits.header_count:
        return Refusal(431, f"{len(headers)} headers, at most {limits.header_count} are taken")
    if target > limits.target_bytes:
        return Refusal(414, f"the target has {target} bytes, at most {limits.target_bytes} are taken")
    if target + sum(len(name) + len(value) + 4 for name, value in headers) > limits.header_bytes:
        return Refusal(431, "the head is too large")
    declared = next((value for name, value in headers if name == b"content-length"), b"")
    if declared.isdigit() and int(declared) > limits.body_bytes:
        return Refusal(413, f"the body has {int(declared)} bytes, at most {limits.body_bytes} are taken")
    return None


class _Body:
    """Counts a body that comes without its size; too much ends the request for the application, as if its client left."""

    def __init__(self, receive: Receive, send: Send, limits: HttpLimits) -> None:
        self._receive = receive
        self._send = send
        self._linger_s = limits.linger_s
        self._most = limits.body_bytes
        self._size = 0
        self._answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size <= self._most:
            return message
        if not self._answered:
            self._answered = True
            if message.get("more_body"):
                await _drop(self._receive, self._linger_s)
            too_large = f"the body is larger than the {self._most} bytes that are taken"
            await _say(self._send, Refusal(413, too_large))
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._size > self._most:
            return  # the answer was given, or the one on its way cannot be trusted
        self._answered = True
        await self._send(message)


async def _drop(receive: Receive, seconds: float) -> None:
    """Read what still comes, for a while: closed upon it, the connection would be reset before the answer is read."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await receive()).get("more_body"):
                pass


async def _say(send: Send, excess: Refusal) -> None:
    """The whole answer; the connection ends, because the rest of the request is not read."""
    body = refused.body(excess.status, excess.reason)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": excess.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
