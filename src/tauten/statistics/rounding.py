"""Rounding rows of a table so that they still add up."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence

from tauten.errors import InternalError


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
