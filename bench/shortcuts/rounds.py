"""Measures a section: every row once a round, in an order of that round's own, with what disturbed it; then judges."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from bench.ground import figures, processes, quiet
from bench.ground.machine import CORES
from bench.shortcuts.section import FAILED, Result, Row, Rows, Section, Settings, Subject

DEFECTIVE_ROUNDS = 2  # a row that failed this often is not tried again
DISTURBANCE = ("foreign_share", "steal_share")


async def measured(section: Section, settings: Settings) -> Result:
    """All rounds of all rows, and what the section makes of them."""
    rows = Rows({each.name: Row(each.name, each.ours, each.note, each.reason) for each in section.subjects})
    for number in range(settings.rounds):
        await _round(section, rows, settings, number)
    for row in rows.values():
        _close(row)
    return Result(
        section.name,
        section.title,
        section.claim,
        section.how,
        list(section.columns),
        list(rows.values()),
        list(section.judge(rows)),
        {title: list(lines) for title, lines in section.curves(rows).items()},
        {"rounds": settings.rounds, "seed": settings.seed, **section.conditions},
        list(section.notes),
    )


async def _round(section: Section, rows: Rows, settings: Settings, number: int) -> None:
    able = [each for each in section.subjects if each.measure is not None]
    for subject in figures.order(able, settings.seed, number):
        row = rows[subject.name]
        if sum(FAILED in one for one in row.rounds) < DEFECTIVE_ROUNDS:
            print(f"  {number + 1}: {section.name}: {subject.name}", file=sys.stderr, flush=True)
            row.rounds.append({"round": number, **await _once(subject, number)})


async def _once(subject: Subject, number: int) -> dict[str, Any]:
    """One measurement, the quietest of a few; what went wrong in it is its result."""

    async def watched() -> dict[str, Any]:
        assert subject.measure is not None
        own_s = -processes.tree_cpu_s()
        with processes.watch([]) as usage:
            found = await subject.measure(number)
        own_s += processes.tree_cpu_s()
        shares = (usage.foreign_share(own_s, CORES), usage.steal_share(CORES))
        return {**found, **dict(zip(DISTURBANCE, shares, strict=True)), "took_s": usage.wall_s}

    try:
        return await quiet.quietest_async(watched)
    except Exception as error:  # noqa: BLE001  # told in the row, with the others
        traceback.print_exc()
        return {FAILED: f"{type(error).__name__}: {error}"[:400]}


def _close(row: Row) -> None:
    """Medians of the rounds that have figures; a row that has none says why."""
    good = [one for one in row.rounds if FAILED not in one]
    plain = [{key: value for key, value in one.items() if key != "round"} for one in good]
    row.figures = {**figures.merge(plain), **_words(plain)}
    if row.rounds and not good:
        row.reason = row.rounds[-1][FAILED]


def _words(rounds: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Values that are words, as the last round gave them."""
    return {key: value for one in rounds for key, value in one.items() if isinstance(value, str)}
