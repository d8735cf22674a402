"""Media that a request names by address: fetched from public addresses only, within caps of size and time.

What stops a request from reaching into this network is in `run/decode/fetch.py`: every address of a name is checked
after it was resolved, the connection goes to the checked address, and each redirect is checked anew.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tauten.errors import InputError, MachineError
from tauten.run.decode.fetch import MAX_BYTES, Resolver, fetch
from tauten.run.request import Request

Fetch = Callable[[str], Awaitable[bytes]]

BYTES = min(32 * 1024 * 1024, MAX_BYTES)  # as much as a body may bring
TIMEOUT_S = 10.0  # of a request's own budget; a server that is slower would make every answer late
SIDE_BY_SIDE = 6  # connections for one request: what browsers open to one origin
CONNECTIONS = 64  # for all requests at a time: what they bring lies in memory, 2 GiB at the most


async def safe_fetch(
    url: str, *, resolve: Resolver | None = None, max_bytes: int = BYTES, timeout_s: float = TIMEOUT_S
) -> bytes:
    """The bytes at an http(s) address. Whatever goes wrong there is the request's mistake, not the server's.

    Raises InputError: E241 an address that is refused, E242 no good answer; MediaError E214 too large.
    """
    try:
        return await fetch(url, max_bytes=max_bytes, timeout_s=timeout_s, resolve=resolve)
    except MachineError as error:
        raise InputError(
            "the address did not give its media in time",
            help="send the bytes as a data URL: data:image/png;base64,...",
            code="E242",
        ) from error


class Fetches:
    """What one request has fetched: side by side within bounds, each in its trace.

    The SLO's clock stands still meanwhile, and for as long as one fetch may take a deadline that follows from it, too.
    One that the client `named` does not wait.
    """

    def __init__(self, request: Request, fetch: Fetch, room: asyncio.Semaphore, *, named: bool) -> None:
        self._request = request
        self._fetch = fetch
        self._room = room  # that it has in common with other requests
        self._patience_s = 0.0 if named else TIMEOUT_S
        self._own = asyncio.Semaphore(SIDE_BY_SIDE)
        self._running = 0
        self._since = self._deadline = (
            0.0  # when the first of those began that run, and what was the deadline then
        )

    async def __call__(self, url: str) -> bytes:
        async with self._own, self._room:
            began = self._begin()
            try:
                return await self._fetch(url)
            finally:
                self._end(began)

    def _begin(self) -> float:
        now = self._request.clock()
        if not self._running:
            self._since, self._deadline = now, self._request.deadline
            self._request.deadline += self._patience_s
        self._running += 1
        return now

    def _end(self, began: float) -> None:
        request, self._running = self._request, self._running - 1
        now = request.clock()
        request.trace.rows.append(("", "transfer", began, now))
        if not self._running:
            took_s = now - self._since
            request.start += took_s
            request.deadline = self._deadline + min(took_s, self._patience_s)
