"""What an app has under way on a WebSocket, which says so itself: a server that ends closes no socket before it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

UNDER_WAY = "tauten.under_way"  # in a scope's extensions


class UnderWay:
    """Counts it; a socket of an app that never does is idle."""

    def __init__(self) -> None:
        self.count = 0

    def until(self, task: asyncio.Future[Any]) -> None:
        """One more, until a task has ended."""
        self.count += 1
        task.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Future[Any]) -> None:
        self.count -= 1
