"""Writes lines of which one may be such that nothing takes it: it keeps no other from being written."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tauten.run.usage.database import BadValue, Database
from tauten.run.usage.row import UsageRow

_UNFIT: Final = (OverflowError, TypeError, ValueError, msgspec.MsgspecError)


class Bad(NamedTuple):
    """A line that cannot be written at any time, and why."""

    row: UsageRow
    error: Exception

    def __str__(self) -> str:
        return f"{self.row.id} of request {self.row.request!r}: {self.error!r}"


def write(database: Database, rows: Sequence[UsageRow]) -> list[Bad]:
    """Write lines at once, or each by itself where that fails for one of them; gives those that are not written.

    Raises DatabaseBusy: then all are to be written again, which counts them once.
    """
    try:
        database.write([_values(row) for row in rows])
    except BadValue:
        return [bad for row in rows if (bad := _alone(database, row)) is not None]
    return []


def _alone(database: Database, row: UsageRow) -> Bad | None:
    try:
        database.write([_values(row)])
    except BadValue as error:
        return Bad(row, error)
    return None


def _values(row: UsageRow) -> tuple[Any, ...]:
    try:
        return row.values()
    except _UNFIT as error:
        raise BadValue(str(error)) from error


def encoded(rows: Sequence[UsageRow]) -> tuple[list[bytes], list[Bad]]:
    """Lines as a file has them, and those that none can have."""
    lines, bad = list[bytes](), list[Bad]()
    for row in rows:
        try:
            lines.append(msgspec.json.encode(row) + b"\n")
        except _UNFIT as error:
            bad.append(Bad(row, error))
    return lines, bad
