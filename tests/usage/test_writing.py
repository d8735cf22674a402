"""A database that is locked, full or away costs nothing but time: lines are kept, tried again, and put aside at the end."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tauten.errors import MachineError
from tauten.run.usage import book as books
from tauten.run.usage.book import Book
from tauten.run.usage.database import DatabaseBusy
from tauten.run.usage.payer import NOBODY
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import quiet, stored


def turn_away(book: Book, count: int) -> None:
    """Requests that leave one line each."""
    for number in range(count):
        book.turned_away(f"r{number}", "desk", NOBODY, "flow")


def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread; the bound is for a test that would hang."""
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def lock(path: Path) -> sqlite3.Connection:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    return holder


def impatient(path: Path) -> Sqlite:
    return Sqlite(path, wait_s=0.01)


def test_a_locked_database_keeps_the_lines_and_gets_them_later(tmp_path: Path) -> None:
    path, book = tmp_path / "book.db", quiet(tmp_path)
    database = impatient(path)
    turn_away(book, 3)
    book.note()
    book.write(database)
    holder = lock(path)
    turn_away(book, 4)
    book.note()
    with pytest.raises(DatabaseBusy, match="locked"):
        book.write(database)
    assert (book.written, book.waiting) == (3, 4)
    holder.execute("ROLLBACK")
    book.write(database)
    assert (book.written, book.waiting, len(stored(database))) == (7, 0, 7)
    holder.close()
    database.close()


class Small(Sqlite):
    """A disk with room for a few pages."""

    pages = 60

    def _prepare(self, connection: sqlite3.Connection) -> None:
        super()._prepare(connection)
        self.room(connection)

    def room(self, connection: sqlite3.Connection | None = None) -> None:
        connection = connection or self._connection
        assert connection is not None
        connection.execute(f"PRAGMA max_page_count = {self.pages}")


def test_a_full_disk_loses_nothing_and_leaves_no_half_of_a_batch(tmp_path: Path) -> None:
    book, database = quiet(tmp_path), Small(tmp_path / "book.db")
    turn_away(book, 3000)
    book.note()
    with pytest.raises(DatabaseBusy, match="full"):
        book.write(database)
    there = len(stored(database))
    assert there == book.written < 3000
    assert there % books.AT_ONCE == 0
    database.pages = 100_000
    database.room()
    book.write(database)
    assert len(stored(database)) == 3000
    assert book.dropped == 0
    database.close()


def test_lines_beyond_the_bound_are_dropped_counted_and_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    book = quiet(tmp_path, lines=5, say=said.append)
    turn_away(book, 9)
    book.note()
    assert (book.waiting, book.dropped) == (5, 4)
    turn_away(book, 2)
    book.note()
    assert book.dropped == 6
    assert len(said) == 1
    assert "cannot be written" in said[0]


def test_requests_beyond_the_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    book = quiet(tmp_path, entries=4)
    turn_away(book, 6)
    assert (book.waiting, book.dropped) == (4, 2)


def test_a_thread_writes_what_comes_while_the_database_is_locked_now_and_then(tmp_path: Path) -> None:
    path, said = tmp_path / "book.db", list[str]()
    Sqlite(path).fetch("SELECT 1")
    book = Book(str(path), spare=tmp_path, say=said.append, database=lambda: impatient(path))
    book.start()
    holder = lock(path)
    turn_away(book, 50)
    until(lambda: book.failures > 0)
    assert book.written == 0
    holder.execute("ROLLBACK")
    holder.close()
    until(lambda: book.written == 50)
    turn_away(book, 7)
    book.end()
    assert (book.written, book.dropped, book.waiting) == (57, 0, 0)
    assert len(stored(Sqlite(path))) == 57
    assert "tried again" in said[0]
    assert "written again" in said[1]


def test_at_a_graceful_end_nothing_is_lost_although_the_database_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "END_S", 0.0)
    path, said = tmp_path / "book.db", list[str]()
    Sqlite(path).fetch("SELECT 1")
    holder = lock(path)
    book = Book(str(path), spare=tmp_path, say=said.append, database=lambda: impatient(path))
    book.start()
    turn_away(book, 20)
    book.end()
    [left] = tmp_path.glob("unwritten-*.jsonl")
    assert (book.written, book.dropped) == (0, 0)
    assert "20 lines lie in" in said[-1]
    holder.close()

    following = Book(str(path), spare=tmp_path, say=said.append)
    following.start()
    until(lambda: following.written == 20)
    following.end()
    assert not left.exists()
    assert "were taken in" in said[-1]
    assert len(stored(Sqlite(path))) == 20


def test_lines_that_are_taken_in_twice_count_once(tmp_path: Path) -> None:
    book, database = quiet(tmp_path), Sqlite(tmp_path / "book.db")
    turn_away(book, 3)
    book.note()
    kept = [row.values() for row in book._unwritten]
    database.write(kept)
    database.write(kept)
    assert len(stored(database)) == 3
    database.close()


def test_where_not_even_the_spare_folder_takes_it_the_loss_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "END_S", 0.0)
    (tmp_path / "file").write_text("no folder")
    said: list[str] = []
    book = Book(str(tmp_path / "file" / "book.db"), spare=tmp_path / "file", say=said.append)
    book.start()
    turn_away(book, 5)
    book.end()
    assert book.dropped == 5
    assert "neither can unwritten-" in said[-1]


def test_a_file_that_is_no_book_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(DatabaseBusy, match="not a database"):
        Sqlite(path).fetch("SELECT 1")
    assert path.read_bytes().startswith(b"something else")


def test_a_book_of_another_version_is_refused(tmp_path: Path) -> None:
    database = Sqlite(tmp_path / "book.db")
    database.alone(lambda do: do("UPDATE about SET value = 'usage/9' WHERE name = 'format'", ()))
    database.close()
    with pytest.raises(MachineError, match="usage/9") as raised:
        Sqlite(tmp_path / "book.db").fetch("SELECT 1")
    assert raised.value.code == "E361"


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    database = Sqlite(tmp_path / "book.db")

    def work(do: Any) -> None:
        do("INSERT INTO about (name, value) VALUES ('a', 'b')", ())
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        database.alone(work)
    assert database.fetch("SELECT name FROM about") == [("format",)]
    database.close()


def test_clocks_that_jump_change_no_sum(tmp_path: Path) -> None:
    times = iter([1_800_000_000.0, 100.0, 1_900_000_000.0, 1_800_000_001.0])
    last = 1_800_000_001.0
    book, database = quiet(tmp_path, wall=lambda: next(times, last)), Sqlite(tmp_path / "book.db")
    turn_away(book, 4)
    book.note()
    book.write(database)
    lines = stored(database)
    assert sum(line.asked for line in lines) == 4
    assert [line.at_ms for line in lines] == [
        1_800_000_000_000,
        100_000,
        1_900_000_000_000,
        1_800_000_001_000,
    ]
    assert lines[1].day == "1970-01-01"
    database.close()


def test_two_processes_may_write_one_book(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    several = [Book(str(path)) for _ in range(3)]
    for book in several:
        book.start()
    threads = [threading.Thread(target=turn_away, args=(book, 700)) for book in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for book in several:
        book.end()
    assert len(stored(Sqlite(path))) == 2100
