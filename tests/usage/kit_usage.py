"""A stand-in provider that keeps its own count, workflows that ask it, and books that need no thread."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tauten as tt
from tauten.describe.stage import Context
from tauten.run.usage.book import Book
from tauten.run.usage.call import Call
from tauten.run.usage.prices import Prices
from tauten.run.usage.row import UsageRow, row_of
from tauten.run.usage.sqlite import Sqlite

PRICES = """
tauten = "prices/1"
[[price]]
provider = "house"
model = "small"
per_million = { input_tokens = "1.00", cached_tokens = "0.10", output_tokens = 2.5 }
[[machine]]
core_hour = "0.036"
"""


class Provider:
    """Counts what it gives, as a provider bills it: a stream that is cut costs what came of it."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.calls = 0

    async def call(
        self,
        trace: Any,
        clock: Any,
        *,
        read: int,
        made: int,
        token_s: float = 0.0,
        ends: str = "ok",
        why: str = "",
        step: str = "ask",
        model: str = "small",
    ) -> None:
        """One attempt; it ends as said, or by being cancelled, and is booked as it ended."""
        self.calls += 1
        started, given, outcome = clock(), 0, "cancelled"
        if ends != "refused":
            self.counted["input_tokens"] += read
        try:
            for _ in range(0 if ends == "refused" else made):
                await asyncio.sleep(token_s)
                given += 1
                self.counted["output_tokens"] += 1
            outcome = ends
        finally:
            units = {} if ends == "refused" else {"input_tokens": read, "output_tokens": given}
            trace.provider_calls.append(
                Call(
                    step=step,
                    provider="house",
                    model=model,
                    started=started,
                    ended=clock(),
                    outcome=outcome,  # type: ignore[arg-type]
                    units=units,
                    why=why,
                )
            )


PROVIDER = Provider()
MIRRORS: set[asyncio.Task[None]] = set()


@tt.stage
async def ask(ctx: Context, attempts: tt.Json) -> str:
    """Makes the attempts one after the other, with those beside and after it that they ask for."""
    request, clock = ctx.request, ctx.request.clock  # type: ignore[attr-defined]
    for each in attempts.value:
        plain = {name: value for name, value in each.items() if name not in ("beside", "mirrored")}
        if each.get("mirrored"):
            task = asyncio.ensure_future(PROVIDER.call(request.trace, clock, **{**plain, "why": "mirror"}))
            MIRRORS.add(task)
            continue
        work = [PROVIDER.call(request.trace, clock, **plain)]
        if each.get("beside"):
            work.append(PROVIDER.call(request.trace, clock, **{**plain, "why": "hedge"}))
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return "answered"


@tt.stage
async def tell(ctx: Context, words: tt.Json) -> tt.Stream[str]:  # type: ignore[misc]
    """Gives as many words as it is told, from one call to the provider."""
    request = ctx.request  # type: ignore[attr-defined]
    answer = PROVIDER.call(request.trace, request.clock, read=4, made=words.value, token_s=0.01, step="tell")
    call = asyncio.ensure_future(answer)
    try:
        for _ in range(words.value):
            await asyncio.sleep(0.01)
            yield "word "
        await call
    finally:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)


@tt.workflow
def telling(words: tt.Json) -> tt.Stream[str]:
    return tell(words)  # type: ignore[call-arg,arg-type]


@tt.workflow
def asking(attempts: tt.Json) -> str:
    return ask(attempts)  # type: ignore[call-arg,arg-type]


def prices(folder: Path, text: str = PRICES, *, bundled: bool = False) -> Prices:
    file = folder / "prices.toml"
    file.write_text(text)
    return Prices([file], bundled=bundled)


def quiet(folder: Path, **options: Any) -> Book:
    """A book whose thread is not started: `rows` writes what it has."""
    return Book(str(folder / "book.db"), prices(folder), **options)


def rows(book: Book) -> list[UsageRow]:
    """Everything that was booked, written and read again."""
    database = Sqlite(book.place)
    try:
        book.note()
        book.write(database)
        return stored(database)
    finally:
        database.close()


def stored(database: Any) -> list[UsageRow]:
    from tauten.run.usage.row import COLUMNS

    return [
        row_of(values) for values in database.fetch(f"SELECT {', '.join(COLUMNS)} FROM usage ORDER BY id")
    ]


def summed(lines: Sequence[UsageRow]) -> dict[str, float]:
    """What providers were booked for."""
    sums: Counter[str] = Counter()
    for line in lines:
        if line.provider == "house":
            sums.update({name: int(amount) for name, amount in line.units.items()})
    return {name: amount for name, amount in sums.items() if amount}


def attempt(read: int = 10, made: int = 3, **more: Any) -> Mapping[str, Any]:
    return {"read": read, "made": made, **more}


def fresh() -> Iterator[Provider]:
    """The stand-in with nothing counted."""
    PROVIDER.counted.clear()
    PROVIDER.calls = 0
    MIRRORS.clear()
    yield PROVIDER
