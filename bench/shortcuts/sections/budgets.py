"""Budgets under a crowd: many calls at once against room for a quarter of them, on SQLite and on PostgreSQL."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from bench.ground.check import Check
from bench.shortcuts import books
from bench.shortcuts.faults.seen import MOST_TOKENS, Seen, ask, grouped
from bench.shortcuts.faults.wall import NAMES, QUICK_ACT, REMOTE, Around, Wall, told, wall, whole
from bench.shortcuts.postgres import postgres
from bench.shortcuts.provider.acts import Act, prompt_tokens
from bench.shortcuts.provider.running import Count, Provider, standin
from bench.shortcuts.section import Column, Measure, Row, Rows, Section, Settings, Subject, Value

from tauten.run.usage.budgets import Budgets, State
from tauten.run.usage.database import open_database
from tauten.run.usage.limits import read_limits
from tauten.run.usage.prices import Prices

Unit = Literal["calls", "tokens", "usd"]
UNITS: Final[Mapping[Unit, str]] = {"calls": "calls", "tokens": "tokens", "usd": "money"}
CROWD, WORTH = 200, 50  # calls at once, and those that there is room for (issue 5)
BUDGET_MS: Final = 60_000.0  # of a request: nobody is late here, whatever the machine does
NANO_IN, NANO_OUT = 150, 600  # billionths of a dollar for a token, as the bench's file of prices says
AHEAD_S: Final = (
    0.03  # of streams, which take more turns of the loop to ask: else whole answers take all the room
)
USED_UP: Final = "insufficient_quota"
PLAN: Final = f'{REMOTE}provider = "first"\nslots = 256'

COLUMNS = (
    Column("saw", "what the clients saw"),
    Column("asked", "calls"),
    Column("made", "made, by the provider's count"),
    Column("refused", "refused for want of room"),
    Column("of_budget", "spent of the budget", "share"),
    Column("over", "spent beyond it"),
    Column("gap_budget", "budget's count against the provider's"),
    Column("gap_tokens", "tokens that the book differs by"),
    Column("held", "still held"),
    Column("p50_ms", "p50 of what was answered", "ms"),
)


class Kind(NamedTuple):
    """One way in which a call ends, how often in ten, and what its client must see, unless there was no room."""

    act: Act
    right: Any
    share: int
    stream: bool | None = None  # None: in turn
    leave_after: int = 0


KINDS: Final = (
    Kind({"do": "says", "words": 8}, whole, 6),
    Kind({"do": "stops", "words": 2}, lambda seen: seen.left, 2, True, 2),
    Kind({"do": "cuts", "words": 2}, told("E461"), 1),
    Kind({"do": "status", "code": 400}, told("E230"), 1),
)
"""Whole answers and streams, cancelled ones, cut ones, and refusals that cost nothing."""


@contextlib.asynccontextmanager
async def opened(settings: Settings, only: Collection[str] = ()) -> AsyncIterator[Section]:
    """A server, a book and a budget for each row; `only` these rows."""
    crowd, worth = settings.pick((CROWD, WORTH), (40, 10))
    async with standin(QUICK_ACT) as first, standin(QUICK_ACT) as second:
        subjects = [
            Subject(f"{place}, {word}", _of(place, unit, (crowd, worth), first, second), True)
            for place in ("SQLite", "PostgreSQL")
            for unit, word in UNITS.items()
            if not only or f"{place}, {word}" in only
        ]
        yield Section(
            "budgets",
            "Budgets under a crowd",
            f"{crowd} concurrent calls against a budget of {worth} calls' worth spend at most the budget, and the books equal the "
            "provider's own count exactly, streams and cancelled calls included.",
            "All come at once, then more one after another until nothing is left. Of ten, six are answered whole (streams and not), "
            "two are left by their client after two words, one is cut by the provider, one is refused by it. A new server and a new book for each row.",
            COLUMNS,
            subjects,
            judge,
            conditions={
                "calls at once": crowd,
                "calls' worth": worth,
                "kinds": [dict(each.act) for each in KINDS],
            },
        )


def _of(place: str, unit: Unit, sizes: tuple[int, int], first: Provider, second: Provider) -> Measure:
    async def measure(number: int) -> Mapping[str, Value]:
        with tempfile.TemporaryDirectory(prefix="tb-") as name:
            async with _database(place, Path(name)) as book:
                return await _measured(unit, sizes, book, Path(name) / "budgets.toml", first, second)

    return measure


@contextlib.asynccontextmanager
async def _database(place: str, folder: Path) -> AsyncIterator[str]:
    if place != "PostgreSQL":
        yield str(folder / "book.db")
        return
    async with postgres() as address:
        yield address


async def _measured(
    unit: Unit, sizes: tuple[int, int], book: str, file: Path, first: Provider, second: Provider
) -> Mapping[str, Value]:
    """One crowd before one server, and what all who count say of it."""
    most = limit(unit, sizes[1])
    amount = f"{unit} = {written(unit, most)}"
    file.write_text(f'tauten = "budgets/1"\n[budget.all]\n{amount}\nperiod = "ever"\n')
    around = Around(words=["--budgets", str(file)], plans={"alone": PLAN}, book=book)
    before = await first.quiet()
    async with wall(first, second, around) as one:
        found = await _crowd(one, sizes[0])
        counted = (await first.quiet()).since(before)
        rows = await books.settled(book, len(found))
        state = await _settled(book, file)
    return figures(unit, most, found, counted, state, books.gap(rows, NAMES, [counted]))


# -- the crowd -----------------------------------------------------------------------------------------------


def prompt(act: Act, number: int) -> str:
    """What a call says: it asks for its own act, and its number makes it one of its kind."""
    return f"[[{json.dumps(act)}]] How is the sea? {number:06d}"


def kind(number: int) -> Kind:
    """The kinds of ten calls, one after another."""
    order = [each for each in KINDS for _ in range(each.share)]
    return order[number % len(order)]


def streams(number: int) -> bool:
    """Whether a call asks for a stream: who leaves does, of the others every second ten."""
    wanted = kind(number).stream
    return bool(number // 10 % 2) if wanted is None else wanted


async def _crowd(one: Wall, count: int) -> list[tuple[Kind, Seen]]:
    """All at once; then one after another until the budget has no room for a whole answer."""

    async def call(number: int, what: Kind) -> tuple[Kind, Seen]:
        about = {"stream": streams(number), "budget_ms": BUDGET_MS, "leave_after": what.leave_after}
        return what, await ask(one.client, one.url, "alone", prompt(what.act, number), **about)

    calls = [asyncio.ensure_future(call(number, kind(number))) for number in range(count) if streams(number)]
    await asyncio.sleep(AHEAD_S)
    calls += [
        asyncio.ensure_future(call(number, kind(number))) for number in range(count) if not streams(number)
    ]
    found = list(await asyncio.gather(*calls))
    for number in range(count, 2 * count):
        found.append(await call(number, KINDS[0]))
        if found[-1][1].code == USED_UP:
            break
    return found


def limit(unit: Unit, worth: int) -> int:
    """What so many whole answers take, in the budget's own whole numbers."""
    told_to = {"messages": [{"role": "user", "content": prompt(KINDS[0].act, 0)}]}
    read = prompt_tokens(told_to)
    each = {"calls": 1, "tokens": read + MOST_TOKENS, "usd": read * NANO_IN + MOST_TOKENS * NANO_OUT}
    return each[unit] * worth


def written(unit: Unit, most: int) -> str:
    """An amount as a file of budgets says it."""
    return f'"{most / 1e9:.9f}"' if unit == "usd" else str(most)


async def _settled(book: str, file: Path) -> State:
    """How the budget stands when nothing is held any more, or after a while: calls are settled behind their answers."""
    for _ in range(50):
        state = await asyncio.to_thread(_state, book, file)
        if not state.held:
            break
        await asyncio.sleep(0.1)
    return state


def _state(book: str, file: Path) -> State:
    """How the budget stands, by its own tables."""
    budgets = Budgets(read_limits(file), Prices(), lambda: open_database(book))
    try:
        [found] = budgets.states()
        return found
    finally:
        budgets.close()


def figures(
    unit: Unit, most: int, found: Sequence[tuple[Kind, Seen]], counted: Count, state: State, gap: int
) -> dict[str, Value]:
    """What came of a crowd, by the clients, the provider, the budget and the book."""
    theirs = {
        "calls": counted.calls,
        "tokens": counted.tokens,
        "usd": counted.input_tokens * NANO_IN + counted.output_tokens * NANO_OUT,
    }[unit]
    refused = [seen for _, seen in found if seen.code == USED_UP]
    wrong = [seen.said() for what, seen in found if seen.code != USED_UP and not what.right(seen)]
    good = sorted(seen.ms for _, seen in found if seen.whole)
    return {
        "saw": grouped([seen for _, seen in found]),
        "asked": len(found),
        "made": counted.calls,
        "refused": len(refused),
        "of_budget": state.spent / most,
        "over": max(0, state.spent - most),
        "gap_budget": abs(state.spent - theirs),
        "gap_tokens": gap,
        "held": state.held,
        "wrong": len(wrong),
        "why": "; ".join(wrong)[:200],
        "unmade": abs(len(found) - len(refused) - counted.calls),
        "p50_ms": good[len(good) // 2] if good else None,
    }


def judge(rows: Rows) -> Sequence[Check]:
    """The worst of all rounds of all rows."""
    most = partial(_most, list(rows.values()))
    return [
        Check("spent beyond the budget", most("over"), 0),
        Check("budget's count against the provider's", most("gap_budget"), 0),
        Check("tokens that the book differs by", most("gap_tokens"), 0),
        Check("still held when all had ended", most("held"), 0),
        Check("calls that were neither made nor refused", most("unmade"), 0),
        Check("clients that saw something else than they should", most("wrong"), 0),
        Check("calls that were refused for want of room, the fewest", _fewest(rows), 1, at_least=True),
    ]


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [float(one[key]) for row in rows for one in row.rounds if one.get(key) is not None]


def _most(rows: Sequence[Row], key: str) -> float | None:
    return max(_values(rows, key), default=None)


def _fewest(rows: Rows) -> float | None:
    return min(_values(list(rows.values()), "refused"), default=None)
