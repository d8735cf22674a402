"""Messages sorted into queues: by a small local model where it is sure enough, else by a large one that costs money."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import tauten as tt
from tauten.describe.said import Said, TokenLogprob
from tauten.describe.stage import Context, Role
from tauten.describe.template import Template, load
from tauten.examples.triage import inbox
from tauten.examples.triage.inbox import QUEUES, sorted_into
from tauten.examples.triage.recording import Half, queues

GATE = "bench-cascade"
MOST_TOKENS = 4  # of a queue's name, as in the example
LARGE = "gpt-4o"  # whose price counts; a stand-in answers in its place
_PAIR = re.compile(r"Message: (?!\{)(.*)\nKind: (\w+)")


class Message(NamedTuple):
    """A message, and the queue that it was made for."""

    text: str
    queue: str


def messages(half: Half, seed: int) -> list[Message]:
    """Every sentence of a half with every subject of its queue, in an order of the seed's."""
    found = [
        Message(sentence.format(name=subject[0]), name)
        for name, queue in queues(half).items()
        for sentence in queue.sentences
        for subject in queue.subjects
    ]
    random.Random(f"{seed}/{half}").shuffle(found)
    return found


@functools.cache
def conversation() -> list[dict[str, str]]:
    """The example's prompt as turns: what is wanted, then a message and its queue again and again."""
    prompt = Path(inbox.__file__).with_name("queue.md").read_text(encoding="utf-8")
    wanted = prompt.split("\n\n", 1)[0].removeprefix("[prompt]\n")
    turns = [{"role": "system", "content": f"{wanted} Answer with one of these words."}]
    for message, queue in _PAIR.findall(prompt):
        turns += [{"role": "user", "content": message}, {"role": "assistant", "content": queue}]
    return turns


@functools.cache
def template() -> Template:
    """The example's own prompt, which a small model goes on with."""
    return load("queue.md", Path(inbox.__file__).parent)


@tt.stage(pure=True, name="small", roles={"model": Role("smollm2-135m-instruct", ("llm",))})
async def completed(ctx: Context, message: tt.Text) -> AsyncIterator[tt.Text]:
    """What the small model goes on with, and how likely each of its tokens was to it."""
    [asked] = template().render({"message": message.text})
    item = {"prompt": asked["content"], "max_tokens": MOST_TOKENS, "temperature": 0.0, "top_p": 1.0}
    item |= {"stop": ["\n"], "seed": None, "logprobs": True}
    async for chunk in ctx.stream("model", item):
        tokens = chunk.value or {"pieces": [], "logprobs": []}
        said = zip(tokens["pieces"], tokens["logprobs"], strict=True)
        if chunk.text or tokens["pieces"]:
            yield Said(
                chunk.text, tuple(TokenLogprob(bytes(piece), logprob) for piece, logprob in said if piece)
            )


@tt.stage(pure=True, inline=True)
def asked(message: tt.Text) -> list[dict[str, Any]]:
    return [*conversation(), {"role": "user", "content": message.text}]


def queue_of(said: object) -> str:
    """The queue that a model's words name, as the workflow reads them; the office where they name none."""
    word = str(said).strip().casefold()
    return next((queue for queue in QUEUES if word.startswith(queue)), "office")


def same(small: object, large: object) -> bool:
    """Whether both name the same queue, however they go on."""
    return queue_of(small) == queue_of(large)


@tt.workflow
def small_said(message: tt.Text) -> tt.Stream[tt.Text]:
    """The small model's own words, with their probabilities: labels of the gate come from them."""
    return completed(message, name="small")


@tt.workflow
def small_alone(message: tt.Text) -> tt.Text:
    return sorted_into(completed(message, name="small"))


@tt.workflow
def large_alone(message: tt.Text) -> tt.Text:
    return sorted_into(tt.chat(asked(message), max_tokens=MOST_TOKENS, stop=["\n"], name="large"))


@tt.workflow
def cascade(message: tt.Text) -> tt.Text:
    said = tt.choose(
        completed(message, name="small"),
        tt.chat(asked(message), max_tokens=MOST_TOKENS, stop=["\n"], name="large"),
        policy="cascade",
        risk_gate=GATE,
        same=same,
    )
    return sorted_into(said)
