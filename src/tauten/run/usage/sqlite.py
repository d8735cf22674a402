"""Books in one file: SQLite with a write-ahead log, so that readers never wait for the writer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from tauten.clock import Clock, real
from tauten.errors import MachineError
from tauten.run.usage.database import INSERT, BadValue, DatabaseBusy, Do, additions, check_format, schema

T = TypeVar("T")

WAIT_S: Final = (
    2.0  # for a lock: a write of another process takes milliseconds; longer is a case for trying again
)
COPY_WAIT_S: Final = (
    20.0  # for a book that others open, close or check: each takes milliseconds, of a large one seconds
)
COPY_PAUSE_S: Final = 0.05  # between looks: as long as an opening takes
CACHE_KIB: Final = 256  # of pages in memory: SQLite keeps 2 MB of what was written, which nobody reads again
_UNFIT: Final = (  # how it refuses a value: a number beyond 64 bits, half a sign, nothing, what is neither
    OverflowError,
    UnicodeError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
)


class Sqlite:
    """A `Database` in a file. `wait_s` is how long a statement may wait for another process."""

    def __init__(self, path: str | Path, *, wait_s: float = WAIT_S) -> None:
        self.path = Path(path)
        self._wait_s = wait_s
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # which one the connection is of

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            _given(lambda: connection.executemany(INSERT, rows))
            connection.execute("COMMIT")

        self._try(work)

    def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._try(lambda connection: _given(lambda: connection.execute(statement, values)).fetchall())

    def alone(self, work: Callable[[Do], T]) -> T:
        def inside(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            result = work(
                lambda statement, values: _given(lambda: connection.execute(statement, values)).fetchall()
            )
            connection.execute("COMMIT")
            return result

        return self._try(inside)

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run it, or leave nothing of it; what the database has against it is DatabaseBusy."""
        try:
            connection = self._opened()
            try:
                return work(connection)
            finally:
                if connection.in_transaction:  # it did not come to its end
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise DatabaseBusy(f"{self.path}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._file != _file(self.path):
            self.close()  # another file stands there, as after a restore: lines belong into that one
        if self._connection is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DatabaseBusy(f"{self.path.parent}: {error.strerror}") from error
            connection = sqlite3.connect(self.path, timeout=self._wait_s, isolation_level=None)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._file = connection, _file(self.path)
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine may cost the last second
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")  # negative: KiB, and no number of pages
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchall():
            connection.execute("BEGIN IMMEDIATE")
            for statement in schema():
                connection.execute(statement)
            connection.execute("COMMIT")
        [[found]] = connection.execute("SELECT value FROM about WHERE name = 'format'").fetchall()
        check_format(found, str(self.path))
        if additions(_columns(connection)):
            connection.execute("BEGIN IMMEDIATE")
            for statement in additions(_columns(connection)):  # none, where another process was first
                connection.execute(statement)
            connection.execute("COMMIT")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _given(run: Callable[[], T]) -> T:
    """What a statement gives; raises BadValue where it is for a value that it fails."""
    try:
        return run()
    except _UNFIT as error:
        raise BadValue(str(error)) from error


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [name for _, name, *_ in connection.execute("PRAGMA table_info(usage)")]


def _file(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path; None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


# -- copying -------------------------------------------------------------------------------------------------


def copy(
    source: Path,
    target: Path,
    *,
    wait_s: float = COPY_WAIT_S,
    clock: Clock = real,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """A whole and consistent copy of a book that others may write, open, close or make meanwhile.

    What stands in the way is waited for, at most `wait_s`; then, and for a file that is no book, MachineError E361.
    """
    until = clock() + wait_s
    while True:
        problem, passing = _copied(source, target, lambda: clock() >= until)
        if not problem:
            return
        target.unlink(missing_ok=True)
        if not passing or clock() >= until:
            raise MachineError(
                f"the book {source} cannot be copied: {problem}",
                help="check that it is a book, that no process holds it locked, and the disk; then try again",
                code="E361",
            )
        sleep(COPY_PAUSE_S)


def _copied(source: Path, target: Path, late: Callable[[], bool]) -> tuple[str, bool]:
    """Copy it; what went wrong, and whether that may pass."""

    def look(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and late():
            raise sqlite3.OperationalError("it stayed locked")  # it would be waited for without end

    place = f"{source.absolute().as_uri()}?mode=rw"  # the log of a process that was killed is read, too
    try:
        with (
            closing(sqlite3.connect(place, uri=True, timeout=WAIT_S)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(
                new, progress=look, sleep=COPY_PAUSE_S
            )  # all pages in one step, so that they are of one moment
            new.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_BUSY)
        return str(error), code & 0xFF in _PASSING
    return ("", True) if is_whole(target) else ("it is no book, or not one yet", True)


_PASSING: Final = frozenset(  # what is seen while another process opens or closes it
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_SCHEMA,
    }
)


def is_whole(path: Path) -> bool:
    """Whether a file is a book that can be read to its end."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as book:
            [[said]] = book.execute("PRAGMA integrity_check").fetchall()[:1]
            return bool(
                said == "ok" and book.execute("SELECT value FROM about WHERE name = 'format'").fetchall()
            )
    except sqlite3.Error:
        return False
