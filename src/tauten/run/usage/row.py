"""One line of the books: who took what of whom, when, and what it cost."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import operator
from typing import Any, Final

import msgspec

from tauten.run.trace import SHARED
from tauten.run.usage.call import UNITS

SHARED_UNITS: Final = tuple(f"{SHARED}{name}" for name in ("input_tokens", "cached_tokens", "output_tokens"))
COUNTED_UNITS: Final = (*UNITS, *SHARED_UNITS, "core_seconds", "energy_j")
"""All that a line may count; a column each, empty where nothing was said."""

FRACTIONS: Final = frozenset({"audio_seconds", "core_seconds", "energy_j"})  # all others are whole numbers


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Of one request, one call to a provider or one step of this machine; at least one line a request.

    `ended` is how the request came out (ok, failed, cancelled, late, refused), `outcome` how this part of it did.
    `asked` is how many requests the line stands for: 1 on the first line of each, 0 on its others.
    """

    id: str  # unlike that of any other line: written twice it counts once
    at_ms: int  # wall clock, UTC, when it was booked
    day: str  # of that, as 2026-03-01
    request: str = ""
    tenant: str = ""
    key: str = ""
    client: str = ""
    tags: str = ""  # joined by commas
    workflow: str = ""
    plan: str = ""
    step: str = ""
    why: str = ""  # a call was made: "", retry, hedge ...; shared: another request computed it
    kind: str = (
        ""  # work that nobody waited for: refresh, stale, learn, verify, mirror; empty: of the request itself
    )
    provider: str = ""  # local: this machine; empty where nothing was taken of anybody
    model: str = ""
    region: str = ""
    credential: str = ""  # the name of the provider's key
    provider_request: str = ""  # as the provider calls it
    outcome: str = "ok"
    ended: str = "ok"
    counted: str = ""  # who counted: provider, estimate, measured, none
    asked: int = 0
    seconds: float = 0.0
    nano: int | None = None  # dollars, in billionths; None: nobody knows
    priced_by: str = ""
    units: dict[str, float] = {}

    def values(self) -> tuple[Any, ...]:
        """The line as its columns."""
        counts: list[float | int | None] = [None] * len(COUNTED_UNITS)
        for unit, amount in self.units.items():
            place = _PLACES.get(unit)
            if place is not None:
                counts[place] = float(amount) if unit in FRACTIONS else round(amount)
        return (*_head(self), *counts)


HEAD: Final = tuple(name for name in UsageRow.__struct_fields__ if name != "units")
COLUMNS: Final = (*HEAD, *COUNTED_UNITS)


_head: Final = operator.attrgetter(*HEAD)
_PLACES: Final = {unit: place for place, unit in enumerate(COUNTED_UNITS)}


def row_of(values: tuple[Any, ...]) -> UsageRow:
    """A line from its columns."""
    head = dict(zip(HEAD, values, strict=False))
    counts = zip(COUNTED_UNITS, values[len(HEAD) :], strict=True)
    return UsageRow(**head, units={name: amount for name, amount in counts if amount is not None})
