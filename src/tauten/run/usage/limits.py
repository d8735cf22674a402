"""A file of budgets: how much money, how many tokens or calls may go on whose account in which period."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from tauten.errors import InputError
from tauten.run.usage.cost import money, nano_of
from tauten.run.usage.payer import Payer

FORMAT: Final = "budgets/1"
EACH: Final = "*"  # each tenant, key, tag or workflow by itself
Unit = Literal["usd", "tokens", "calls"]
Span = Literal["hour", "day", "week", "month", "ever"]


class Period(NamedTuple):
    """One stretch of a budget: its name, and when the next one begins; None for the only one."""

    name: str
    ends: datetime | None


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One budget as the file says it: exactly one amount, and whose it is; of nobody in particular it is everybody's."""

    usd: Decimal | None = None
    tokens: int | None = None
    calls: int | None = None
    period: Span = "month"
    tenant: str = ""
    key: str = ""
    tag: str = ""
    workflow: str = ""

    @property
    def unit(self) -> Unit:
        return "usd" if self.usd is not None else "tokens" if self.tokens is not None else "calls"

    @property
    def most(self) -> int:
        """The amount, whole: billionths of a dollar, tokens, or calls."""
        return nano_of(self.usd) if self.usd is not None else int(self.tokens or self.calls or 0)

    def whose(self, tenant: str, payer: Payer, workflow: str) -> Iterator[str]:
        """The accounts of this budget that a request goes on; none where it is not of those that it is for."""
        named = {"tenant": (tenant,), "key": (payer.key,), "tag": payer.tags, "workflow": (workflow,)}
        accounts = [""]
        for kind, values in named.items():
            wanted = getattr(self, kind)
            if not wanted:
                continue
            found = [value for value in values if value and wanted in (value, EACH)]
            accounts = [f"{each} {kind}={value}".strip() for each in accounts for value in found]
        yield from accounts

    def shown(self, amount: int) -> str:
        """An amount as a person reads it."""
        return money(amount) if self.unit == "usd" else f"{amount:,} {self.unit}"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tauten: str
    budget: dict[str, Limit] = {}


def read_limits(path: Path) -> Mapping[str, Limit]:
    """The budgets of a file by name; raises InputError E238 with the place of what is wrong."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal), _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise _bad(path, str(error)) from error
    if found.tauten != FORMAT:
        raise _bad(path, f"tauten = {found.tauten!r}, and {FORMAT!r} was expected")
    for name, limit in found.budget.items():
        given = [each for each in (limit.usd, limit.tokens, limit.calls) if each is not None]
        if len(given) != 1 or not given[0] >= 0:
            raise _bad(path, f"budget {name!r} needs one amount of 0 or more: usd, tokens or calls")
    return found.budget


def _bad(path: Path, why: str) -> InputError:
    return InputError(f"{path} is no file of budgets: {why}", help="docs/usage.md shows one", code="E238")


def period_at(span: Span, at: datetime) -> Period:
    """The stretch that an instant lies in; all begin and end by UTC."""
    at = at.astimezone(UTC)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if span == "hour":
        return Period(
            at.strftime("%Y-%m-%dT%H"), at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        )
    if span == "day":
        return Period(day.date().isoformat(), day + timedelta(days=1))
    if span == "week":
        year, week, weekday = at.isocalendar()
        return Period(f"{year}-W{week:02d}", day + timedelta(days=8 - weekday))
    if span == "month":
        return Period(at.strftime("%Y-%m"), (day.replace(day=1) + timedelta(days=32)).replace(day=1))
    return Period("ever", None)
