"""Money as whole billionths of a dollar, and sums that know what they do not know."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, NamedTuple

NANO: Final = 1_000_000_000  # of a dollar: one token of the cheapest model costs some ten of them
MOST: Final = 10**15  # nano: no line costs a million dollars, and of thousands a column still holds the sum
_CENT: Final = NANO // 100


class Cost(NamedTuple):
    """A sum of money: what is known of it, and of how many things the price is not."""

    nano: int = 0
    unknown: int = 0

    def plus(self, nano: int | None) -> Cost:
        """With one more thing; None is one whose price nobody knows."""
        return Cost(self.nano, self.unknown + 1) if nano is None else Cost(self.nano + nano, self.unknown)

    @property
    def dollars(self) -> Decimal:
        """What is known, exactly."""
        return Decimal(self.nano) / NANO

    def __str__(self) -> str:
        """As a person reads it: `$0.42`, `at least $0.42`, or `unknown` where nothing is known."""
        if not self.unknown:
            return money(self.nano)
        return f"at least {money(self.nano)}" if self.nano else "unknown"


def total(amounts: Iterable[int | None]) -> Cost:
    """The sum of some amounts, None for those that nobody knows."""
    cost = Cost()
    for each in amounts:
        cost = cost.plus(each)
    return cost


def fits(nano: int | None) -> bool:
    """Whether the books can hold a price; an unknown one they can."""
    return nano is None or nano <= MOST


def money(nano: int) -> str:
    """Dollars with as many places as say something: cents above a dollar, three figures below."""
    if abs(nano) >= NANO or not nano:
        return f"${Decimal(nano) / NANO:,.2f}" if nano else "$0"
    return f"${(Decimal(nano) / NANO).quantize(_place(abs(nano))).normalize():f}"


def _place(nano: int) -> Decimal:
    """The third figure's place; no finer than a billionth."""
    return Decimal(1).scaleb(max(len(str(nano)) - 12, -9))


def nano_of(dollars: Decimal) -> int:
    """Whole billionths, the nearest; what lies between is a millionth of a millionth of anybody's bill."""
    return int((dollars * NANO).to_integral_value(ROUND_HALF_EVEN))
