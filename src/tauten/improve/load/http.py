"""The HTTP client of a generator: bodies made before the run, as many connections as there are requests."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tauten.clock import Clock, real
from tauten.errors import MachineError
from tauten.improve.load.target import Outcome, Response

if TYPE_CHECKING:
    import aiohttp

REFUSED: Final = frozenset({429, 503})  # before work began; a client may come again
TIMED_OUT: Final = frozenset({408, 504})
SHOWN: Final = 120  # characters of an error body that tell errors apart
OWN: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
)  # this machine is out of files, ports or memory: the server has not seen the request
CONNECT_S: Final = 10.0  # three lost SYNs; the wait is part of the latency in any case


class Prepared(NamedTuple):
    """One request, encoded."""

    body: bytes
    headers: Mapping[str, str]


class Heard(NamedTuple):
    """What one event of a stream is: an increment of the answer, or an error; and tokens counted so far."""

    increment: bool = False
    error: str = ""
    tokens: int = 0


Hear = Callable[[str, bytes], Heard]
"""(event name, data) of a server-sent event, to what it is."""


class HttpClient:
    """Posts to one URL. `headers` go with every request."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, clock: Clock = real) -> None:
        self.url, self.clock = url, clock
        self._headers = {"accept-encoding": "identity", **(headers or {})}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session; raises MachineError where the `serve` extra is not installed."""
        try:
            import aiohttp
        except ImportError as error:
            raise MachineError(
                "load on a URL needs aiohttp", help="pip install 'tauten[serve]'", code="E300"
            ) from error
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=75.0
                ),  # a limit would hold sends back
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
            )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None  # a target is opened before it is sent to
        return self._session

    async def get_json(self, url: str) -> Any:
        """A small document at another address of the server; raises MachineError when it is not to be had."""
        import aiohttp
        import msgspec

        try:
            async with self.session.get(url, timeout=aiohttp.ClientTimeout(total=CONNECT_S)) as response:
                body = await response.read()
                if response.status != 200:
                    raise MachineError(
                        f"{url} answers {response.status}: {_shown(body)}",
                        help="check the address",
                        code="E300",
                    )
                return msgspec.json.decode(body)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            raise MachineError(
                f"{url} gives no document: {_named(error)}",
                help="start the server, check the address",
                code="E300",
            ) from error

    async def post(self, prepared: Prepared, budget_s: float, hear: Hear) -> Response:
        """Send one request and read its answer, whole or as events; what goes wrong is in the response."""
        import aiohttp

        headers = prepared.headers
        if math.isfinite(budget_s):
            headers = {**headers, "x-tauten-deadline-ms": f"{max(1.0, budget_s * 1e3):.0f}"}
        outputs: list[float] = []
        try:
            async with self.session.post(self.url, data=prepared.body, headers=headers) as response:
                if response.status >= 300:
                    return _refusal(response.status, await response.read())
                if response.content_type == "text/event-stream":
                    return await self._events(response, hear, outputs)
                heard = hear("", await response.read())
                if heard.error:  # a gateway whose provider failed may say so under a 200
                    return Response("failed", error=heard.error)
                return Response(tokens=heard.tokens)
        except aiohttp.ClientConnectorError as error:
            code = error.os_error.errno
            return Response("failed", error=f"no connection: {_cause(error.os_error)}", unsent=code in OWN)
        except aiohttp.ClientError as error:
            return Response("failed", outputs=tuple(outputs), error=f"cut: {_named(error)}", lost=True)

    async def _events(self, response: aiohttp.ClientResponse, hear: Hear, outputs: list[float]) -> Response:
        tokens, failed = 0, ""
        async with contextlib.aclosing(events(response.content.iter_any())) as found:
            async for name, data in found:
                heard = hear(name, data)
                tokens = heard.tokens or tokens
                failed = failed or heard.error
                if heard.increment:
                    outputs.append(self.clock())
        if failed:
            return Response("failed", outputs=tuple(outputs), error=failed, tokens=tokens)
        return Response(outputs=tuple(outputs), tokens=tokens)


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, bytes], None]:
    """(event name, data) of a server-sent stream, as soon as each is whole; comments are left out."""
    buffer = b""
    async for chunk in chunks:
        buffer = (buffer + chunk).replace(b"\r\n", b"\n")
        *whole, buffer = buffer.split(b"\n\n")
        for block in whole:
            if (event := _event(block)) is not None:
                yield event
    if (event := _event(buffer)) is not None:
        yield event


def _event(block: bytes) -> tuple[str, bytes] | None:
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip().decode("utf-8", "replace")
    return (name, b"\n".join(data)) if data else None


def _refusal(status: int, body: bytes) -> Response:
    outcome: Outcome = "failed"
    if status in REFUSED:
        outcome = "refused"
    elif status in TIMED_OUT:
        outcome = "timed_out"
    wrong = 400 <= status < 500 and outcome == "failed"
    return Response(outcome, error=f"HTTP {status}: {_shown(body)}", wrong=wrong)


def _shown(body: bytes) -> str:
    return " ".join(body.decode("utf-8", "replace").split())[:SHOWN]


def _cause(error: OSError) -> str:
    """Its number by name, then what the system says of it; a name that was not found has neither."""
    if error.errno is not None and error.errno in errno.errorcode:
        return f"{errno.errorcode[error.errno]}, {os.strerror(error.errno)}"
    return str(error)[:SHOWN]


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:SHOWN]
