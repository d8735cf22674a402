"""What an option would cost for a request: the price that was written, else that of the price book; None if unknown."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.routing.foresight import Tokens
from tauten.run.usage.prices import Price, Prices

WRITTEN: Final = "cents_per_token"  # who says so, where the workflow or the plan does
_NANO_A_CENT: Final = 10_000_000  # billionths of a dollar
_GAIN: Final = 1 / 8  # of a new request, as round-trip estimators take it

Place = Deployment | SlotDeployment


class Priced(NamedTuple):
    """Cents a token, cents of the request, and who says so."""

    each: float | None = None
    cents: float | None = None
    by: str = ""


class Bill:
    """Of one option. Its models with a provider cost what the price book says of them; what this machine computes
    costs what the book says of its core-seconds, as many as it took of late. One part without a price, and nobody
    knows what the whole costs."""

    def __init__(
        self, prices: Prices | None = None, places: Sequence[Place] = (), *, told: float | None = None
    ) -> None:
        self._prices = prices
        self._told = told
        self._places = list(dict.fromkeys(places))
        self._core_s = 0.0
        self._seen = 0
        self._listed({}, datetime.now(UTC))  # the price book is read when a plan opens, and not on request 1

    def worked(self, core_s: float) -> None:
        """An answer took so many core-seconds of this machine."""
        if core_s > 0.0:
            gain = _GAIN if self._seen else 1.0
            self._seen += 1
            self._core_s += (core_s - self._core_s) * gain

    def of(self, own: Mapping[Place, Tokens], tokens: float, wall: datetime) -> Priced:
        """For what its models are foreseen to take, and for so many tokens where somebody wrote a price for each."""
        if self._told is not None:
            return Priced(self._told, self._told * tokens if tokens else None, WRITTEN)
        all_ = sum(each.all for each in own.values())
        prices = self._listed(own, wall) if all_ else []
        if not prices or any(price.nano is None for price in prices):
            return Priced()
        cents = sum(price.nano or 0 for price in prices) / _NANO_A_CENT
        return Priced(cents / all_, cents, ", ".join(dict.fromkeys(price.by for price in prices if price.by)))

    def _listed(self, own: Mapping[Place, Tokens], wall: datetime) -> list[Price]:
        """The price of each part."""
        if self._prices is None:
            return []
        found, here = [], False
        for place in self._places:
            billed = getattr(place.backend, "billed", None) if isinstance(place, SlotDeployment) else None
            if billed is None:
                here = True
            else:
                read, made = own.get(place, Tokens())
                units = {"input_tokens": read, "output_tokens": made, "requests": 1.0}
                provider, model = billed
                found.append(self._prices.call(provider, model, units, wall))
        if here:
            found.append(self._prices.local({"core_seconds": self._core_s} if self._seen else {}, wall))
        return found
