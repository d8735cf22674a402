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


@tt.stage
async def remembered(text: str, session: tt.Session) -> str:
    session.say("user", text)
    return " ".join(turn["content"] for turn in session.history)


@tt.workflow
def remember(text: str, session: tt.Session) -> str:
    return remembered(text)


class Till:
    """An effect that is counted, waits until it may go on, and fails where it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.go = asyncio.Event()
        self.go.set()
        self.errors: list[Exception] = []

    def fail(self) -> None:
        """Raise what it was told to, once each."""
        if self.errors:
            raise self.errors.pop()

    async def charge(self) -> None:
        """The effect."""
        self.runs += 1
        await self.go.wait()
        self.fail()


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
