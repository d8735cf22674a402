"""Small workflows that several tests of the server serve."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

import tauten as tt


class Order(msgspec.Struct):
    """What a workflow may take that is no payload."""

    item: str
    count: int = 1


@tt.stage(pure=True)
async def shout(text: str) -> str:
    return text.upper()


@tt.workflow
def shouted(text: str) -> str:
    return shout(text)


def endless(stopped: asyncio.Event) -> Any:
    """The workflow `wait`, which never ends by itself and says when it was stopped."""

    @tt.stage
    async def waits(text: str) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return text

    @tt.workflow
    def wait(text: str) -> str:
        return waits(text)

    return wait
