"""A backup of a book that another process writes, opens, closes, makes or locks: whole, or an error in time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tauten.errors import MachineError
from tauten.run.backup import back_up, restore
from tauten.run.usage import sqlite
from tauten.run.usage.sqlite import Sqlite, copy, is_whole
from usage.kit_usage import quiet, stored
from usage.test_writing import turn_away

BATCH = 40

_WRITER = """
import sys, time
from tauten.run.usage.book import Book
from tauten.run.usage.payer import NOBODY
from tauten.run.usage.sqlite import Sqlite

place, reopens = sys.argv[1], sys.argv[2] == "reopens"
book, database, turn = Book(place), Sqlite(place), 0
print("begun", flush=True)
while True:
    for number in range(40):
        book.turned_away(f"r{turn}-{number}", "desk", NOBODY, "flow")
    book.note()
    book.write(database)
    if not turn:
        print("written", flush=True)
    turn += 1
    time.sleep(0.005)
    if reopens:
        database.close()  # the last one to close takes the log away
"""

_HOLDER = """
import sqlite3, sys
holder = sqlite3.connect(sys.argv[1], isolation_level=None)
holder.execute("PRAGMA locking_mode = EXCLUSIVE")
holder.execute("BEGIN EXCLUSIVE")
holder.execute("UPDATE about SET value = value")
print("held", flush=True)
sys.stdin.readline()
holder.execute("COMMIT")
holder.close()
print("free", flush=True)
sys.stdin.readline()
"""


@contextmanager
def other(script: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("how", ["stays", "reopens"])
def test_it_is_of_one_moment_while_another_process_writes(tmp_path: Path, how: str) -> None:
    old = tmp_path / "old"
    book = old / "usage" / "book.db"
    counts = []
    with other(_WRITER, str(book), how) as writer:
        assert (said(writer), said(writer)) == ("begun", "written")
        for turn in range(8):
            back_up(old, tmp_path / f"{turn}.tar")
            restore(tmp_path / f"new{turn}", tmp_path / f"{turn}.tar")
            copied = tmp_path / f"new{turn}" / "usage" / "book.db"
            assert is_whole(copied)
            database = Sqlite(copied)
            counts.append(len(stored(database)))
            database.close()
    assert all(count and count % BATCH == 0 for count in counts)  # whole transactions only
    assert counts == sorted(counts)


def test_a_book_that_is_being_made_is_waited_for(tmp_path: Path) -> None:
    book = tmp_path / "old" / "usage" / "book.db"
    book.parent.mkdir(parents=True)
    book.touch()  # as it is for a moment, when a process makes it
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 3:
            written(book, 5)

    copy(book, tmp_path / "copy.db", sleep=sleep)
    database = Sqlite(tmp_path / "copy.db")
    assert len(stored(database)) == 5
    database.close()
    assert len(looks) == 3


def written(place: Path, count: int) -> None:
    book, database = quiet(place.parent), Sqlite(place)
    turn_away(book, count)
    book.note()
    book.write(database)
    database.close()


def ticking() -> tuple[list[float], Callable[[], float]]:
    """A clock that goes on by a second a look."""
    at = [0.0]

    def clock() -> float:
        at[0] += 1.0
        return at[0]

    return at, clock


def test_a_book_that_stays_locked_is_an_error_in_time_and_is_there_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "WAIT_S", 0.01)
    book = tmp_path / "book.db"
    written(book, 3)
    with other(_HOLDER, str(book)) as holder:
        assert said(holder) == "held"
        at, clock = ticking()
        with pytest.raises(MachineError, match="locked") as raised:
            copy(book, tmp_path / "copy.db", wait_s=10.0, clock=clock, sleep=lambda _: None)
        assert raised.value.code == "E361"
        assert at[0] < 20.0  # it looked at its clock, and gave up by it
        assert not (tmp_path / "copy.db").exists()
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert said(holder) == "free"
        copy(book, tmp_path / "copy.db")
    assert is_whole(tmp_path / "copy.db")


@pytest.mark.parametrize("content", [b"something else entirely" * 100, b"SQLite format 3\0" + b"x" * 4000])
def test_what_is_no_book_is_an_error_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "book.db"
    source.write_bytes(content)
    _, clock = ticking()
    with pytest.raises(MachineError, match="cannot be copied"):
        copy(source, tmp_path / "copy.db", wait_s=5.0, clock=clock, sleep=lambda _: None)
    assert not (tmp_path / "copy.db").exists()
    assert source.read_bytes() == content


def test_what_a_killed_process_left_in_the_log_is_in_the_copy(tmp_path: Path) -> None:
    book = tmp_path / "book.db"
    with other(_WRITER, str(book), "stays") as writer:
        assert (said(writer), said(writer)) == ("begun", "written")
    assert (tmp_path / "book.db-wal").exists()
    copy(book, tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "copy.db") as found:
        [(count,)] = found.execute("SELECT COUNT(*) FROM usage").fetchall()
    found.close()
    assert count
    assert count % BATCH == 0
