"""L12: what fewer tokens save: a compact form of the answer, half of the words, a fifth of the input."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from tauten.improve.headlines.decisions import agreement, words
from tauten.improve.headlines.how import How, without
from tauten.improve.headlines.rounds import Measure, Reading, Trial, lines
from tauten.improve.headlines.row import Column, Row
from tauten.improve.headlines.speaker import MODEL, Speaker, language_model

CLAIM = (
    "half the output tokens: latency −40…50 %; input −80 %: −20 %; compact form: tokens −70 %, latency −60 %"
)

VERBOSE, FREE, COMPACT, BOTH = "verbose", "verbose, prefix cache", "compact", "compact, prefix cache"
COLUMNS = [
    Column(VERBOSE, "the longer of the two, on the engine with its defaults"),
    Column(FREE, "the same, with the prefix cache, which costs nobody anything"),
    Column(COMPACT, "the shorter of the two, on the engine with its defaults"),
    Column(BOTH, "the shorter of the two, with the prefix cache"),
]
FORM, HALF, INPUT = "form of the answer", "half of the words", "a fifth of the input"
SHOWN = {
    "tokens in": Measure(""),
    "tokens out": Measure("", headline=True),
    "answer": Measure("ms", headline=True),
}

SORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "question_category": ("error message", "installation", "language", "standard library", "something else"),
    "urgency_level": ("low", "medium", "high"),
    "requires_human_agent": ("yes", "no"),
    "expected_answer_format": ("short explanation", "code example", "step by step instructions"),
}
SCHEMA: Final = {
    "type": "object",
    "properties": {name: {"enum": list(values)} for name, values in SORTS.items()},
    "required": list(SORTS),
    "additionalProperties": False,
}
PATTERN: Final = ",".join(f"({'|'.join(values)})" for values in SORTS.values())
_FIELDS = "; ".join(f"{name}: {', '.join(values)}" for name, values in SORTS.items())
LONG = f"You sort questions for a help desk. Answer with a JSON object that has these fields. {_FIELDS}."
SHORT = (
    f"You sort questions for a help desk. Answer with one value of each of these, between commas. {_FIELDS}."
)
MOST_TOKENS = 160  # of the longer form: some twice what it takes
WORDS, HALF_WORDS = 64, 32  # tokens of a free answer
PASSAGE_CHARACTERS = 3800  # about 1000 tokens of a manual


async def measure(how: How) -> Row:
    """Two engines open side by side; on each the longer and the shorter of three things, in turn."""
    questions = list(how.inputs.texts[: 1 if how.quick else 10])
    sorted_as: dict[str, dict[str, str]] = {name: {} for name in (VERBOSE, FREE, COMPACT, BOTH)}
    async with AsyncExitStack() as opened:
        trials: dict[str, Trial] = {}
        properties: Mapping[str, str] = {}
        for prefix_cache, columns in ((False, (VERBOSE, COMPACT)), (True, (FREE, BOTH))):
            how.say(f"L12: open {MODEL}, prefix cache {'on' if prefix_cache else 'off'}")
            spec = language_model(how.store, prefix_cache=prefix_cache)
            speaker = await opened.enter_async_context(how.speak(spec))
            for column in columns:
                trials[column] = _trial(how, speaker, column, questions, sorted_as[column])
            properties = speaker.properties()
            for longer in (
                True,
                False,
            ):  # afterwards grammars are compiled, and instructions in the prefix cache
                await speaker.ask(_form(how, "Request 0. What is this?", longer))
        rounds = await how.interleaved(trials, "L12")
    return Row(
        id="L12",
        claim=CLAIM,
        naive=VERBOSE,
        zero_effort=FREE,
        ours=BOTH,
        conditions={
            "model": f"{MODEL}, precision {properties.get('precision', 'unknown')}",
            "threads": properties.get("threads", "unknown"),
            FORM: f"{len(questions)} questions sorted by {len(SORTS)} fields: JSON with names, or the values alone; "
            "both forms are enforced",
            HALF: f"free text, ended at {WORDS} or at {HALF_WORDS} tokens",
            INPUT: f"a passage of {_characters(how)} characters, or its first fifth; {HALF_WORDS} tokens of answer",
            "each value": "the mean over the questions of a round",
        },
        columns=without(COLUMNS, rounds.failed),
        lines=lines(rounds.readings, SHOWN, naive=VERBOSE, zero_effort=FREE, ours=BOTH),
        quality=[_quality(sorted_as[VERBOSE], sorted_as[COMPACT])],
        notes=[
            *rounds.notes,
            "÷ naive holds the prefix cache's part, too; ÷ zero effort is the shorter form alone",
        ],
        rounds=len(rounds.others),
        others=rounds.typical,
        worst=rounds.worst,
    )


def _trial(
    how: How, speaker: Speaker, column: str, questions: Sequence[str], sorted_as: dict[str, str]
) -> Trial:
    longer = column in (VERBOSE, FREE)

    async def once(turn: int) -> Reading:
        read: dict[tuple[str, str], float] = {}
        for case, ask in ((FORM, _form), (HALF, _half), (INPUT, _input)):
            how.say(f"L12: {column}, {case}")
            said = []
            for number, question in enumerate(questions):
                asked = 2 * (turn * len(questions) + number + 1) + longer
                fresh = f"Request {asked}. {question}"  # no prefix cache has seen it
                said.append(await speaker.ask(ask(how, fresh, longer)))
                if case == FORM:
                    sorted_as[question] = category(said[-1].text)
            read[case, "tokens in"] = statistics.fmean(each.read for each in said)
            read[case, "tokens out"] = statistics.fmean(each.wrote for each in said)
            read[case, "answer"] = statistics.fmean(each.seconds for each in said) * 1e3
        return read

    return once


def _form(how: How, question: str, longer: bool) -> dict[str, Any]:
    form: dict[str, Any] = {"json_schema": SCHEMA} if longer else {"regex": PATTERN}
    return {"messages": _asked(LONG if longer else SHORT, question), "max_tokens": MOST_TOKENS, **form}


def _half(how: How, question: str, longer: bool) -> dict[str, Any]:
    messages = _asked("You answer questions at length, with examples.", question)
    return {"messages": messages, "max_tokens": WORDS if longer else HALF_WORDS}


def _input(how: How, question: str, longer: bool) -> dict[str, Any]:
    passage = how.inputs.manual[: _characters(how) // (1 if longer else 5)]
    messages = _asked("You answer from the passage that comes with the question.", f"{question}\n\n{passage}")
    return {"messages": messages, "max_tokens": HALF_WORDS}


def _characters(how: How) -> int:
    return PASSAGE_CHARACTERS // (4 if how.quick else 1)


def _asked(instruction: str, question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": instruction}, {"role": "user", "content": question}]


def category(answer: str) -> str:
    """The first field of either form; "" for an answer that was cut before it.

    >>> category('{"question_category": "language", "urgency_level": "low"}'), category("language,low,yes")
    ('language', 'language')
    """
    return next((each for each in SORTS["question_category"] if each in answer), "")


def _quality(longer: Mapping[str, str], shorter: Mapping[str, str]) -> str:
    asked = [question for question in longer if question in shorter]
    if not asked:
        return "no answer in both forms"
    verdict = agreement([longer[each] for each in asked], [shorter[each] for each in asked])
    return words("compact", "category", verdict)
