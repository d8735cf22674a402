"""Virtual time: in order, at once, and never stuck in silence."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading

import pytest

from tauten.clock import VirtualLoop, run_virtual


def loop_of_this() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def test_timers_of_one_instant_fire_in_the_order_in_which_they_were_set() -> None:
    async def main() -> list[int]:
        fired: list[int] = []
        loop = loop_of_this()
        for number in range(20):
            loop.call_at(1.0, fired.append, number)
        loop.call_at(0.5, fired.append, -1)
        await asyncio.sleep(2.0)
        return fired

    assert run_virtual(main()) == [-1, *range(20)]


def test_cancelled_timers_neither_fire_nor_stay() -> None:
    async def main() -> tuple[list[int], int]:
        fired: list[int] = []
        loop = loop_of_this()
        timers = [loop.call_later(60.0 + number, fired.append, number) for number in range(1000)]
        for timer in timers[1:]:
            timer.cancel()
        left = len(loop._timers)
        await asyncio.sleep(3600.0)
        return fired, left

    fired, left = run_virtual(main())
    assert fired == [0]
    assert left < 600


def test_time_is_skipped_only_where_nothing_happens_meanwhile() -> None:
    async def main() -> None:
        loop = loop_of_this()
        assert loop.skips(1.0)
        assert loop.time() == 1.0
        loop.call_at(3.0, int)
        assert loop.skips(1.0)
        assert not loop.skips(1.0), "a timer is due by then"
        loop.call_soon(int)
        assert not loop.skips(0.1), "somebody is ready now"
        assert loop.time() == 2.0

    run_virtual(main())


def test_a_callback_that_fails_is_told_and_the_loop_goes_on() -> None:
    async def main() -> list[str]:
        told: list[str] = []
        loop = loop_of_this()
        loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        loop.call_soon(int, "no number")
        await asyncio.sleep(1.0)
        return told

    [message] = run_virtual(main())
    assert "no number" in message


def test_another_thread_wakes_it_and_nobody_is_a_deadlock() -> None:
    async def woken() -> str:
        loop = loop_of_this()
        future = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, "woken"))
        thread.start()
        thread.join()
        return str(await future)

    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    assert run_virtual(woken()) == "woken"
    with pytest.raises(RuntimeError, match="virtual deadlock"):
        run_virtual(stuck())
