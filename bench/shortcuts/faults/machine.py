"""Faults of the machine under our server: slow names, a shared cache that dies, a full disk, a locked book, a clock."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from bench.shortcuts.faults import causes, names
from bench.shortcuts.faults.faults import FEW, LATE, REOPENS_S
from bench.shortcuts.faults.wall import REMOTE, Around, Fault, Wall, told, whole

UNREADABLE: Final = "E453"  # budgets that nobody can read let nothing through
SLOW_S: Final = 2.0  # of a name: more than three budgets
DAY_S: Final = 86_400.0
SAME: Final = "How deep is the sea?"  # asked again and again: what a cache is for
CACHED: Final = f'{REMOTE}provider = "first"\ncache = {{ tiers = ["redis"] }}'
BUDGETS: Final = 'tauten = "budgets/1"\n[budget.all]\ncalls = 1000000\nperiod = "day"\n'
SMALL: Final = BUDGETS.replace("1000000", "60")  # of fewer than 100 calls nothing is held beforehand
Prepared = tuple[Around, Fault]
Prepare = Callable[[], AbstractAsyncContextManager[Prepared]]
"""What a fault needs around the server, and the fault; raises CannotCause where that cannot be had."""


@contextlib.asynccontextmanager
async def slow_names() -> AsyncIterator[Prepared]:
    """A resolver that takes two seconds: the budget ends it, or a second provider answers; then it is quick again."""
    if why := await asyncio.to_thread(names.why_not):
        raise causes.CannotCause(why)
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        async with names.name_server() as resolver:

            async def fault(wall: Wall) -> None:
                resolver.wait_s = SLOW_S
                await wall.ask("alone", FEW, told(LATE), at_once=FEW)
                await wall.ask("both", FEW, whole, at_once=FEW)
                wall.must(resolver.asked > 0, "nobody asked for the name")
                resolver.wait_s = 0.0
                await asyncio.sleep(SLOW_S + REOPENS_S)
                await wall.ask("alone", FEW, whole)

            yield Around(before=names.before(Path(folder)), host=f"first.{names.SUFFIX}"), fault


@contextlib.asynccontextmanager
async def dead_cache() -> AsyncIterator[Prepared]:
    """Redis is killed: what it held is computed again, in time; when it is back it is used again."""
    async with causes.redis() as server:

        async def fault(wall: Wall) -> None:
            await _hits(wall, "before it died")
            await server.kill()
            await wall.ask("cached", FEW, whole, prompt=SAME)
            await wall.ask("cached", FEW, whole)
            await server.start()
            await _hits(wall, "after it came back")

        yield Around(env={"TAUTEN_REDIS": server.address}, plans={"cached": CACHED}), fault


async def _hits(wall: Wall, when: str) -> None:
    """Ask until an answer comes from the cache; each answer is whole meanwhile."""

    async def hit() -> bool:
        before = (await wall.first.count()).calls
        await wall.ask("cached", 1, whole, prompt=SAME)
        return (await wall.first.count()).calls == before

    wall.must(await wall.until(hit, 4.0), f"no hit {when}")


@contextlib.asynccontextmanager
async def full_disk() -> AsyncIterator[Prepared]:
    """Not a byte is left for the book: requests go on, and their lines are written when there is room again."""
    with causes.small_disk() as disk:

        async def fault(wall: Wall) -> None:
            await wall.ask("alone", FEW, whole)
            disk.fill()
            await wall.ask("alone", 3 * FEW, whole)
            wall.must(await _unwritten(wall), "the book was written all the same")
            disk.free()

        yield Around(book=str(disk.folder / "book.db")), fault


@contextlib.asynccontextmanager
async def locked_book() -> AsyncIterator[Prepared]:
    """Another process holds the book: requests go on, and their lines are written when it lets go."""
    with _own_book() as around:

        async def fault(wall: Wall) -> None:
            await wall.ask("alone", FEW, whole)
            await wall.until(lambda: _written(wall))
            await _goes_on(wall, around.book)

        yield around, fault


@contextlib.contextmanager
def _own_book(budgets: str = "") -> Iterator[Around]:
    """A server with a book in a folder of its own, in which budgets lie where there are any."""
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        file, words = Path(folder) / "budgets.toml", list[str]()
        if budgets:
            file.write_text(budgets)
            words = ["--budgets", str(file)]
        yield Around(book=str(Path(folder) / "book.db"), words=words)


async def _goes_on(wall: Wall, book: str) -> None:
    """Requests see nothing of a book that is locked; their lines wait."""
    with causes.locked(book):
        await wall.ask("alone", 3 * FEW, whole)
        wall.must(await _unwritten(wall), "the book was written all the same")


@contextlib.asynccontextmanager
async def locked_budgets() -> AsyncIterator[Prepared]:
    """The same where every call asks a budget in it: nothing is spent uncounted, and refusals say when to come again."""
    with _own_book(SMALL) as around:

        async def fault(wall: Wall) -> None:
            await wall.ask("alone", FEW, whole)
            await wall.until(lambda: _written(wall))
            before = (await wall.first.count()).calls
            with causes.locked(around.book):
                await wall.ask("alone", 2, told(LATE, UNREADABLE), at_once=2)
                await wall.ask("alone", 1, told(UNREADABLE), budget_ms=20_000.0)  # behind those two
            made = (await wall.first.count()).calls - before
            wall.must(made == 0, f"{made} calls were made that no budget knew of")
            await wall.ask("alone", FEW, whole, budget_ms=5000.0)

        yield around, fault


@contextlib.asynccontextmanager
async def room_in_hand() -> AsyncIterator[Prepared]:
    """A large budget, of which the server holds room beforehand: what it holds is spent on, and settled afterwards."""
    with _own_book(BUDGETS) as around:

        async def fault(wall: Wall) -> None:
            await wall.ask("alone", FEW, whole)
            await _goes_on(wall, around.book)
            await wall.ask("alone", FEW, whole, budget_ms=5000.0)

        yield around, fault


@contextlib.asynccontextmanager
async def jumping_clock() -> AsyncIterator[Prepared]:
    """The wall clock jumps a day ahead and two back, in the middle of streams: no answer and no count changes."""
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        clock = causes.WallClock(Path(folder))
        file = Path(folder) / "budgets.toml"
        file.write_text(BUDGETS)

        async def fault(wall: Wall) -> None:
            await wall.first.acts(usual={"do": "says", "words": 8, "gap_s": 0.03})
            for off_s in (DAY_S, -DAY_S, 0.0):
                asked = asyncio.create_task(wall.ask("alone", FEW, whole, at_once=FEW, budget_ms=2000.0))
                await asyncio.sleep(0.1)  # streams of a quarter of a second are in their midst
                clock.jump(off_s)
                await asked
                await wall.ask("alone", FEW, whole, at_once=FEW, budget_ms=2000.0)

        env = clock.env(os.environ.get("PYTHONPATH", ""))
        yield Around(env=env, words=["--budgets", str(file)]), fault


async def _unwritten(wall: Wall) -> bool:
    """Whether lines come to wait for the book."""

    async def waits() -> bool:
        return await wall.metric("tauten_usage_failures_total") > 0

    return await wall.until(waits)


async def _written(wall: Wall) -> bool:
    return await wall.metric("tauten_usage_written_total") >= len(wall.seen)


MACHINE: Final[Mapping[str, Prepare]] = {
    "names resolve slowly": slow_names,
    "Redis is killed, and comes back": dead_cache,
    "the disk is full": full_disk,
    "the usage database is locked": locked_book,
    "it is locked, and every call asks a budget in it": locked_budgets,
    "it is locked, and of a budget there is room in hand": room_in_hand,
    "the wall clock jumps": jumping_clock,
}
