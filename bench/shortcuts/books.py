"""The book of usage of a server, read back and compared with what a stand-in provider counted itself."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence

from bench.shortcuts.provider.running import Count

from tauten.run.usage.database import DatabaseBusy, open_database
from tauten.run.usage.row import COLUMNS, UsageRow, row_of

EXTRA = ("retry", "hedge", "fallback", "continue", "mirror")  # why a call is made beside or after the first


def read(place: str) -> list[UsageRow]:
    """Every line, in the order of their making; none where nothing was ever written."""
    database = open_database(place)
    try:
        found = database.fetch(f"SELECT {', '.join(COLUMNS)} FROM usage ORDER BY at_ms, id")
    finally:
        database.close()
    return [row_of(values) for values in found]


async def settled(place: str, requests: int, patience_s: float = 10.0) -> list[UsageRow]:
    """The lines once so many requests are in them, or as they are after a while: they are written behind."""
    rows: list[UsageRow] = []
    for _ in range(max(1, int(patience_s / 0.1))):
        with contextlib.suppress(DatabaseBusy):  # whoever writes comes first
            rows = await asyncio.to_thread(read, place)
        if sum(row.asked for row in rows) >= requests:
            break
        await asyncio.sleep(0.1)
    return rows


def billed(rows: Sequence[UsageRow], providers: Sequence[str]) -> Count:
    """Calls to these providers, and the tokens that the book has of them."""
    theirs = [row for row in rows if row.provider in providers]
    sums = [
        round(sum(row.units.get(unit, 0.0) for row in theirs)) for unit in ("input_tokens", "output_tokens")
    ]
    return Count(len(theirs), *sums)


def gap(rows: Sequence[UsageRow], providers: Sequence[str], counted: Sequence[Count]) -> int:
    """Tokens by which the book and the providers' own counts differ: prompts and answers each by themselves."""
    ours = billed(rows, providers)
    theirs = [sum(amounts) for amounts in zip(*counted, strict=True)]
    return abs(ours.input_tokens - theirs[1]) + abs(ours.output_tokens - theirs[2])


def extra(rows: Sequence[UsageRow], providers: Sequence[str]) -> dict[str, int]:
    """How many calls were made again, beside, or instead of others."""
    found = Counter(row.why for row in rows if row.provider in providers)
    return {why: found[why] for why in EXTRA if found[why]}


def ended(rows: Sequence[UsageRow], providers: Sequence[str]) -> dict[str, int]:
    """How the calls came out: ok, cancelled, cut, failed, refused."""
    return dict(Counter(row.outcome for row in rows if row.provider in providers))


def dollars(rows: Sequence[UsageRow]) -> float | None:
    """What they cost; None where one of them has no price."""
    if any(row.nano is None for row in rows):
        return None
    return sum(row.nano or 0 for row in rows) / 1e9
