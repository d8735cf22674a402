"""Books in one file: SQLite with a write-ahead log, so that readers never wait for the writer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from tauten.errors import MachineError
from tauten.run.usage.database import INSERT, DatabaseBusy, Do, check_format, schema

T = TypeVar("T")

WAIT_S: Final = (
    2.0  # for a lock: a write of another process takes milliseconds; longer is a case for trying again
)


class Sqlite:
    """A `Database` in a file. `wait_s` is how long a statement may wait for another process."""

    def __init__(self, path: str | Path, *, wait_s: float = WAIT_S) -> None:
        self.path = Path(path)
        self._wait_s = wait_s
        self._connection: sqlite3.Connection | None = None

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT, rows)
            connection.execute("COMMIT")

        self._try(work)

    def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._try(lambda connection: connection.execute(statement, values).fetchall())

    def alone(self, work: Callable[[Do], T]) -> T:
        def inside(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            result = work(lambda statement, values: connection.execute(statement, values).fetchall())
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
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine may cost the last second
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchall():
            connection.execute("BEGIN IMMEDIATE")
            for statement in schema():
                connection.execute(statement)
            connection.execute("COMMIT")
        [[found]] = connection.execute("SELECT value FROM about WHERE name = 'format'").fetchall()
        check_format(found, str(self.path))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def copy(source: Path, target: Path) -> None:
    """A whole and consistent copy of a file that others may be writing; raises MachineError E361."""
    try:
        place = f"{source.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(place, uri=True)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        raise MachineError(
            f"the book {source} cannot be copied: {error}", help="check the disk, then try again", code="E361"
        ) from error


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
