"""L8: questions under one prompt of a thousand tokens, with and without the prefix cache; the headline's own trials."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.ground import figures
from bench.ground.check import Check
from bench.shortcuts.section import Column, Measure, Rows, Section, Settings, Subject, Value

from tauten.improve.headlines.how import How
from tauten.improve.headlines.rounds import Trial
from tauten.improve.headlines.rows import l8
from tauten.improve.headlines.speaker import MODEL

COSTS_LEFT = 0.1  # of the tokens, as published: 90 % of the cost saved
LATER = 0.5  # of the time to a later question's first token: reading the prompt is most of it, and falls away
AGAIN = 1000  # a measurement that is repeated has another prompt: it must not find what its first try left
KEYS = {  # what the headline measures, and its name here
    "first token, first question": "first_ms",
    "first token, later ones": "later_ms",
    "tokens computed": "computed",
    "share found": "found",
    "all questions": "all_ms",
}
COLUMNS = [
    Column("first_ms", "first token, first question", "ms"),
    Column("later_ms", "first token, later ones", "ms"),
    Column("computed", "tokens computed"),
    Column("found", "tokens found in the cache", "share"),
    Column("all_ms", "all questions", "ms"),
]


def _how(settings: Settings) -> How:
    from tauten.cli.headlines import inputs
    from tauten.models import Store

    return How(inputs(), Store(), quick=settings.quick, seed=settings.seed)


@dataclass(frozen=True)
class Parts:
    """What the section is made of; tests hand in their own."""

    how: Callable[[Settings], How] = _how


@contextlib.asynccontextmanager
async def opened(settings: Settings, parts: Parts = Parts()) -> AsyncIterator[Section]:
    how, read = parts.how(settings), list[int]()
    async with AsyncExitStack() as stack:
        trials, properties = await l8.opened_trials(how, stack, read)
        yield Section(
            name="prefix_cache",
            title="A shared prefix of a thousand tokens",
            claim=f"L8: {l8.CLAIM}.",
            how="Questions under one prompt, one after another; each round has a prompt of its own, so the first question of a round finds nothing.",
            columns=COLUMNS,
            subjects=[
                Subject(name, _tried(trial), ours=name == l8.ON, note=_note(name))
                for name, trial in trials.items()
            ],
            judge=judged,
            conditions={
                "model": f"{MODEL}, precision {properties.get('precision', 'unknown')}",
                "threads": properties.get("threads", "unknown"),
                "questions of a round": l8.QUICK_QUESTIONS if how.quick else l8.QUESTIONS,
            },
            notes=[
                "Of ten questions the first reads all of the prompt: a tenth of the tokens is the least that is left, and their own words "
                "come on top.",
                "The same numbers are kept that would be computed again. The rule of the answers' length is that of the headline: eight tokens.",
            ],
        )


def _note(name: str) -> str:
    return next(column.setup for column in l8.COLUMNS if column.name == name)


def _tried(trial: Trial) -> Measure:
    used: set[int] = set()

    async def measure(number: int) -> Mapping[str, Value]:
        turn = number
        while turn in used:
            turn += AGAIN
        used.add(turn)
        reading = {what: value for (_, what), value in (await trial(turn)).items()}
        found = {KEYS[what]: value for what, value in reading.items()}
        return {**found, "found": found["found"] / 100}

    return measure


def judged(rows: Rows) -> list[Check]:
    def over(key: str, base: str) -> float | None:
        return figures.ratio(rows.get_figure(l8.ON, key), rows.get_figure(base, key))

    return [
        Check(
            "tokens computed with the prefix cache, of those without",
            over("computed", l8.OFF),
            COSTS_LEFT,
            "×",
        ),
        Check("first token of later questions, of that without", over("later_ms", l8.OFF), LATER, "×"),
        Check("the same, of that without but read in one step", over("later_ms", l8.LARGE), 1.0, "×"),
    ]
