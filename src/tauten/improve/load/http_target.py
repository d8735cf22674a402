"""What the targets behind a URL share: one client; what a request is and what an event means is theirs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from tauten.describe.payload import Payload
from tauten.improve.load.http import Heard, HttpClient, Prepared
from tauten.improve.load.target import Response


class HttpTarget(ABC):
    """A `Target` that posts to one URL."""

    shares_loop = False

    def __init__(self, client: HttpClient, name: str) -> None:
        self.client, self.name = client, name

    async def open(self) -> None:
        await self.client.open()

    @abstractmethod
    def prepare(self, inputs: Mapping[str, Payload]) -> Prepared:
        """One request as this API wants it."""

    async def send(self, prepared: Prepared, budget_s: float) -> Response:
        return await self.client.post(prepared, budget_s, self.hear)

    @staticmethod
    @abstractmethod
    def hear(event: str, data: bytes) -> Heard:
        """What one event of a stream means; a whole answer comes as one event without a name."""

    def zombies(self) -> int | None:
        """A server elsewhere does not tell."""
        return None

    async def close(self) -> None:
        await self.client.close()
