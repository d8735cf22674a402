"""The end of a stream's work: by its reader, or while its reader is away."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextvars import copy_context
from typing import Any

from tauten.run.deadline import disarm
from tauten.run.door.admission import Passage
from tauten.run.request import Request


class Ending:
    """What ends the work of a stream, once.

    Between two looks of its reader nobody awaits it. What stops the request then ends it in a task of its own, with
    the surroundings of the reader, so that places in queues and slots are free although nobody reads.
    """

    __slots__ = ("_context", "_passage", "_request", "_task", "_values")

    def __init__(self, request: Request, passage: Passage, values: AsyncGenerator[Any, None]) -> None:
        self._request = request
        self._passage = passage
        self._values = values
        self._context = copy_context()  # who stops it may do so from within another request
        self._task: asyncio.Task[None] | None = None
        request.unread = self._begin

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._end(), context=self._context)

    async def _end(self) -> None:
        disarm(self._request)
        self._passage.leave()
        try:
            await self._values.aclose()
        finally:
            self._passage.book()

    async def whole(self) -> None:
        """The reader has what it wanted, has left, or comes back to find out why: end it, or wait until it has ended."""
        self._request.unread = None
        await (self._end() if self._task is None else self._task)
