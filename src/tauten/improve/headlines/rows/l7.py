"""L7: what the KV cache saves, by the length of the answer: each token from all of the text, or from what is kept."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.improve.headlines.how import How, without
from tauten.improve.headlines.rounds import Measure, Reading, Trial, lines
from tauten.improve.headlines.row import Column, Row
from tauten.improve.headlines.speaker import MODEL, Speaker, language_model

CLAIM = "KV cache: up to 5 times faster at 300 output tokens"

AGAIN, KEPT = "read again", "KV cache"
COLUMNS = [
    Column(AGAIN, "one request a token, each with all of the text so far and no prefix cache"),
    Column(KEPT, "one request, as every engine does it: its keys and values are kept"),
]
LENGTHS = (10, 50, 100, 300)
QUICK_LENGTHS = (5, 15)
STEP_TOKENS = 1024  # the whole text in one step: reading again is as fast as the engine can
PROMPT = (
    "A keeper of a lighthouse on a rocky coast writes down what he saw, hour by hour, in plain words and in full "
    "sentences, and leaves nothing out.\n\nAt dawn the wind"
)
SHOWN = {
    "answer": Measure("ms"),
    "per token": Measure("ms", headline=True),
    "tokens": Measure(""),
}


async def measure(how: How) -> Row:
    """Both on the same open model, in turn."""
    lengths = QUICK_LENGTHS if how.quick else LENGTHS
    how.say(f"L7: open {MODEL}")
    async with how.speak(language_model(how.store, max_batched_tokens=STEP_TOKENS)) as speaker:
        await speaker.ask({"prompt": PROMPT, "max_tokens": 3})
        trials = {AGAIN: _trial(how, speaker, AGAIN, lengths), KEPT: _trial(how, speaker, KEPT, lengths)}
        rounds = await how.interleaved(trials, "L7")
        properties = speaker.properties()
    return Row(
        id="L7",
        claim=CLAIM,
        naive=AGAIN,
        zero_effort=KEPT,
        ours=KEPT,
        conditions={
            "model": f"{MODEL}, precision {properties.get('precision', 'unknown')}",
            "threads": properties.get("threads", "unknown"),
            "text": f"a story from a prompt of {len(PROMPT.split())} words, the likeliest token each time, alone",
            "each value": "one answer; where it ended early, it is divided by the tokens that it had",
        },
        columns=without(COLUMNS, rounds.failed),
        lines=lines(rounds.readings, SHOWN, naive=AGAIN, zero_effort=KEPT, ours=KEPT),
        quality=["both are the same computation; rounding may choose another word now and then"],
        notes=[
            *rounds.notes,
            "every engine has a KV cache: against the best zero-effort setting nothing is left",
        ],
        rounds=len(rounds.others),
        others=rounds.typical,
        worst=rounds.worst,
    )


def _trial(how: How, speaker: Speaker, column: str, lengths: tuple[int, ...]) -> Trial:
    write = _again if column == AGAIN else _kept

    async def once(turn: int) -> Reading:
        read: dict[tuple[str, str], float] = {}
        for length in lengths:
            how.say(f"L7: {column}, {length} tokens")
            seconds, tokens = await write(speaker, length)
            case = f"{length} tokens"
            read[case, "answer"] = seconds * 1e3
            read[case, "per token"] = seconds * 1e3 / max(tokens, 1)
            read[case, "tokens"] = float(tokens)
        return read

    return once


async def _kept(speaker: Speaker, length: int) -> tuple[float, int]:
    said = await speaker.ask({"prompt": PROMPT, "max_tokens": length})
    return said.seconds, said.wrote


async def _again(speaker: Speaker, length: int) -> tuple[float, int]:
    """The same answer, each token by a request that reads everything before it."""
    text, seconds = PROMPT, 0.0
    for written in range(length):
        said = await speaker.ask({"prompt": text, "max_tokens": 1})
        seconds, text = seconds + said.seconds, text + said.text
        if said.finish == "stop":
            return seconds, written + 1
    return seconds, length
