"""What extra calls may take: a share of the traffic, and never more, however long it was quiet before."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations


class Share:
    """Each unit of traffic earns `share` of a unit, up to `most`; extra work takes from it, or is not done."""

    def __init__(self, share: float, *, reserve: float, most: float) -> None:
        self._share = share
        self._most = most
        self.left = reserve

    def earn(self, amount: float) -> None:
        """So much ordinary traffic came."""
        self.left = min(self._most, self.left + self._share * amount)

    def take(self, amount: float) -> bool:
        """Spend it on extra work; False, and nothing is spent, where too little is left."""
        if amount > self.left + 1e-9:  # ten tenths are one, whatever binary fractions make of it
            return False
        self.left = max(0.0, self.left - amount)
        return True
