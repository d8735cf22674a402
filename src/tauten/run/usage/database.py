"""Where books and budgets lie: a database with rows and with transactions that nobody else's overlap."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol, TypeVar

from tauten.errors import MachineError
from tauten.run.usage.row import COLUMNS, FRACTIONS

T = TypeVar("T")
Do = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Runs one statement inside a transaction; `?` stands for each value."""

FORMAT: Final = "usage/1"
_WHOLE: Final = frozenset({"at_ms", "asked", "nano"})
_TEXT: Final = frozenset(
    name for name in COLUMNS[: COLUMNS.index("priced_by") + 1] if name not in {*_WHOLE, "seconds"}
)


class DatabaseBusy(Exception):  # not an error of the tree: whoever writes tries again
    """The database cannot take it now: locked, full, away. What was to be written is not there."""


class BadValue(Exception):  # not an error of the tree: whoever writes goes on without it
    """No column takes such a value, however often it is tried. What was to be written is not there."""


class Database(Protocol):
    """Statements are SQL that SQLite and PostgreSQL read alike. One thread at a time. All raise DatabaseBusy, and
    BadValue for what they are given."""

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add lines, all or none; those that are there already stay as they are."""
        ...

    def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read."""
        ...

    def alone(self, work: Callable[[Do], T]) -> T:
        """Run `work` in a transaction while no other `alone` of any process runs."""
        ...

    def close(self) -> None: ...


def open_database(place: str) -> Database:
    """A PostgreSQL database by its URL, else an SQLite file; nothing is touched before the first statement."""
    if place.startswith(("postgresql://", "postgres://")):
        from tauten.run.usage.postgres import Postgres

        return Postgres(place)
    from tauten.run.usage.sqlite import Sqlite

    return Sqlite(place)


def schema() -> list[str]:
    """The statements that make the tables where there are none."""
    columns = ", ".join(f"{name} {_type(name)}" for name in COLUMNS)
    return [
        "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        f"CREATE TABLE IF NOT EXISTS usage ({columns}, PRIMARY KEY (id))",
        "CREATE INDEX IF NOT EXISTS usage_at ON usage (at_ms)",
        "CREATE TABLE IF NOT EXISTS budget (name TEXT NOT NULL, whose TEXT NOT NULL, period TEXT NOT NULL, "
        "spent BIGINT NOT NULL, PRIMARY KEY (name, whose, period))",
        "CREATE TABLE IF NOT EXISTS hold (id TEXT NOT NULL, name TEXT NOT NULL, whose TEXT NOT NULL, "
        "period TEXT NOT NULL, amount BIGINT NOT NULL, at_ms BIGINT NOT NULL, PRIMARY KEY (id, name, whose))",
        "CREATE INDEX IF NOT EXISTS hold_of ON hold (name, whose, period)",
        f"INSERT INTO about (name, value) VALUES ('format', '{FORMAT}') ON CONFLICT DO NOTHING",
    ]


def additions(there: Collection[str]) -> list[str]:
    """The statements that add the columns which the tables of an earlier version lack."""
    return [
        f"ALTER TABLE usage ADD COLUMN {name} {_type(name)}{_EMPTY if name in _TEXT else ''}"
        for name in COLUMNS
        if name not in there
    ]


_EMPTY: Final = " DEFAULT ''"  # of lines that were written before


def _type(name: str) -> str:
    if name in _TEXT:
        return "TEXT NOT NULL"
    if name in FRACTIONS or name == "seconds":
        return "DOUBLE PRECISION"
    return "BIGINT"


def check_format(found: str, place: str) -> None:
    """Raise MachineError E361 for tables that another version made."""
    if found != FORMAT:
        raise MachineError(
            f"the book at {place} is of format {found!r}, and this version writes {FORMAT!r}",
            help="name another place: --usage FILE or a postgresql:// address",
            code="E361",
        )


INSERT: Final = f"INSERT INTO usage ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"
