"""Any URL that takes a POST: one input as the body, as it is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tauten.describe.payload import Payload
from tauten.errors import InputError
from tauten.improve.load.http import Heard, HttpClient, Prepared
from tauten.improve.load.target import Response


class RawTarget:
    """The peers of a benchmark, and whatever speaks no protocol by name."""

    shares_loop = False

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self.name = client.url

    async def open(self) -> None:
        await self.client.open()

    def prepare(self, inputs: Mapping[str, Payload]) -> Any:
        if len(inputs) != 1:
            raise InputError(
                f"{len(inputs)} inputs for one body",
                help="give one: body=@FILE, body=TEXT or body=JSON",
                code="E205",
            )
        (value,) = inputs.values()
        return Prepared(value.data, {"content-type": value.type})

    async def send(self, prepared: Any, budget_s: float) -> Response:
        return await self.client.post(prepared, budget_s, hear)

    def zombies(self) -> int | None:
        return None

    async def close(self) -> None:
        await self.client.close()


def hear(event: str, data: bytes) -> Heard:
    """Each event of a stream is an increment."""
    return Heard(increment=bool(data) and data != b"[DONE]")
