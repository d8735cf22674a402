"""The prices that the package genai-prices carries: its data, without its code and without the network.

Importing the package brings an HTTP client and a validator along, which nobody here needs. Its data are one file of
plain constructor calls. It is read for what it says: each call becomes a record of its keywords, and nothing
but the standard library can be imported by it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import builtins
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from importlib import metadata, util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from tauten.errors import MachineError

PACKAGE: Final = "genai_prices"
_IMPORTS: Final = frozenset({"__future__", "datetime", "decimal", "typing"})


class Record:
    """One thing of the data: the name of its type, and its fields."""

    def __init__(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.kind = kind
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"].get(name)
        except KeyError:  # while it is made
            raise AttributeError(name) from None


class Priced(NamedTuple):
    """What a unit costs: dollars for `per` of it, and more of them beyond so many tokens of input."""

    unit: str
    per: int
    dollars: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()  # (beyond so many tokens, dollars), rising

    def at(self, input_tokens: int | float) -> Decimal:
        """Dollars for `per`, with so many tokens of input: a tier is of all, not of what lies beyond it."""
        found = self.dollars
        for start, dollars in self.tiers:
            if input_tokens > start:
                found = dollars
        return found


class Bundled(NamedTuple):
    """All providers, what the units of prices are, and which edition of the data that is."""

    providers: Sequence[Record]
    units: Mapping[str, Mapping[str, Any]]  # by the name that usage has: per, price_key, dimensions
    edition: str


@functools.cache
def bundled() -> Bundled:
    """The data of the installed package, read once (about a tenth of a second); raises MachineError E343 without it."""
    spec = util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MachineError("genai-prices is not installed", help="pip install 'tauten[serve]'", code="E343")
    folder = Path(next(iter(spec.submodule_search_locations)))
    units = _read(folder / "data_units.py")["unit_data"]
    return Bundled(_read(folder / "data.py")["providers"], units, f"genai-prices {metadata.version(PACKAGE)}")


class _Names(dict[str, Any]):
    """The names of a file that is read: those that it does not define are types, and make records."""

    def __missing__(self, name: str) -> Any:
        if name.startswith("__") or hasattr(builtins, name):
            raise KeyError(name)
        return functools.partial(_record, name)


def _record(kind: str, /, **fields: Any) -> Record:
    return Record(kind, fields)


def _read(path: Path) -> dict[str, Any]:
    """What a file of data defines; from its compiled form where that is there."""
    code = SourceFileLoader(f"_{path.stem}", str(path)).get_code(f"_{path.stem}")
    names = _Names()
    allowed = {"__import__": _imported, "list": list, "dict": dict, "str": str, "tuple": tuple}
    try:
        exec(code, {"__builtins__": allowed, "__name__": path.stem}, names)  # type: ignore[arg-type]
    except (AttributeError, ImportError, LookupError, NameError, TypeError) as error:
        raise MachineError(
            f"{path.name} of genai-prices is not what this version reads: {error}",
            help="install genai-prices 0.2, or give prices of your own: --prices FILE",
            code="E343",
        ) from error
    return names


def _imported(
    name: str, _: Any = None, __: Any = None, names: Sequence[str] = (), level: int = 0
) -> ModuleType:
    if level:  # its own types: each name that is not found makes records
        empty = ModuleType(name)
        empty.__all__ = []  # type: ignore[attr-defined]
        return empty
    if name not in _IMPORTS:
        raise ImportError(f"the data import {name!r}, which data do not")
    return __import__(name, fromlist=list(names or ()))


# -- finding -------------------------------------------------------------------------------------------------


def find(data: Bundled, provider: str, model: str) -> Record | None:
    """A provider's model as the data know it; None for a provider or model that they do not.

    A provider is known by its id, by what it is also called, or by its address.
    """
    found = _provider(data.providers, provider)
    if found is None:
        return None
    names = [model.lower()]
    if (dashed := _DATE.sub(r"-\1-\2-\3", names[0])) != names[0]:
        names.append(dashed)  # as others write gpt-x-20251211
    for name in names:
        if (match := _model(data.providers, found, name)) is not None:
            return match
    return None


_DATE: Final = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


def _provider(providers: Sequence[Record], name: str) -> Record | None:
    if name.startswith(("http://", "https://")):
        return next((each for each in providers if re.match(each.api_pattern, name)), None)
    wanted = name.lower().strip()
    exact = next((each for each in providers if each.id == wanted), None)
    matches = (each for each in providers if each.provider_match is not None)
    called = exact or next((each for each in matches if fits(each.provider_match, wanted)), None)
    return called or (_provider(providers, f"https://{wanted}/") if "." in wanted else None)  # a host


def _model(providers: Sequence[Record], provider: Record, name: str) -> Record | None:
    others = provider.fallback_model_providers or ()  # it sells what these make, at their price
    sellers = [provider, *(each for id in others for each in providers if each.id == id)]
    models = (model for seller in sellers for model in seller.models or ())
    return next((model for model in models if fits(model.match, name)), None)


def fits(clause: Record, text: str) -> bool:
    """Whether a text is what a clause means; case does not count."""
    low = text.lower()
    for word, test in _TESTS.items():
        if word in clause.fields:
            return test(low, clause.fields[word])
    if "or_" in clause.fields:
        return any(fits(each, text) for each in clause.or_)
    if "and_" in clause.fields:
        return all(fits(each, text) for each in clause.and_)
    return False  # of a kind that is newer than this: it matches nothing, and its price is unknown


_TESTS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "starts_with": lambda text, word: text.startswith(word.lower()),
    "ends_with": lambda text, word: text.endswith(word.lower()),
    "contains": lambda text, word: word.lower() in text,
    "equals": lambda text, word: text == word.lower(),
    "regex": lambda text, word: re.search(word, text) is not None,
}


# -- what it costs -------------------------------------------------------------------------------------------


def prices(data: Bundled, model: Record, at: datetime) -> tuple[Priced, ...] | None:
    """A model's prices at an instant (UTC); None where one of them is of a kind that is newer than this."""
    at = at.astimezone(UTC)
    given = model.prices
    if not isinstance(given, Record):
        if not given:
            return None
        active = [each for each in given if _active(each.constraint, at)]
        given = (active[-1] if active else given[0]).prices
    by_key = {unit.get("price_key", name): (name, unit["per"]) for name, unit in data.units.items()}
    found = []
    for key, price in given.fields.items():
        if price is None:
            continue
        if key not in by_key:
            return None
        name, per = by_key[key]
        found.append(_priced(name, per, price))
    return tuple(found)


def _priced(unit: str, per: int, price: Decimal | Record) -> Priced:
    if isinstance(price, Record):
        tiers = sorted((tier.start, tier.price) for tier in price.tiers)
        return Priced(unit, per, price.base, tuple(tiers))
    return Priced(unit, per, price)


def _active(constraint: Record | None, at: datetime) -> bool:
    if constraint is None:
        return True
    if (start := constraint.start_date) is not None:
        return bool(at.date() >= start)
    begins, ends = _in_day(constraint.start_time), _in_day(constraint.end_time)
    now = at.time()
    return begins <= now < ends if begins <= ends else now >= begins or now < ends


def _in_day(given: time) -> time:
    """A time of day as UTC without its zone; one without a zone is UTC."""
    if given.tzinfo is None:
        return given
    return datetime.combine(datetime(1970, 1, 2, tzinfo=UTC).date(), given).astimezone(UTC).time()
