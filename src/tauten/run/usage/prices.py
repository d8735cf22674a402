"""What a call costs: one's own prices first, then those of genai-prices; what nobody knows is None, never 0."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

from tauten.errors import MachineError
from tauten.run.remote.providers import read_providers
from tauten.run.usage import price_data
from tauten.run.usage.cost import nano_of
from tauten.run.usage.own_prices import MILLION, OwnPrices, read_prices
from tauten.run.usage.price_data import Priced

LOCAL: Final = "local"  # the provider of what this machine computes
_HOUR_S: Final = 3600
_KILOWATT_HOUR_J: Final = 3_600_000

_THEIRS: Final[Mapping[str, tuple[str, ...]]] = {
    "input_tokens": ("input_tokens", "input_text_tokens"),
    "cached_tokens": ("cache_read_tokens", "cache_text_read_tokens"),
    "cache_write_tokens": ("cache_write_tokens", "cache_text_write_tokens"),
    "output_tokens": ("output_tokens", "output_text_tokens"),
    "reasoning_tokens": ("output_reasoning_tokens",),
    "input_audio_tokens": ("input_audio_tokens",),
    "output_audio_tokens": ("output_audio_tokens",),
    "image_tokens": ("input_image_tokens",),
    "audio_seconds": ("audio_seconds", "input_audio_seconds", "output_audio_seconds"),
    "characters": ("input_characters",),
    "requests": ("requests",),
    "sent_bytes": (),  # price lists have none; a file of one's own may
    "received_bytes": (),
}
"""Our units by the names that the data have; the first that is priced counts."""

_WHOLE: Final[Mapping[str, str]] = {
    "cached_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "input_audio_tokens": "input_tokens",
    "image_tokens": "input_tokens",
    "reasoning_tokens": "output_tokens",
    "output_audio_tokens": "output_tokens",
}
"""Of what each part is part: one without a price of its own has that of the whole."""

_FAMILY: Final[Mapping[str, str]] = {unit: "tokens" if unit.endswith("_tokens") else unit for unit in _THEIRS}


class Price(NamedTuple):
    """What something costs, and who says so."""

    nano: int | None
    by: str = ""


UNKNOWN: Final = Price(None)
FREE: Final = Price(0)


class Prices:
    """Prices of providers and of this machine. Safe in any thread; the data are read when they are first asked."""

    def __init__(self, files: Sequence[Path] = (), *, bundled: bool = True) -> None:
        self._own: list[tuple[str, OwnPrices]] = [(path.name, read_prices(path)) for path in files]
        self._bundled = bundled
        self.problem = ""  # why the bundled data cannot be asked
        self._model = functools.lru_cache(maxsize=1024)(self._find)  # models in use: some dozens
        self._listed = functools.lru_cache(maxsize=1024)(self._table)

    def call(self, provider: str, model: str, units: Mapping[str, float], at: datetime) -> Price:
        """What a call with these units costs, at an instant."""
        on = at.astimezone(UTC).date()
        for name, own in self._own:
            for each in reversed(own.price):  # the last that fits, as a later line mends an earlier one
                if each.fits(provider, model, on):
                    table = {u: Priced(u, MILLION, dollars) for u, dollars in each.per_million.items()}
                    return _price(cost(table, units), name)
        return self._of_data(self._named(provider), model, units, at)

    def local(self, units: Mapping[str, float], at: datetime) -> Price:
        """What core-seconds and energy of this machine cost; unknown where nobody gave a price."""
        on = at.astimezone(UTC).date()
        for name, own in self._own:
            for machine in reversed(own.machine):
                if machine.holds(on):
                    core_s, energy_j = units.get("core_seconds"), units.get("energy_j")
                    if core_s is None or (machine.kilowatt_hour is not None and energy_j is None):
                        return UNKNOWN
                    dollars = machine.core_hour * Decimal(repr(core_s)) / _HOUR_S
                    if machine.kilowatt_hour is not None:
                        dollars += machine.kilowatt_hour * Decimal(repr(energy_j)) / _KILOWATT_HOUR_J
                    return Price(nano_of(dollars), name)
        return UNKNOWN

    def _named(self, provider: str) -> str:
        known = next((own.alias[provider] for _, own in self._own if provider in own.alias), None)
        return known or self._remotes.get(provider) or provider

    @functools.cached_property
    def _remotes(self) -> dict[str, str]:
        """Whose prices hold for the providers of `providers.toml`."""
        try:
            return {name: each.priced_as for name, each in read_providers().items() if each.priced_as}
        except MachineError:  # said where a plan opens it; what was booked is still priced by its own name
            return {}

    def _of_data(self, provider: str, model: str, units: Mapping[str, float], at: datetime) -> Price:
        if not self._bundled or self.problem:
            return UNKNOWN
        try:
            table, edition = self._listed(provider, model, at.replace(second=0, microsecond=0))
        except MachineError as error:
            self.problem = str(error)
            return UNKNOWN
        return UNKNOWN if table is None else _price(cost(table, units), edition)

    def _table(self, provider: str, model: str, minute: datetime) -> tuple[Mapping[str, Priced] | None, str]:
        """Prices by our units in that minute, within which none changes, and who says so; None where nobody knows."""
        found, data = self._model(provider, model), price_data.bundled()
        listed = None if found is None else price_data.prices(data, found, minute)
        if listed is None:
            return None, data.edition
        by_theirs = {each.unit: each for each in listed}
        table = {
            ours: next(by_theirs[name] for name in theirs if name in by_theirs)
            for ours, theirs in _THEIRS.items()
            if any(name in by_theirs for name in theirs)
        }
        return table, data.edition

    @staticmethod
    def _find(provider: str, model: str) -> price_data.Record | None:
        return price_data.find(price_data.bundled(), provider, model)


def _price(dollars: Decimal | None, by: str) -> Price:
    return UNKNOWN if dollars is None else Price(nano_of(dollars), by)


def cost(table: Mapping[str, Priced], units: Mapping[str, float]) -> Decimal | None:
    """Dollars for some units by a table of prices by our names; None where one that counts has no price.

    A whole is charged for what its priced parts leave of it. What a provider does not charge by (seconds, where
    it charges by tokens) does not count.
    """
    charged = {_FAMILY[unit] for unit in table}
    told = {_FAMILY[unit] for unit in units if unit in _FAMILY}
    if charged != {"requests"} and not told & charged - {"requests"}:
        return None  # of what it charges by, nothing was said
    used = {unit: amount for unit, amount in units.items() if amount > 0 and _FAMILY.get(unit) in charged}
    counted = {"requests": 1, **used} if "requests" in table else used
    if not all(_has_payer(table, unit, counted) for unit in counted):
        return None
    wholes = {unit: _rest(table, unit, counted) for unit in counted if unit in table}
    read = units.get("input_tokens", 0)
    return sum((_amount(table[unit], count, read) for unit, count in wholes.items()), Decimal(0))


def _has_payer(table: Mapping[str, Priced], unit: str, counted: Mapping[str, float]) -> bool:
    """Whether a unit has a price: its own, or that of the whole that it is part of."""
    whole = _WHOLE.get(unit)
    return unit in table or (whole in table and whole in counted)


def _rest(table: Mapping[str, Priced], unit: str, counted: Mapping[str, float]) -> float:
    """What is left of a unit when its parts that have prices are charged by them."""
    parts = sum(amount for part, amount in counted.items() if _WHOLE.get(part) == unit and part in table)
    return max(0.0, counted[unit] - parts)


def _amount(price: Priced, count: float, input_tokens: float) -> Decimal:
    exact = Decimal(int(count)) if float(count).is_integer() else Decimal(repr(float(count)))
    return price.at(input_tokens) * exact / price.per
