"""What is kept of a request that has ended until it is written, and the lines that are made of it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from tauten.plan.plan import ModelChoice
from tauten.run.usage.call import UNITS, Call, is_count, mistaken
from tauten.run.usage.cost import fits
from tauten.run.usage.energy import Meter
from tauten.run.usage.payer import Payer
from tauten.run.usage.prices import FREE, LOCAL, UNKNOWN, Price, Prices
from tauten.run.usage.row import COUNTED_UNITS, SHARED_UNITS, UsageRow

Models = Callable[[str], Mapping[str, ModelChoice]]
"""The models of a step by role; none where it has none."""

_PREFIX: Final = os.urandom(8).hex()  # of this process: lines of several in one database never meet
_count = itertools.count(1)
ELSEWHERE: Final = (
    "elsewhere"  # the provider of what a workflow's own client asked (`tauten.wrap`): nobody said whom
)
MIRROR: Final = "mirror"  # why a call was made for nothing but the books
_NONE: Final[Sequence[Any]] = ()
_OWN: Final = frozenset(COUNTED_UNITS) | {"replica_seconds"}


class Entry(NamedTuple):
    """Plain references: what it names is not changed any more, but by calls that end after the request did."""

    at: float  # wall clock
    ended: str
    request: str
    tenant: str
    payer: Payer
    workflow: str
    plan: str
    calls: Sequence[Call]
    spent: Sequence[tuple[str, str, float]]
    streams: Sequence[tuple[Any, ...]]  # invocations, for what engines of this machine took
    models: Models
    asked: int = 1
    why: str = ""
    kind: str = ""
    kinds: Mapping[str, str] = {}  # of single steps


def no_models(_: str) -> Mapping[str, ModelChoice]:
    """Of what was not computed here."""
    return {}


def late_call(entry: Entry, call: Call) -> Entry:
    """A call that ended after its request was booked."""
    return entry._replace(calls=(call,), spent=_NONE, streams=_NONE, asked=0)


def took(entry: Entry) -> bool:
    """Whether it took anything of a provider or of a model here; the time of a user's own code is nobody's bill."""
    return (
        bool(entry.calls)
        or any(unit in COUNTED_UNITS or entry.models(_stage(step)) for step, unit, _ in entry.spent)
        or any(len(each) > _CORE_S and each[_CORE_S] for each in entry.streams)
    )


class Lines:
    """Makes lines of entries, with prices. In the writer's thread."""

    def __init__(self, prices: Prices, meter: Meter, cores: int) -> None:
        self.prices = prices
        self._meter = meter
        self._cores = cores
        self._common: dict[tuple[Any, ...], Mapping[str, str]] = {}

    def of(self, entry: Entry) -> list[UsageRow]:
        """At least one; the first one that is of the request itself counts it."""
        rows = [*self._calls(entry), *self._steps(entry)]
        if not rows and entry.asked:
            rows.append(self._line(entry, FREE, outcome=entry.ended))
        if rows and entry.asked:
            first = next((at for at, row in enumerate(rows) if not row.kind), 0)
            rows[first] = replace(rows[first], asked=entry.asked)
        return rows

    def _calls(self, entry: Entry) -> Iterator[UsageRow]:
        at = datetime.fromtimestamp(entry.at, UTC)
        for call in entry.calls:
            yield self._line(
                entry,
                self._price(call, at),
                step=call.step,
                why=call.why,
                kind=_kind(entry, _stage(call.step), MIRROR if call.why == MIRROR else ""),
                provider=call.provider,
                model=call.model,
                region=call.region,
                credential=call.key,
                provider_request=call.request_id,
                outcome=call.outcome,
                counted=call.counted,
                seconds=call.ended - call.started,
                units={
                    unit: amount for unit, amount in call.units.items() if unit in UNITS and is_count(amount)
                },
            )

    def _price(self, call: Call, at: datetime) -> Price:
        if call.outcome == "refused":
            return FREE
        if call.counted == "none" or not call.units or mistaken(call.units):
            return UNKNOWN
        return self.prices.call(call.provider, call.model, call.units, at)

    def _steps(self, entry: Entry) -> Iterator[UsageRow]:
        """Of each step that took something of this machine; one that asked a provider is booked by its calls."""
        remote = {_stage(call.step) for call in entry.calls}
        sums: dict[str, dict[str, float]] = {}
        for step, unit, amount in entry.spent:
            if unit in _OWN and (name := _stage(step)) not in remote:
                units = sums.setdefault(name, {})
                units[unit] = units.get(unit, 0.0) + amount
        for invocation in entry.streams:
            if (
                len(invocation) > _CORE_S
                and invocation[_CORE_S]
                and (name := _stage(invocation[0])) not in remote
            ):
                units = sums.setdefault(name, {})
                units["core_seconds"] = units.get("core_seconds", 0.0) + invocation[_CORE_S]
        for step, units in sums.items():
            yield self._step(entry, step, units)

    def _step(self, entry: Entry, step: str, units: dict[str, float]) -> UsageRow:
        choices = entry.models(step)
        choice = next(iter(choices.values()), None)
        counted = "measured"
        replica_s = units.pop("replica_seconds", 0.0)
        if replica_s and "core_seconds" not in units:
            threads = 1 if choice is None else choice.threads or self._cores
            units["core_seconds"], counted = replica_s * threads, "estimate"
        computed = units.keys() - set(SHARED_UNITS)
        if (joules := self._meter.joules(units.get("core_seconds", 0.0))) is not None and computed:
            units["energy_j"] = joules
        here = choice is not None or "core_seconds" in units or not computed
        at = datetime.fromtimestamp(entry.at, UTC)
        return self._line(
            entry,
            (self.prices.local(units, at) if here else UNKNOWN) if computed else FREE,
            step=step,
            kind=_kind(entry, step),
            why=entry.why or ("" if computed else "shared"),
            provider=LOCAL if here else ELSEWHERE,
            model="" if choice is None else _model(choice),
            outcome=entry.ended,
            counted=counted,
            seconds=replica_s,
            units=units,
        )

    def _line(self, entry: Entry, price: Price, **fields: Any) -> UsageRow:
        told: dict[str, Any] = {**self._about(entry), "request": _told(entry.request), **fields}
        if not fits(price.nano):
            price = UNKNOWN
        for name, value in fields.items():
            if value.__class__ is str:
                told[name] = _told(value)
        return UsageRow(
            id=f"{_PREFIX}{next(_count):010x}",  # in order of their making
            at_ms=int(entry.at * 1000),
            day=_day(int(entry.at // _DAY_S)),
            nano=price.nano,
            priced_by=price.by,
            **told,
        )

    def _about(self, entry: Entry) -> Mapping[str, str]:
        """What many requests have in common, made once for them."""
        common = (entry.payer, entry.tenant, entry.workflow, entry.plan, entry.why, entry.kind, entry.ended)
        about = self._common.get(common)
        if about is None:
            if len(self._common) >= _COMMON:
                self._common.clear()
            about = self._common[common] = _common(*common)
        return about


def _common(
    payer: Payer, tenant: str, workflow: str, plan: str, why: str, kind: str, ended: str
) -> Mapping[str, str]:
    about = {
        "tenant": tenant,
        "key": payer.key,
        "client": payer.client,
        "tags": ",".join(payer.tags),
        "workflow": workflow,
        "plan": plan,
        "why": why,
        "kind": kind,
        "ended": ended,
    }
    return {name: _told(value) for name, value in about.items()}


def _told(value: str) -> str:
    """What others call something, as a database takes it; a header's bytes that are no text are question marks in it."""
    if value.isascii() and len(value) <= _LONGEST and "\0" not in value:
        return value
    return value.replace("\0", "")[:_LONGEST].encode(errors="replace").decode()


@functools.lru_cache(maxsize=4)
def _day(number: int) -> str:
    """A day since 1970, as 2026-03-01."""
    return datetime.fromtimestamp(number * _DAY_S, UTC).date().isoformat()


_DAY_S: Final = 86_400
_COMMON: Final = 1024  # payers, workflows and plans of a moment: some dozens
_LONGEST: Final = 256  # characters of what others call something
_CORE_S: Final = 13  # where an invocation says what of the processor it took


def _kind(entry: Entry, step: str, own: str = "") -> str:
    """What a step, or one that it called, worked for: the whole request's kind, its own, or that of the step."""
    if entry.kind or own or not entry.kinds:
        return entry.kind or own
    return entry.kinds.get(step) or entry.kinds.get(step.partition("/")[0], "")


def _stage(step: str) -> str:
    """The step, whichever of its members that was."""
    return step.partition("[")[0]


def _model(choice: ModelChoice) -> str:
    return f"{choice.model}:{choice.variant}" if choice.variant else choice.model
