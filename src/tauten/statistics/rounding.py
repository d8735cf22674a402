"""Rounding rows of a table so that they still add up."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence

from tauten.errors import InternalError


def percent(confidence: float) -> str:
    """A confidence as it is held, to hundredths: cut off, for rounded it would promise more.

    >>> percent(0.95), percent(0.995), percent(1 - 0.05 / 12), percent(0.99999)
    ('95%', '99.5%', '99.58%', '99.99%')
    """
    return f"{math.floor(confidence * 1e4 + 1e-6) / 100:g}%"


def round_to_total(values: Sequence[float], total: float, digits: int = 0) -> list[float]:
    """Round values so that they add up to the rounded total; each moves by less than one unit.

    Largest remainder (Hamilton's method). Raises InternalError when the values do not sum to the total.
    """
    unit = 10.0**-digits
    scaled = [value / unit for value in values]
    floors = [math.floor(value + 1e-9) for value in scaled]
    spare = round(total / unit) - sum(floors)
    if not 0 <= spare <= len(values) or abs(math.fsum(values) - total) > unit:
        raise InternalError(f"rows sum to {math.fsum(values)}, the total says {total}")
    order = sorted(range(len(values)), key=lambda row: floors[row] - scaled[row])
    for row in order[:spare]:
        floors[row] += 1
    return [round(whole * unit, digits) for whole in floors]
