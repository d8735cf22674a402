"""The fault wall: each fault caused for real against our server with remote backends; what its clients saw, and the books."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from bench.ground.check import Check
from bench.shortcuts.faults.causes import CannotCause
from bench.shortcuts.faults.faults import FAULTS
from bench.shortcuts.faults.machine import MACHINE, Prepare
from bench.shortcuts.faults.wall import BUDGET_MS, QUICK_ACT, Around, Fault, measured
from bench.shortcuts.provider.running import Provider, standin
from bench.shortcuts.section import Column, Measure, Row, Rows, Section, Settings, Subject, Value

OF_BUDGET = (
    1.05  # of its budget at the latest: timers, a loop that is busy, and the way back of the last bytes
)

COLUMNS = (
    Column("saw", "what the client saw"),
    Column("why", "what was not right"),
    Column("of_budget", "the latest, as a share of its budget", "share"),
    Column("p50_ms", "p50", "ms"),
    Column("extra", "calls made again or beside"),
    Column("calls", "how calls ended"),
    Column("tokens", "tokens, by the providers' count"),
    Column("gap_tokens", "tokens that the book differs by"),
)


@contextlib.asynccontextmanager
async def opened(settings: Settings, only: Collection[str] = ()) -> AsyncIterator[Section]:
    """Two providers; each fault has a server of its own, so that none is met by what another left. `only` these."""
    async with standin(QUICK_ACT) as first, standin(QUICK_ACT) as second:
        measures: dict[str, tuple[Measure, object]] = {
            name: (_of(fault, first, second), fault) for name, fault in FAULTS.items()
        }
        measures |= {name: (_of_machine(each, first, second), each) for name, each in MACHINE.items()}
        subjects = [
            Subject(name, measure, True, doc(what))
            for name, (measure, what) in measures.items()
            if not only or name in only
        ]
        yield Section(
            "fault_wall",
            "Fault wall",
            "Whatever fails, each client gets its answer whole or an error that says so, within its budget; a cut stream is "
            "never a success; and the books close to the token.",
            "Requests through the OpenAI API, streams and whole answers in turn, each with a budget that it names. A stand-in "
            "provider misbehaves, or the machine does. `alone` has that provider only, `both` a second one, `going_on` may continue a "
            "cut answer there, `hedged` may ask it beside. What the book has of each call is held against the providers' own counts.",
            COLUMNS,
            subjects,
            judge,
            conditions={
                "budget unless the fault says otherwise, ms": BUDGET_MS,
                "a good answer": dict(QUICK_ACT),
            },
            notes=[
                "A provider bills the prompt of a call that it began to answer, or whose client it was working for when that left, and each "
                "word that it sent. Words have four characters at most, so that the estimate of a cut answer can be exact: elsewhere it is an "
                "estimate, and called one.",
                "The wall clock is off as Python reads it (time.time); the monotonic clock, by which all waits are measured, never jumps.",
            ],
        )


def doc(what: object) -> str:
    """The first line that a fault says of itself."""
    return (what.__doc__ or "").strip().split("\n")[0]


def _of(fault: Fault, first: Provider, second: Provider) -> Measure:
    async def measure(number: int) -> Mapping[str, Value]:
        return await measured(fault, first, second, Around())

    return measure


def _of_machine(prepare: Prepare, first: Provider, second: Provider) -> Measure:
    async def measure(number: int) -> Mapping[str, Value]:
        async with prepare() as (around, fault):
            return await measured(fault, first, second, around)

    return measure


def judge(rows: Rows) -> Sequence[Check]:
    """Over all rounds of all faults that could be caused here; the worst of each."""
    caused = [row for row in rows.values() if any("error" not in one for one in row.rounds)]
    return [
        Check("faults that could be caused here", len(caused), len(rows) - _impossible(rows), at_least=True),
        Check("clients that saw something else than they should", _sum(caused, "wrong"), 0),
        Check("the latest answer, as a share of its budget", _most(caused, "of_budget"), OF_BUDGET),
        Check("tokens that the books differ by", _sum(caused, "gap_tokens"), 0),
        Check("requests without a line in the book", _sum(caused, "lines_missing"), 0),
        Check("requests that ran on after their client had its answer", _sum(caused, "running"), 0),
        Check("servers that did not end well", _most(caused, "exit"), 0),
    ]


def _impossible(rows: Rows) -> int:
    """Faults that this machine does not let us cause: said in their rows."""
    return sum(row.reason.startswith(CannotCause.__name__) for row in rows.values())


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [abs(one[key]) for row in rows for one in row.rounds if one.get(key) is not None]


def _sum(rows: Sequence[Row], key: str) -> float | None:
    found = _values(rows, key)
    return float(sum(found)) if found else None


def _most(rows: Sequence[Row], key: str) -> float | None:
    return max(_values(rows, key), default=None)
