"""Books and budgets in a real PostgreSQL server: the same as in a file, for several processes at once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tauten.run.usage.book import Book
from tauten.run.usage.budgets import Budgets, Exhausted, Purse
from tauten.run.usage.database import DatabaseBusy
from tauten.run.usage.limits import read_limits
from tauten.run.usage.lots import SHARE
from tauten.run.usage.payer import NOBODY, Payer
from tauten.run.usage.postgres import Postgres
from tauten.run.usage.report import report
from tauten.run.usage.sqlite import Sqlite
from usage.kit_postgres import server
from usage.kit_usage import prices, stored
from usage.test_bad_lines import BAD, with_bad
from usage.test_budgets import CALL, FIFTY, spend
from usage.test_writing import turn_away, until

TABLES = ("usage", "budget", "hold")


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture
def url(running: str) -> str:
    """The server, with nothing in it."""
    database = Postgres(running)
    database.fetch("SELECT 1")
    database.alone(lambda do: [do(f"DELETE FROM {table}", ()) for table in TABLES])
    database.close()
    return running


def test_lines_come_back_as_they_were_written(url: str) -> None:
    book = Book(url)
    book.start()
    turn_away(book, 3)
    book.end()
    database = Postgres(url)
    lines = stored(database)
    assert [line.ended for line in lines] == ["refused"] * 3
    assert (book.written, book.dropped) == (3, 0)
    database.write([line.values() for line in lines])
    assert len(stored(database)) == 3
    database.close()


@pytest.mark.parametrize("bad", BAD)
def test_a_line_that_it_never_takes_keeps_no_other_waiting(url: str, bad: dict[str, Any]) -> None:
    book, database = Book(url), Postgres(url)
    with_bad(book, **bad)
    book.write(database)
    assert [line.request for line in stored(database)] == ["r0", "r1", "r3", "r4"]
    assert (book.written, book.dropped, book.waiting) == (4, 1, 0)
    database.close()


def test_a_report_is_the_same_as_from_a_file(url: str, tmp_path: Path) -> None:
    from usage.test_report import LINES

    file, database = Sqlite(tmp_path / "book.db"), Postgres(url)
    for each in (file, database):
        each.write([line.values() for line in LINES])
    for by in (["model"], ["tenant", "day"], ["tag"], []):
        assert report(database, by) == report(file, by)
    only = {"tag": "beta"}
    assert report(database, ["model"], only=only) == report(file, ["model"], only=only)
    file.close()
    database.close()


def test_two_hundred_calls_at_once_spend_at_most_the_budget(url: str, tmp_path: Path) -> None:
    """By two processes' worth of budgets, each with a connection of its own."""
    (tmp_path / "budgets.toml").write_text(FIFTY)
    limits, priced = read_limits(tmp_path / "budgets.toml"), prices(tmp_path)
    several = [Budgets(limits, priced, lambda: Postgres(url)) for _ in range(2)]

    async def main() -> list[bool]:
        purses = [Purse(each, "desk", NOBODY, "flow") for each in several]
        return await asyncio.gather(*(spend(purses[number % 2]) for number in range(200)))

    made = asyncio.run(main())
    for each in several:
        each.close()
    database = Postgres(url)
    [(spent,)] = database.fetch("SELECT SUM(spent) FROM budget")
    assert sum(made) == 50
    assert int(spent) == 50 * CALL
    assert database.fetch("SELECT COUNT(*) FROM hold") == [(0,)]
    database.close()


def test_lots_of_two_processes_spend_at_most_the_budget_and_come_back(url: str, tmp_path: Path) -> None:
    (tmp_path / "budgets.toml").write_text('tauten = "budgets/1"\n[budget.all]\ncalls = 300\n')
    limits, priced = read_limits(tmp_path / "budgets.toml"), prices(tmp_path)
    several = [Budgets(limits, priced, lambda: Postgres(url)) for _ in range(2)]

    async def main() -> list[bool]:
        purses = [Purse(each, "desk", NOBODY, "flow") for each in several]
        return await asyncio.gather(*(spend(purses[number % 2]) for number in range(400)))

    made = asyncio.run(main())
    for each in several:
        each.close()
    database = Postgres(url)
    [(spent,)] = database.fetch("SELECT SUM(spent) FROM budget")
    assert 300 - 2 * 300 // SHARE <= sum(made) == int(spent) <= 300
    assert database.fetch("SELECT COUNT(*) FROM hold") == [(0,)]
    database.close()


def test_a_refusal_leaves_the_connection_as_good_as_before(url: str, tmp_path: Path) -> None:
    (tmp_path / "budgets.toml").write_text('tauten = "budgets/1"\n[budget.one]\ncalls = 1\nkey = "*"\n')
    budgets = Budgets(read_limits(tmp_path / "budgets.toml"), prices(tmp_path), lambda: Postgres(url))

    async def main() -> None:
        for key in ("a", "b"):
            purse = Purse(budgets, "desk", Payer(key), "flow")
            await purse.reserve("house", "small", {})
            with pytest.raises(Exhausted, match=f"key={key}"):
                await purse.reserve("house", "small", {})

    asyncio.run(main())
    budgets.close()


def test_a_server_that_is_away_is_tried_again(url: str) -> None:
    away = Postgres("postgresql://tauten@127.0.0.1:1/postgres", wait_s=1.0)
    with pytest.raises(DatabaseBusy, match=r"127\.0\.0\.1:1/postgres"):
        away.fetch("SELECT 1")
    places = iter([away, Postgres(url)])
    current = [next(places)]

    class Moving:
        """Away at first, there afterwards."""

        def write(self, rows: object) -> None:
            try:
                current[0].write(rows)  # type: ignore[arg-type]
            except DatabaseBusy:
                current[0] = next(places, current[0])
                raise

        def close(self) -> None:
            current[0].close()

    book = Book(url, database=Moving)  # type: ignore[arg-type]
    book.start()
    turn_away(book, 5)
    until(lambda: book.written == 5)
    book.end()
    assert book.failures == 1


def test_a_book_of_an_earlier_version_has_its_new_columns_when_it_is_opened(url: str) -> None:
    new = ("kind", "sent_bytes", "received_bytes")
    before = Postgres(url)
    before.fetch("SELECT 1")
    before.alone(lambda do: [do(f"ALTER TABLE usage DROP COLUMN {name}", ()) for name in new])
    before.close()
    book = Book(url)
    book.start()
    turn_away(book, 2)
    book.end()
    again = Postgres(url)
    assert [(line.kind, line.units) for line in stored(again)] == [("", {})] * 2
    again.close()


def test_a_password_is_in_no_message() -> None:
    away = Postgres("postgresql://me:secret@127.0.0.1:1/books", wait_s=1.0)
    with pytest.raises(DatabaseBusy) as raised:
        away.fetch("SELECT 1")
    assert "secret" not in str(raised.value)
