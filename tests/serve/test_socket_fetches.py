"""Increments of a WebSocket that are named by address: the socket is read on while they are fetched."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import tauten as tt
from serve.kit_asgi import site
from serve.kit_stream import Talk, settle
from tauten.clock import run_virtual
from tauten.errors import InputError, MachineError
from tauten.run.engine import Engine
from tauten.serve.door import Door
from tauten.serve.native.dialogue import FEED
from tauten.serve.safety.safe_fetch import SIDE_BY_SIDE
from tauten.serve.samples import picture
from tauten.serve.service import Service

LIMIT_S = 0.1  # until a fetch that nobody wants any more has stopped


@tt.stage
async def measured(photos: tt.Stream[tt.Image]) -> tt.Stream[int]:  # type: ignore[misc]
    async for photo in photos:
        yield photo.size_bytes


@tt.workflow
def measure(photos: tt.Stream[tt.Image]) -> tt.Stream[int]:
    return measured(photos)


class Origin:
    """Pictures by address, each when it is let go; its size says which it is."""

    def __init__(self) -> None:
        self.go: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.stopped: dict[str, float] = {}  # when
        self.running = self.most = 0

    def let(self, *urls: str) -> None:
        for url in urls:
            self.go.setdefault(url, asyncio.Event()).set()

    async def fetch(self, url: str) -> bytes:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.setdefault(url, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.stopped[url] = asyncio.get_running_loop().time()
            raise
        finally:
            self.running -= 1
        if url in self.errors:
            raise self.errors[url]
        return picture() + b"." * int(url)


def size(url: int) -> int:
    return len(picture()) + url


def photo(url: int) -> dict[str, Any]:
    return {"type": "input", "input": "photos", "value": {"url": str(url)}}


END = {"type": "end", "input": "photos"}


@asynccontextmanager
async def talking(origin: Origin) -> AsyncIterator[Talk]:
    """A socket whose server tells of a departure only to who reads."""
    now = asyncio.get_running_loop().time
    service = Service(measure, engine=Engine(clock=now))
    async with site(service, door=Door(fetch=origin.fetch), apis=["native"]) as app:
        talk = Talk(app, "/v1/workflows/measure/ws")
        assert await talk.hear() == "websocket.accept"
        talk.say({"inputs": {}})
        assert (await talk.hear())["type"] == "started"
        yield talk
    assert len(asyncio.all_tasks()) == 1, "nothing runs on"


def virtual(body: Callable[[Talk, Origin], Awaitable[None]]) -> None:
    async def main() -> None:
        origin = Origin()
        async with talking(origin) as talk:
            await body(talk, origin)
            if not talk.task.done():
                await talk.leave()

    run_virtual(main())


@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_who_cancels_or_leaves_stops_what_is_fetched(how: str) -> None:
    async def body(talk: Talk, origin: Origin) -> None:
        for url in range(1, 2 * SIDE_BY_SIDE):
            talk.say(photo(url))
        await asyncio.sleep(1.0)
        assert origin.running == SIDE_BY_SIDE
        before = asyncio.get_running_loop().time()
        if how == "cancel":
            talk.say({"type": "cancel"})
            assert (await talk.hear())["error"]["code"] == "E403"
            await settle()
        else:
            await asyncio.wait_for(talk.leave(), LIMIT_S)
        assert origin.stopped.keys() == {str(1 + number) for number in range(SIDE_BY_SIDE)}
        assert max(origin.stopped.values()) - before < LIMIT_S
        if how == "cancel":
            talk.say({"inputs": {}})
            assert (await talk.hear())["type"] == "started", "the socket goes on"

    virtual(body)


def test_increments_keep_their_order_whichever_is_there_first() -> None:
    async def body(talk: Talk, origin: Origin) -> None:
        talk.say(photo(1))
        talk.say(picture())
        talk.say(photo(2))
        talk.say(END)
        origin.let("2")
        await settle()
        assert origin.running == 1
        origin.let("1")
        heard = [await talk.hear() for _ in range(4)]
        assert [each.get("output") for each in heard] == [size(1), size(0), size(2), None]
        assert heard[-1]["type"] == "done"

    virtual(body)


def test_what_follows_is_read_up_to_a_bound_and_fetched_a_few_at_a_time() -> None:
    count = 2 * FEED

    async def body(talk: Talk, origin: Origin) -> None:
        for url in range(1, count + 1):
            talk.say(photo(url))
        talk.say(END)
        for _ in range(20):
            await settle()
        assert (origin.running, origin.most) == (SIDE_BY_SIDE, SIDE_BY_SIDE)
        assert count - FEED - 2 <= talk.unread <= count - FEED
        origin.let(*map(str, range(1, count + 1)))
        heard = [await talk.hear() for _ in range(count + 1)]
        assert [each.get("output") for each in heard[:-1]] == [size(url) for url in range(1, count + 1)]
        assert (heard[-1]["type"], origin.most) == ("done", SIDE_BY_SIDE)

    virtual(body)


def test_the_room_of_the_door_is_shared() -> None:
    async def body(talk: Talk, origin: Origin) -> None:
        talk.say(photo(1))
        await settle()
        assert origin.running == 0
        origin.door.connections.release()
        origin.let("1")
        assert (await talk.hear())["output"] == size(1)

    async def main() -> None:
        origin: Any = Origin()
        origin.door = Door(fetch=origin.fetch)
        origin.door.connections = asyncio.Semaphore(0)
        service = Service(measure, engine=Engine(clock=asyncio.get_running_loop().time))
        async with site(service, door=origin.door, apis=["native"]) as app:
            talk = Talk(app, "/v1/workflows/measure/ws")
            await talk.hear()
            talk.say({"inputs": {}})
            await talk.hear()
            await body(talk, origin)
            await talk.leave()

    run_virtual(main())


def test_one_that_cannot_be_had_is_told_and_the_others_come() -> None:
    async def body(talk: Talk, origin: Origin) -> None:
        origin.errors["1"] = InputError("no picture there", code="E242")
        for url in (1, 2):
            talk.say(photo(url))
        talk.say(END)
        origin.let("1", "2")
        heard = [await talk.hear() for _ in range(3)]
        assert heard[0]["error"]["code"] == "E242"
        assert (heard[1]["output"], heard[2]["type"]) == (size(2), "done")

    virtual(body)


def test_a_mistake_of_the_machine_fails_the_request_and_not_the_socket() -> None:
    async def body(talk: Talk, origin: Origin) -> None:
        origin.errors["1"] = MachineError("no sockets are left", code="E303")
        talk.say(photo(1))
        origin.let("1")
        assert (await talk.hear())["type"] == "error"
        talk.say({"inputs": {}})
        assert (await talk.hear())["type"] == "started"

    virtual(body)
