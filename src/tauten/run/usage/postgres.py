"""Books in PostgreSQL, for several servers with one book: by asyncpg, on a small event loop of its own."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from tauten.errors import MachineError
from tauten.run.usage.database import INSERT, BadValue, DatabaseBusy, Do, additions, check_format, schema

T = TypeVar("T")

WAIT_S: Final = 5.0  # for a connection or a statement: a server that is there answers in milliseconds
_LOCK: Final = 7_203_581  # any number that nobody else takes: advisory locks are one namespace a database

_COLUMNS: Final = (
    "SELECT column_name FROM information_schema.columns "
    "WHERE table_name = 'usage' AND table_schema = current_schema()"
)


class Postgres:
    """A `Database` behind a URL. It blocks the thread that asks it; never call it from an event loop."""

    def __init__(self, url: str, *, wait_s: float = WAIT_S) -> None:
        try:
            import asyncpg
        except ImportError as error:
            raise MachineError(
                f"asyncpg is not installed: {error}", help="pip install 'tauten[serve]'", code="E343"
            ) from error
        self.place = _without_password(url)
        self._url = url
        self._wait_s = wait_s
        self._unfit = (asyncpg.DataError, asyncpg.NotNullViolationError)
        self._errors = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
        self._connect = asyncpg.connect
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._try(lambda: self._await(self._connection.executemany(_numbered(INSERT), rows)))

    def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._try(lambda: self._do(statement, values))

    def alone(self, work: Callable[[Do], T]) -> T:
        def inside() -> T:
            transaction = self._connection.transaction()
            self._await(transaction.start())
            try:
                self._do("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
                result = work(self._do)
            except BaseException:
                self._await(transaction.rollback())
                raise
            self._await(transaction.commit())
            return result

        return self._try(inside)

    def _do(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return [
            tuple(record) for record in self._await(self._connection.fetch(_numbered(statement), *values))
        ]

    def _try(self, work: Callable[[], T]) -> T:
        """Run it; a connection that broke is made anew at the next try."""
        try:
            self._open()
            return work()
        except self._unfit as error:
            raise BadValue(f"{self.place}: {error}") from error
        except self._errors as error:
            self.close()
            raise DatabaseBusy(f"{self.place}: {error or error.__class__.__name__}") from error

    def _open(self) -> None:
        if self._connection is not None:
            return
        self._connection = self._await(
            self._connect(self._url, timeout=self._wait_s, command_timeout=self._wait_s)
        )
        self._prepare()

    def _prepare(self) -> None:
        transaction = self._connection.transaction()
        self._await(transaction.start())
        self._do(
            "SELECT pg_advisory_xact_lock(?)", (_LOCK,)
        )  # two that make a table at once trip over each other
        for statement in schema():
            self._await(self._connection.execute(statement))
        for statement in additions([name for (name,) in self._do(_COLUMNS, ())]):
            self._await(self._connection.execute(statement))
        self._await(transaction.commit())
        [(found,)] = self._do("SELECT value FROM about WHERE name = 'format'", ())
        check_format(found, self.place)

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            if connection is not None:
                loop.run_until_complete(connection.close(timeout=self._wait_s))
        except self._errors:
            connection.terminate()  # it was broken; nothing of ours is in it
        finally:
            loop.close()


def _numbered(statement: str) -> str:
    """The statement with PostgreSQL's names for values."""
    numbers = count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", statement)


def _without_password(url: str) -> str:
    """The address as errors and logs may carry it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
