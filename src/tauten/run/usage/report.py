"""What the books say, added up: by model, tenant, workflow, key, tag, day and whatever else a line names."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tauten.errors import InputError, MachineError, NotFound, suggest
from tauten.run.usage.cost import Cost
from tauten.run.usage.database import BadValue, Database, DatabaseBusy
from tauten.run.usage.entry import ELSEWHERE
from tauten.run.usage.prices import LOCAL
from tauten.run.usage.row import COUNTED_UNITS, FRACTIONS

SCHEMA: Final = "tauten.usage/1"
BY: Final[Mapping[str, str]] = {
    **{
        name: name
        for name in ("provider", "model", "region", "credential", "tenant", "workflow", "plan", "step", "key")
    },
    "tag": "tags",
    **{name: name for name in ("client", "day", "why", "kind", "outcome", "ended")},
}
"""What can be added up by, and its column."""

_CALLS: Final = (
    f"SUM(CASE WHEN provider IN ('', '{LOCAL}', '{ELSEWHERE}') THEN 0 ELSE COALESCE(requests, 1) END)"
)
"""A call that carried items of several requests has a line for each of these, and counts on one."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a report. `units` are sums; one that nobody counted is not there."""

    by: dict[str, str]
    requests: int
    calls: int  # to providers
    nano: int  # dollars in billionths, as far as known
    unpriced: int  # lines without a price
    units: dict[str, float]

    @property
    def cost(self) -> Cost:
        return Cost(self.nano, self.unpriced)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Usage from one instant up to another, and what it adds up to.

    A request with two tags stands in the lines of both, and once in the total.
    """

    schema: str = SCHEMA
    by: tuple[str, ...]
    since: str
    until: str
    lines: list[Usage]
    total: Usage


def report(
    database: Database,
    by: Sequence[str],
    since: datetime | None = None,
    until: datetime | None = None,
    only: Mapping[str, str] | None = None,
) -> Report:
    """Add up; raises InputError E260 for a word that lines do not have, MachineError E361 where nothing can be read."""
    for word in (*by, *(only or ())):
        if word not in BY:
            raise InputError(f"no line of usage has a {word!r}", help=suggest(word, BY), code="E260")
    where, values = _where(since, until, only or {})
    try:
        lines = [_usage(by, row) for row in _rows(database, [BY[word] for word in by], where, values)]
        [total] = [_usage((), row) for row in _rows(database, [], where, values)]
    except (BadValue, DatabaseBusy) as busy:
        raise MachineError(
            f"the book cannot be read: {busy}", help="see whether it is there, and try again", code="E361"
        ) from busy
    if "tag" in by:
        lines = _each_tag(lines)
    lines.sort(key=lambda line: (-line.nano, -line.requests, tuple(line.by.values())))
    if "day" in by:
        lines.sort(key=lambda line: line.by["day"])
    return Report(by=tuple(by), since=_iso(since), until=_iso(until), lines=lines, total=total)


def _where(since: datetime | None, until: datetime | None, only: Mapping[str, str]) -> tuple[str, list[Any]]:
    parts, values = ["1 = 1"], list[Any]()
    for instant, sign in ((since, ">="), (until, "<")):
        if instant is not None:
            parts.append(f"at_ms {sign} ?")
            values.append(int(instant.timestamp() * 1000))
    for word, value in only.items():
        if word == "tag":  # of several one
            parts.append("',' || tags || ',' LIKE ? ESCAPE '!'")
            values.append(f"%,{_literal(value)},%")
        else:
            parts.append(f"{BY[word]} = ?")
            values.append(value)
    return " AND ".join(parts), values


def _literal(text: str) -> str:
    """A text in a pattern in which it means itself."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def _rows(
    database: Database, columns: Sequence[str], where: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    sums = ", ".join(f"SUM({unit})" for unit in COUNTED_UNITS)
    unpriced = "SUM(CASE WHEN nano IS NULL THEN 1 ELSE 0 END)"
    shown = ", ".join([*columns, f"SUM(asked), {_CALLS}, SUM(nano), {unpriced}", sums])
    group = f" GROUP BY {', '.join(columns)}" if columns else ""
    return database.fetch(f"SELECT {shown} FROM usage WHERE {where}{group}", values)


def _usage(by: Sequence[str], row: tuple[Any, ...]) -> Usage:
    names, (requests, calls, nano, unpriced), amounts = row[: len(by)], row[len(by) :][:4], row[len(by) + 4 :]
    counted = zip(COUNTED_UNITS, amounts, strict=True)
    return Usage(
        by=dict(zip(by, names, strict=True)),
        requests=int(requests or 0),
        calls=int(calls or 0),
        nano=int(nano or 0),
        unpriced=int(unpriced or 0),
        units={name: _number(name, amount) for name, amount in counted if amount is not None},
    )


def _number(name: str, amount: Any) -> float:
    return float(amount) if name in FRACTIONS else int(amount)


def _each_tag(lines: Iterable[Usage]) -> list[Usage]:
    """Lines by one tag each: those of several tags are added to each of them."""
    found: dict[tuple[str, ...], Usage] = {}
    for line in lines:
        for tag in line.by["tag"].split(","):
            own = msgspec.structs.replace(line, by={**line.by, "tag": tag})
            key = tuple(own.by.values())
            found[key] = _plus(found[key], own) if key in found else own
    return list(found.values())


def _plus(a: Usage, b: Usage) -> Usage:
    units = {name: a.units.get(name, 0) + b.units.get(name, 0) for name in {**a.units, **b.units}}
    return Usage(
        by=a.by,
        requests=a.requests + b.requests,
        calls=a.calls + b.calls,
        nano=a.nano + b.nano,
        unpriced=a.unpriced + b.unpriced,
        units=units,
    )


def _iso(instant: datetime | None) -> str:
    return "" if instant is None else instant.astimezone(UTC).isoformat(timespec="seconds")


def no_book(place: str) -> NotFound:
    """The error of who asks for a book that was never written."""
    return NotFound(
        f"there is no book of usage at {place}", help="tauten serve and tauten run write it: --usage PLACE"
    )
