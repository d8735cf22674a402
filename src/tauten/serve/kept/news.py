"""A bell: whoever waits for it goes on when it is rung."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio


class News:
    """Something that happens again and again; each `wait` is for the next time."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Until it is told the next time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def tell(self) -> None:
        """Let all go on who wait now."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)
