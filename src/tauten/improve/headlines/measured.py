"""The rows there are, and their measuring one after another; one that cannot be measured says why."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from msgspec.structs import replace

from tauten.errors import InputError, TautenError, suggest
from tauten.improve.headlines.how import How
from tauten.improve.headlines.row import Row, Stamp, place
from tauten.shelf import Shelf

_ROWS = Shelf("tauten.improve.headlines.rows", "tauten.headlines")


def names() -> list[str]:
    """Every row, as L1, in the order of their numbers."""
    return [each.upper() for each in sorted(_ROWS.names(), key=place)]


def claim(name: str) -> str:
    """What is published."""
    found: str = _ROWS.own(name.lower()).CLAIM
    return found


def chosen(text: str) -> list[str]:
    """The rows of ``L1,L5``, in the order of their numbers; all without text. Raises InputError E260.

    >>> chosen("l5, L1")
    ['L1', 'L5']
    """
    asked = {each.strip().upper() for each in text.split(",") if each.strip()}
    for each in sorted(asked - set(names())):
        raise InputError(f"no row {each!r}", help=suggest(each, names()), code="E260")
    return [each for each in names() if each in asked or not asked]


async def measured(ids: Sequence[str], how: How, stamp: Stamp) -> AsyncGenerator[Row, None]:
    """Measure these rows, one after another. What a row raises of our errors is its reason for having no figures."""
    for id in ids:
        try:
            row: Row = await _ROWS.own(id.lower()).measure(how)
        except TautenError as error:
            row = Row(id=id, claim=claim(id), missing=f"{error.code} {error.message}")
        yield replace(row, quick=how.quick, stamp=stamp)
