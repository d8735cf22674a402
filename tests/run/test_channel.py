"""Streamed edges: bounds, several readers, ends and errors."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.run.channel import Channel, Reader
from tauten.run.trace import Trace


def made(bound: int, *names: str) -> tuple[Channel, list[Reader], Trace]:
    clock = asyncio.get_running_loop().time
    trace = Trace(clock())
    channel = Channel(bound)
    return channel, [channel.reader(trace, name, clock) for name in names], trace


async def fill(channel: Channel, count: int, sent: list[int]) -> None:
    for number in range(count):
        await channel.send(number)
        sent.append(number)
    channel.end()


def test_the_slowest_reader_holds_the_producer() -> None:
    async def main() -> None:
        channel, (fast, slow), _ = made(2, "fast", "slow")
        sent: list[int] = []
        producer = asyncio.ensure_future(fill(channel, 10, sent))
        quick = asyncio.ensure_future(collect(fast))
        assert await anext(slow) == 0
        await asyncio.sleep(1)
        assert sent == [0, 1, 2]
        assert [number async for number in slow] == list(range(1, 10))
        assert await quick == list(range(10))
        await producer

    run_virtual(main())


async def collect(reader: Reader) -> list[Any]:
    return [value async for value in reader]


def test_a_reader_that_has_not_begun_holds_nobody() -> None:
    async def main() -> None:
        channel, (first, later), _ = made(1, "first", "later")
        producer = asyncio.ensure_future(fill(channel, 5, []))
        assert await collect(first) == list(range(5))
        assert await collect(later) == list(range(5))
        await producer

    run_virtual(main())


def test_an_unread_channel_takes_what_comes_once_the_request_stands_still_by_it() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        trace, beside = Trace(clock()), list[Channel]()
        source, later = (Channel(2, beside) for _ in range(2))
        first, second = (source.reader(trace, name, clock) for name in ("first", "second"))
        unread = later.reader(trace, "unread", clock)
        sent: list[int] = []
        tasks = [asyncio.ensure_future(each) for each in (fill(source, 20, sent), pass_on(first, later))]
        await asyncio.sleep(1)
        assert len(sent) == 5, "while nobody waits for more, an unread channel holds back who fills it"
        assert await collect(second) == list(range(20))
        assert await collect(unread) == list(range(20))
        await asyncio.gather(*tasks)

    run_virtual(main())


async def pass_on(reader: Reader, channel: Channel) -> None:
    async for value in reader:
        await channel.send(value)
    channel.end()


def test_a_reader_that_leaves_holds_nobody() -> None:
    async def main() -> None:
        channel, (stays, leaves), _ = made(1, "stays", "leaves")
        producer = asyncio.ensure_future(fill(channel, 5, []))
        assert await anext(leaves) == 0
        reading = asyncio.ensure_future(collect(stays))
        await asyncio.sleep(1)
        assert not reading.done()
        await leaves.aclose()
        await leaves.aclose()
        assert await reading == list(range(5))
        await stays.aclose()
        assert channel.abandoned
        await producer

    run_virtual(main())


def test_an_error_comes_after_what_was_sent_and_every_time() -> None:
    async def main() -> None:
        channel, (reader,), _ = made(4, "reader")
        await channel.send(1)
        channel.end(ValueError("broken"))
        assert await anext(reader) == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                await anext(reader)
        assert channel.done

    run_virtual(main())


def test_what_a_reader_waits_is_a_row_of_its_step() -> None:
    async def main() -> None:
        channel, (reader,), trace = made(4, "reader")
        asyncio.get_running_loop().call_later(2.0, lambda: asyncio.ensure_future(fill(channel, 1, [])))
        assert await collect(reader) == [0]
        assert trace.rows == [("reader", "assemble", 0.0, 2.0)]

    run_virtual(main())
