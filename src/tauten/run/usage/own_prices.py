"""A file of prices of one's own: what providers and this machine cost, from one day to another."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import fnmatch
import tomllib
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from tauten.errors import InputError
from tauten.run.usage.call import UNITS

FORMAT: Final = "prices/1"
MILLION: Final = 1_000_000


class Dated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"since": "from"}, kw_only=True):
    """What holds from one day (UTC) up to another, which is not part of it."""

    since: date | None = None
    until: date | None = None

    def holds(self, on: date) -> bool:
        return (self.since is None or self.since <= on) and (self.until is None or on < self.until)


class OwnPrice(Dated, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Dollars for a million of each unit, of one provider's model; `model` may end in a star."""

    provider: str
    model: str
    per_million: dict[str, Decimal]

    def fits(self, provider: str, model: str, on: date) -> bool:
        return self.provider == provider and fnmatch.fnmatchcase(model, self.model) and self.holds(on)


class Machine(Dated, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What this machine costs: dollars for an hour of one core, and for a kilowatt-hour."""

    core_hour: Decimal
    kilowatt_hour: Decimal | None = None


class OwnPrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. `alias` says whose prices hold for a provider that is called otherwise here."""

    tauten: str
    price: list[OwnPrice] = []
    machine: list[Machine] = []
    alias: dict[str, str] = {}


def read_prices(path: Path) -> OwnPrices:
    """A price file; raises InputError E237 with the place of what is wrong."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        found = msgspec.convert(raw, OwnPrices)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise _bad(path, str(error)) from error
    if found.tauten != FORMAT:
        raise _bad(path, f"tauten = {found.tauten!r}, and {FORMAT!r} was expected")
    for each in found.price:
        _check(path, each.per_million)
    for machine in found.machine:
        _check_amounts(path, {"core_hour": machine.core_hour, "kilowatt_hour": machine.kilowatt_hour})
    return found


def _check(path: Path, per_million: dict[str, Decimal]) -> None:
    if unknown := sorted(set(per_million) - set(UNITS)):
        raise _bad(path, f"no unit is called {unknown[0]!r}", f"units: {', '.join(UNITS)}")
    _check_amounts(path, per_million)


def _check_amounts(path: Path, amounts: dict[str, Any]) -> None:
    for name, amount in amounts.items():
        if amount is not None and not (amount.is_finite() and amount >= 0):
            raise _bad(path, f"{name} = {amount}", "a price is 0 or more dollars")


def _bad(path: Path, why: str, help: str = "") -> InputError:
    return InputError(
        f"{path} is no file of prices: {why}",
        help=help or "docs/usage.md shows one",
        code="E237",
    )
