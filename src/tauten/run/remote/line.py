"""The way to one endpoint over HTTP: a connection pool of its own, and answers that are read piece by piece."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, NamedTuple, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tauten.run.lookup import lookup
from tauten.run.remote.failure import Failure
from tauten.run.remote.phases import Phases, timed_tls, watching

_IDLE_S: Final = 30.0  # connections that nobody uses: providers close them after 30 to 60 s
_DRAIN_S: Final = 0.5  # for the last bytes of an answer that is whole: later ones are not worth a connection
MOST_BYTES: Final = 256 << 20  # of one answer: an hour of speech; what is longer is an error, not an answer


class Content(NamedTuple):
    """What is sent: JSON bytes, or fields of a form, of which files are (name, bytes, media type)."""

    body: bytes = b""
    form: Mapping[str, str | tuple[str, bytes, str]] | None = None
    headers: Mapping[str, str] = {}
    method: str = "POST"


class Reply(Protocol):
    """An answer that has begun."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Bytes as they come; raises Failure where they end before the answer does."""
        ...

    def release(self) -> None:
        """It was read to its end: the connection may serve another."""
        ...

    def close(self) -> None:
        """Nobody reads on: the connection is closed, which is how the provider learns of it."""
        ...


class Line(Protocol):
    """What carries calls to an endpoint."""

    async def send(self, path: str, content: Content, phases: Phases) -> Reply:
        """Send a call; raises Failure where no answer begins. Cancelling it closes its connection."""
        ...

    async def close(self) -> None: ...


class HttpLine:
    """Over aiohttp. `resolver` stands in for the system's."""

    def __init__(
        self,
        url: str,
        secret: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {**(headers or {}), **({"authorization": f"Bearer {secret}"} if secret else {})}
        connector = aiohttp.TCPConnector(
            limit=0,  # the deployment's slots and the endpoint's room bound it, where waiting is seen
            keepalive_timeout=_IDLE_S,
            ssl=timed_tls() if url.startswith("https:") else True,
            resolver=resolver or Names(),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),  # the call's own budget is kept by who sends it
            trace_configs=[watching()],
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )
        self._draining: set[asyncio.Task[None]] = set()

    async def send(self, path: str, content: Content, phases: Phases) -> Reply:
        data: Any = content.body or None if content.form is None else _form(content.form)
        kind = {"content-type": "application/json"} if content.body else {}
        if self._session.closed:
            raise Failure("denied", "the backend was closed")
        try:
            answer = await self._session.request(
                content.method,
                self._url + path,
                data=data,
                headers={**self._headers, **kind, **content.headers},
                allow_redirects=False,  # a provider that moves is a setting that changed; keys follow nobody
                trace_request_ctx=phases,
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Failure("fault", _words(error)) from error
        return _HttpReply(answer, self._draining)

    async def close(self) -> None:
        draining = list(self._draining)
        for task in draining:
            task.cancel()
        if draining:
            await asyncio.wait(draining)
        await self._session.close()


class Names(AbstractResolver):
    """The system's names; a look-up that hangs keeps nobody from ending."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await lookup(host, port, family, socket.AI_ADDRCONFIG)
        return [
            ResolveResult(
                hostname=host,
                host=_numbers(address),
                port=address[1],
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
            if len(address) > 1
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _numbers(address: tuple[Any, ...]) -> str:
    """An address without its port; one of a single link names that link."""
    scoped = len(address) > 3 and address[3]
    return f"{address[0]}%{address[3]}" if scoped and "%" not in address[0] else str(address[0])


def _form(fields: Mapping[str, str | tuple[str, bytes, str]]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in fields.items():
        if isinstance(value, str):
            form.add_field(name, value)
        else:
            filename, data, media_type = value
            form.add_field(name, data, filename=filename, content_type=media_type)
    return form


class _HttpReply:
    def __init__(self, answer: aiohttp.ClientResponse, draining: set[asyncio.Task[None]]) -> None:
        self._answer = answer
        self._draining = draining

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        size = 0
        try:
            async for piece in self._answer.content.iter_any():
                size += len(piece)
                if size > MOST_BYTES:
                    raise Failure("fault", f"an answer of more than {MOST_BYTES >> 20} MiB")
                yield piece
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Failure("fault", _words(error)) from error

    def release(self) -> None:
        """The end of the body may still be on its way; it is waited for beside, and not by the caller."""
        if self._answer.content.at_eof():
            self._answer.release()
            return
        task = asyncio.get_running_loop().create_task(self._drain())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(_DRAIN_S):
                async for _ in self.pieces():
                    pass
        except (TimeoutError, Failure):
            pass  # what was asked for is there; only the connection is lost
        finally:
            self._answer.release()  # which closes it where its body has not ended

    def close(self) -> None:
        self._answer.close()


def _words(error: BaseException) -> str:
    """An error as its kind and its words, on one line."""
    words = str(error).splitlines()
    return f"{type(error).__name__}: {words[0][:200]}" if words else type(error).__name__
