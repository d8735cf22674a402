"""Answer with the documentation's own words: a sentence or two, their code, and where they stand.

A definition says what a thing is in its first sentence. Of prose, the two neighbouring sentences nearest to
the question are quoted. Nothing is made up: when retrieval refuses, the answer says so and names the closest passage.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

from tauten.describe.markup import sentences
from tauten.describe.passages import Answer, Chunk, Found
from tauten.describe.payload import Text
from tauten.describe.stage import Context, Role, stage
from tauten.describe.tokens import token_items

_EMBED = Role("minilm-l6-v2", ("onnx", "openvino"), variant="fp32")
_ALSO = 0.5  # cosine from which another sentence of a definition joins its first; below, it wanders off
_SAYS_LITTLE = 8  # words: "This exception is derived from RuntimeError." alone answers nothing
_MARGIN = 0.04  # of the first score over the second: half a first place in one of the rankings
_MOST_SENTENCES = 12  # embedded at most: a chunk of 120 words has about six


@stage(pure=True, roles={"embed": _EMBED})
async def quote(ctx: Context, found: Found, question: Text | None = None) -> Answer:
    """Quote the passage found first. `question` is what it was asked; left out, what retrieval was asked."""
    if not found:
        return refused(found)
    said = sentences(found.passages[0].chunk.text)[:_MOST_SENTENCES]
    asked = f"{found.error} {question.text if question is not None else found.question}".strip()
    cosines = await _cosines(ctx, asked, said) if len(said) > 1 else [1.0] * len(said)
    return answer(found, said, cosines)


async def _cosines(ctx: Context, question: str, said: list[str]) -> list[float]:
    """How near each sentence is to the question; the model's batcher sees them side by side."""
    tokenizer = ctx.files("embed")["tokenizer.json"]
    items = await ctx.work(token_items, tokenizer, [question, *said])
    ctx.spend("input_tokens", float(sum(int(item["attention_mask"].sum()) for item in items)))
    embedded: list[Any] = await asyncio.gather(*(ctx.infer("embed", item) for item in items))
    asked, *vectors = (each["embedding"] for each in embedded)
    return [float(asked @ vector) for vector in vectors]


def answer(found: Found, said: list[str], cosines: list[float]) -> Answer:
    """The answer that the first passage gives, from its sentences and how near each is to the question."""
    chunk = found.passages[0].chunk
    text = chosen(chunk, said, cosines) or f"See the example under {chunk.title}."
    return Answer(
        text,
        True,
        chunk.body,
        code=_code(chunk, text),
        source=chunk.source,
        url=chunk.url,
        titles=chunk.titles,
        confidence=confidence(found),
    )


def chosen(chunk: Chunk, said: list[str], cosines: list[float]) -> str:
    """The sentences to quote, in the order in which they stand."""
    if not said:
        return ""
    if chunk.kind == "section":
        start = max(range(len(said)), key=lambda number: (sum(cosines[number : number + 2]), -number))
        return " ".join(said[start : start + 2])
    best = max(range(len(said)), key=lambda number: (cosines[number], -number))
    first = said[0]
    if best and cosines[best] > _ALSO:
        return f"{first} {said[best]}"
    return " ".join(said[:2]) if len(first.split()) < _SAYS_LITTLE else first


def _code(chunk: Chunk, text: str) -> str:
    """The code that follows the quoted words, else the passage's first."""
    quoted = False
    for block in chunk.blocks:
        if block.kind == "code" and quoted:
            return block.text
        quoted = quoted or (block.kind == "prose" and any(said in text for said in sentences(block.text)))
    return chunk.code[0] if chunk.code else ""


def confidence(found: Found) -> float:
    """The share of right answers among the tuning questions whose search came out like this one.

    Of 68: definitions were right 28 of 31 times when they led by a margin and 9 of 13 when not, prose 3 of
    5 and 9 of 19 times. Four steps are all that so few questions can tell apart.
    """
    first, *others = found.passages
    leads = not others or first.score - others[0].score >= _MARGIN
    if first.chunk.kind == "section":
        return 0.6 if leads else 0.5
    return 0.9 if leads else 0.7


def refused(found: Found) -> Answer:
    """The honest answer when nothing fits; names the closest passage without quoting it."""
    where = f" of {found.index}" if found.index else ""
    text = f"Not found in the documents{where}: {found.reason or 'nothing fits'}."
    if not found.passages:
        return Answer(text, False, reason=found.reason)
    closest = found.passages[0].chunk
    shown = " > ".join(closest.titles[-2:])
    return Answer(
        f"{text} The closest passage is {shown} ({closest.source}).",
        False,
        source=closest.source,
        url=closest.url,
        titles=closest.titles,
        reason=found.reason,
    )
