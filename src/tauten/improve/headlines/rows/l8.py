"""L8: what keeping a prompt's shared beginning saves, in tokens read and in the time to the first word."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from tauten.improve.headlines.how import How, without
from tauten.improve.headlines.rounds import Measure, Reading, Trial, lines
from tauten.improve.headlines.row import Column, Row
from tauten.improve.headlines.speaker import MODEL, Speaker, language_model

CLAIM = "prefix cache: cost −90 % on repetitive prompts"

OFF, LARGE, ON = "off", "off, large steps", "on"
SETTINGS: dict[str, dict[str, Any]] = {
    OFF: {},
    LARGE: {"max_batched_tokens": 1024},
    ON: {"prefix_cache": True},
}
COLUMNS = [
    Column(OFF, "no prefix cache, prompts read in the default's steps"),
    Column(LARGE, "no prefix cache, the whole prompt read in one step"),
    Column(ON, "prefix cache on, else the default"),
]
QUESTIONS, QUICK_QUESTIONS = 10, 3  # of one prefix: the first finds nothing kept, so a tenth is the least
WORDS = 8  # of an answer: the first is what is timed
PREFIX_CHARACTERS = 3800  # about 1000 tokens of a manual
SHOWN = {
    "first token, first question": Measure("ms"),
    "first token, later ones": Measure("ms", headline=True),
    "tokens computed": Measure("", headline=True),
    "share found": Measure("%"),
    "all questions": Measure("ms"),
}


async def measure(how: How) -> Row:
    """Three engines open side by side, asked in turn; each round has a prefix of its own."""
    read: list[int] = []
    async with AsyncExitStack() as opened:
        trials, properties = await opened_trials(how, opened, read)
        rounds = await how.interleaved(trials, "L8")
    return Row(
        id="L8",
        claim=CLAIM,
        naive=OFF,
        zero_effort=LARGE,
        ours=ON,
        conditions={
            "model": f"{MODEL}, precision {properties.get('precision', 'unknown')}",
            "threads": properties.get("threads", "unknown"),
            "prompts": f"{_count(how)} questions under one prefix, one after another, {_range(read)} tokens each",
            "tokens computed": "read and not found in the cache, of all questions, the first among them",
        },
        columns=without(COLUMNS, rounds.failed),
        lines=lines(rounds.readings, SHOWN, naive=OFF, zero_effort=LARGE, ours=ON),
        quality=["equivalent: the same numbers are kept that would be computed again"],
        notes=rounds.notes,
        rounds=len(rounds.others),
        others=rounds.typical,
        worst=rounds.worst,
    )


async def opened_trials(
    how: How, opened: AsyncExitStack, read: list[int]
) -> tuple[dict[str, Trial], Mapping[str, str]]:
    """An engine for each setting, open until `opened` closes, and what is in force there; `read` gets the lengths of
    the prompts."""
    prefix = how.inputs.manual[: PREFIX_CHARACTERS // (4 if how.quick else 1)]
    trials: dict[str, Trial] = {}
    properties: Mapping[str, str] = {}
    for name, options in SETTINGS.items():
        how.say(f"L8: open {MODEL}, {name}")
        speaker = await opened.enter_async_context(how.speak(language_model(how.store, **options)))
        await speaker.ask({"prompt": "Hello", "max_tokens": 2})
        trials[name], properties = _trial(how, speaker, prefix, read), speaker.properties()
    return trials, properties


def _count(how: How) -> int:
    return QUICK_QUESTIONS if how.quick else QUESTIONS


def _range(counts: list[int]) -> str:
    return f"{min(counts)} to {max(counts)}" if counts else "an unknown number of"


def _trial(how: How, speaker: Speaker, prefix: str, read: list[int]) -> Trial:
    async def once(turn: int) -> Reading:
        said = [
            await speaker.ask({"messages": _messages(how, prefix, turn, number), "max_tokens": WORDS})
            for number in range(_count(how))
        ]
        read.extend(each.read for each in said)
        tokens, cached = sum(each.read for each in said), sum(each.cached for each in said)
        case = "shared prefix"
        return {
            (case, "first token, first question"): said[0].first_s * 1e3,
            (case, "first token, later ones"): statistics.median(each.first_s for each in said[1:]) * 1e3,
            (case, "tokens computed"): float(tokens - cached),
            (case, "share found"): 100.0 * cached / max(tokens, 1),
            (case, "all questions"): sum(each.seconds for each in said) * 1e3,
        }

    return once


def _messages(how: How, prefix: str, turn: int, number: int) -> list[dict[str, str]]:
    """What differs from round to round stands first, so that no round finds what an earlier one left."""
    question = how.inputs.texts[(turn * _count(how) + number) % len(how.inputs.texts)]
    return [
        {"role": "system", "content": f"Edition {turn + 1} of a manual. Answer from it.\n\n{prefix}"},
        {"role": "user", "content": question},
    ]
