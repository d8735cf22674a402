"""The book when its disk is full, its file is locked or replaced, or the clock jumps: requests go on, and nothing is lost silently."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from tauten.errors import Unavailable
from tauten.run.engine import Engine
from tauten.run.usage import book as books
from tauten.run.usage.book import ASIDE, Book
from tauten.run.usage.budgets import Budgets, Exhausted, Purse
from tauten.run.usage.database import COLUMNS, DatabaseBusy
from tauten.run.usage.limits import read_limits
from tauten.run.usage.payer import NOBODY
from tauten.run.usage.row import UsageRow
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import PROVIDER, Provider, asking, attempt, fresh, prices, quiet, stored, summed
from usage.test_writing import impatient, lock, turn_away, until


@pytest.fixture(autouse=True)
def provider() -> Iterator[Provider]:
    yield from fresh()


def all_of(path: Path) -> list[Any]:
    database = Sqlite(path)
    try:
        return stored(database)
    finally:
        database.close()


def asked(book: Book, count: int) -> list[str]:
    """What so many requests get while the book is as it is."""

    async def main() -> list[str]:
        async with Engine(book=book) as engine:
            await engine.open(asking)
            work = (engine.run(asking.bind(tt.Json([attempt(3, 1)]))) for _ in range(count))
            return [each.value for each in await asyncio.gather(*work)]

    return asyncio.run(main())


# -- locked --------------------------------------------------------------------------------------------------


def test_requests_go_on_while_the_database_is_locked_and_all_are_booked_in_the_end(tmp_path: Path) -> None:
    path, said = tmp_path / "book.db", list[str]()
    Sqlite(path).fetch("SELECT 1")
    holder = lock(path)
    book = Book(str(path), prices(tmp_path), say=said.append, database=lambda: impatient(path))
    book.start()
    assert asked(book, 30) == ["answered"] * 30
    until(lambda: book.failures > 0)
    assert "kept and tried again" in said[0]
    holder.execute("ROLLBACK")
    holder.close()
    book.end()
    assert (book.written, book.dropped) == (30, 0)
    assert summed(all_of(path)) == dict(PROVIDER.counted)


def test_beyond_its_bound_lines_lie_in_files_and_come_in_again(tmp_path: Path) -> None:
    path, said = tmp_path / "book.db", list[str]()
    Sqlite(path).fetch("SELECT 1")
    holder = lock(path)
    book = Book(
        str(path), spare=tmp_path / "spare", say=said.append, lines=10, database=lambda: impatient(path)
    )
    book.start()
    for _ in range(3):
        turn_away(book, 10)
        until(lambda: not book._entries)
    until(lambda: book.failures > 0)
    assert book.aside >= 10
    assert book.dropped == 0
    holder.execute("ROLLBACK")
    holder.close()
    until(lambda: book.written == 30)
    book.end()
    assert len(all_of(path)) == 30
    assert list((tmp_path / "spare").glob("unwritten-*")) == []
    assert any("taken in" in each for each in said)


def test_only_so_many_files_are_made_and_then_it_is_said_what_is_lost(tmp_path: Path) -> None:
    said: list[str] = []
    book = quiet(tmp_path, spare=tmp_path / "spare", lines=1, say=said.append)
    turn_away(book, ASIDE + 3)
    book.note()
    assert len(list((tmp_path / "spare").glob("unwritten-*"))) == ASIDE
    assert (book.aside, book.waiting, book.dropped) == (ASIDE, 1, 2)
    assert sum("counted in tauten_usage_dropped_total" in each for each in said) == 1


def test_files_of_two_processes_are_taken_in_once_by_whoever_comes_first(tmp_path: Path) -> None:
    several = [quiet(tmp_path, spare=tmp_path / "spare") for _ in range(2)]
    for book in several:
        turn_away(book, 4)
        book.note()
        assert book._put_aside()
    databases = [Sqlite(tmp_path / "book.db") for _ in several]
    for book, database in zip(several, databases, strict=True):
        book._adopt(database)
        database.close()
    assert len(all_of(tmp_path / "book.db")) == 8
    assert [book.written for book in several] == [8, 0]


# -- full ----------------------------------------------------------------------------------------------------

_FULL = """
import json, resource, sys, time
from pathlib import Path
from tauten.run.usage.book import Book
from tauten.run.usage.payer import NOBODY
from tauten.run.usage.row import UsageRow
from tauten.run.usage.sqlite import Sqlite

place, said = Path(sys.argv[1]), []
Sqlite(place).fetch("SELECT 1")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as a quota: no file grows beyond that
book = Book(str(place), say=said.append)
book.start()
for number in range(3000):
    book.turned_away(f"r{number}", "desk", NOBODY, "flow")
while not book.failures:
    time.sleep(0.01)
seen = {"problem": book.problem, "waiting": book.waiting, "written": book.written}
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
book.end()
print(json.dumps({**seen, "end": book.written, "dropped": book.dropped, "said": said}))
"""


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path) -> None:
    """Of the kernel's own making, below SQLite: a bound on the size of files."""
    path = tmp_path / "book.db"
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)
    assert found["problem"]
    assert found["written"] < 3000
    assert found["written"] + found["waiting"] <= 3000
    assert (found["end"], found["dropped"]) == (3000, 0)
    assert "kept and tried again" in found["said"][0]
    assert len(all_of(path)) == 3000
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


def test_when_neither_book_nor_files_can_be_written_the_loss_is_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "END_S", 0.0)
    (tmp_path / "file").write_text("no folder")
    said: list[str] = []
    book = Book(str(tmp_path / "file" / "book.db"), spare=tmp_path / "file", say=said.append, lines=5)
    book.start()
    turn_away(book, 9)
    until(lambda: book.dropped > 0)
    book.end()
    assert book.dropped == 9
    assert any("tauten_usage_dropped_total" in each for each in said)


# -- replaced ------------------------------------------------------------------------------------------------


def test_lines_go_into_the_file_that_stands_there(tmp_path: Path) -> None:
    """As after a restore while somebody writes, or when the file was deleted."""
    path, book = tmp_path / "book.db", quiet(tmp_path)
    database = Sqlite(path)

    def write(count: int) -> None:
        turn_away(book, count)
        book.note()
        book.write(database)

    write(3)
    path.unlink()
    write(4)
    assert len(stored(database)) == 4
    (tmp_path / "aside").mkdir()
    other, beside = quiet(tmp_path / "aside"), Sqlite(tmp_path / "aside" / "book.db")
    turn_away(other, 2)
    other.note()
    other.write(beside)
    beside.close()
    for suffix in ("-wal", "-shm"):  # the log of the old one goes with it, as a restore has it
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    os.replace(tmp_path / "aside" / "book.db", path)
    write(5)
    database.close()
    assert len(all_of(path)) == 7


def test_a_book_of_an_earlier_version_has_its_new_columns_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    Sqlite(path).fetch("SELECT 1")
    before = sqlite3.connect(path, isolation_level=None)
    for name in NEW:
        before.execute(f"ALTER TABLE usage DROP COLUMN {name}")
    names = [name for name in COLUMNS if name not in NEW]
    values = dict(zip(COLUMNS, UsageRow(id="a", at_ms=1, day="2026-03-01").values(), strict=True))
    given = ", ".join("?" * len(names))
    before.execute(
        f"INSERT INTO usage ({', '.join(names)}) VALUES ({given})", [values[name] for name in names]
    )
    before.close()
    several = [Sqlite(path) for _ in range(2)]
    for database in several:
        [line] = stored(database)
        assert (line.id, line.kind, line.units) == ("a", "", {})
    [columns] = [
        database.fetch("SELECT COUNT(*) FROM pragma_table_info('usage')") for database in several[:1]
    ]
    assert columns == [(len(COLUMNS),)]
    for database in several:
        database.close()


NEW = ("kind", "sent_bytes", "received_bytes")


# -- clocks --------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_is_counted_and_said_and_changes_no_sum(tmp_path: Path) -> None:
    wall, steady, said = [1.8e9], [0.0], list[str]()
    book = quiet(tmp_path, wall=lambda: wall[0], clock=lambda: steady[0], say=said.append)
    for step_s in (5.0, 5.0, -3600.0, 5.0, 7200.0, -0.5):
        wall[0] += step_s
        steady[0] += 0.2 if step_s == -0.5 else 5.0
        turn_away(book, 1)
        book.note()
    assert book.set_back == 1
    assert "set back by 3,605 s" in said[0]
    database = Sqlite(tmp_path / "book.db")
    book.write(database)
    assert sum(line.asked for line in stored(database)) == 6
    database.close()


def test_a_clock_that_is_set_back_opens_no_period_of_a_budget_that_is_over(tmp_path: Path) -> None:
    text = 'tauten = "budgets/1"\n[budget.a]\ncalls = 1\nperiod = "hour"\n'
    (tmp_path / "budgets.toml").write_text(text)
    now = [1.8e9]
    budgets = Budgets(
        read_limits(tmp_path / "budgets.toml"),
        prices(tmp_path),
        lambda: Sqlite(tmp_path / "book.db"),
        wall=lambda: now[0],
    )
    purse = Purse(budgets, "", NOBODY, "flow")

    async def main() -> None:
        (await purse.reserve("house", "small", {})).settle(None)  # nothing of this hour is spent
        now[0] += 3600.0
        await purse.reserve("house", "small", {})
        now[0] -= 3600.0
        with pytest.raises(Exhausted):
            await purse.reserve("house", "small", {})

    asyncio.run(main())
    [state] = budgets.states()
    assert state.held == 1
    budgets.close()


def test_budgets_that_cannot_be_read_let_nothing_through_and_requests_without_go_on(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    Sqlite(path).fetch("SELECT 1")
    (tmp_path / "budgets.toml").write_text('tauten = "budgets/1"\n[budget.lab]\ncalls = 9\ntenant = "lab"\n')
    limits = read_limits(tmp_path / "budgets.toml")
    budgets = Budgets(limits, prices(tmp_path), lambda: impatient(path))
    holder = lock(path)

    async def main() -> None:
        with pytest.raises(Unavailable, match="E453"):
            await Purse(budgets, "lab", NOBODY, "flow").reserve("house", "small", {})
        (await Purse(budgets, "desk", NOBODY, "flow").reserve("house", "small", {})).settle(None)

    asyncio.run(main())
    holder.execute("ROLLBACK")
    holder.close()
    assert budgets.states()[0].held == 0
    budgets.close()


def test_a_write_that_fails_leaves_the_connection_good(tmp_path: Path) -> None:
    database = impatient(tmp_path / "book.db")
    database.fetch("SELECT 1")
    holder = lock(tmp_path / "book.db")
    for _ in range(3):
        with pytest.raises(DatabaseBusy, match="locked"):
            database.write([])
    holder.execute("ROLLBACK")
    holder.close()
    database.write([])
    database.close()
