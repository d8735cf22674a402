"""The writing side of a connection: who waits while its client reads too slowly."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio


class Outflow(asyncio.Protocol):
    """Back-pressure: the transport says when its buffer is full, `writable` waits until it is not."""

    stalled = False  # more is buffered than the limit
    stalled_since = 0.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: list[asyncio.Future[None]] = []

    def pause_writing(self) -> None:
        self.stalled = True
        self.stalled_since = self._loop.time()

    def resume_writing(self) -> None:
        self.stalled = False
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)

    async def writable(self) -> None:
        """Wait until the client has read; returns as well when the connection is gone."""
        while self.stalled:
            writer = self._loop.create_future()
            self._writers.append(writer)
            await writer
