"""Chat about documents that come in while it runs: search answers where it is sure, else a language model helps.

What is found is quoted with its place. Where a gate lets the search pass, the quotation is the answer, and no model is
asked; else the model says in one sentence what the quotation means for the question, marked as what it is.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec

import tauten as tt
from tauten.describe.markup import sentences
from tauten.describe.passages import Block, Chunk
from tauten.describe.stage import Role
from tauten.describe.stages.quote import answer as answer_of
from tauten.describe.stages.quote import refused
from tauten.describe.tokens import token_items
from tauten.examples.explained import SHORT, covered, is_right
from tauten.examples.live_chat.library import documents
from tauten.examples.words import content_words
from tauten.improve.recording import Label

FOUND = 16  # passages that are looked at for what the question names: twice what a short handbook has
MOST = 32  # sentences that are compared with the question: two full batches
NEAREST = 0.2  # cosine below which no sentence is an answer: chosen on the development half
PARAGRAPH = 45  # words that are quoted as a whole: three sentences, which a person reads at a glance
HEADING = 5  # words of a heading at most
MARGIN = 0.02  # by which the first must lead the second


# -- what is found ---------------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+")


def names(question: str) -> list[str]:
    """What a question calls by name: words in capitals within it, and numbers.

    >>> names("What does code F2 of the Corvus 40 mean?"), names("Corvus 40: how loud?"), names("How loud is it?")
    (['F2', 'Corvus', '40'], ['Corvus', '40'], [])
    """
    words = _WORD.findall(question)
    named = [word for place, word in enumerate(words) if _is_name(word) and (place or _leads(words))]
    return list(dict.fromkeys(named))


def _is_name(word: str) -> bool:
    return word[0].isdigit() or (word[0].isupper() and len(word) > 1)  # "I" is nobody's name


def _leads(words: list[str]) -> bool:
    """Whether a question begins with a name: its second word is a number."""
    return len(words) > 1 and words[1][0].isdigit()


def words_of(text: str) -> frozenset[str]:
    """The words of a text, in small letters."""
    return frozenset(_WORD.findall(text.casefold()))


def said_by(chunk: Chunk) -> frozenset[str]:
    """All words of a passage and of where it stands."""
    return words_of(f"{chunk.source} {chunk.words}")


@tt.stage(pure=True)
def about(found: tt.Found, question: tt.Text) -> tt.Found:
    """The passages that speak of what the question names; a refusal where none does.

    Machines are told apart by their names alone: the passage of another one is no answer, however near it is.
    """
    wanted = {name.casefold() for name in names(question.text)}
    kept = tuple(each for each in found.passages if wanted <= said_by(each.chunk))
    if kept or not found.passages:
        return msgspec.structs.replace(found, passages=kept)
    return _refused(found, f"no passage speaks of {', '.join(names(question.text))}")


def _refused(found: tt.Found, reason: str) -> tt.Found:
    return msgspec.structs.replace(found, refused=True, reason=reason, passages=found.passages[:1])


@tt.stage(pure=True, roles={"embed": Role("minilm-l6-v2", ("onnx", "openvino"), variant="fp32")})
async def closest(ctx: tt.Context, found: tt.Found, question: tt.Text) -> tt.Found:
    """The passages narrowed to what is nearest to the question, best first; a refusal where nothing is near.

    Names are left out of the comparison: all these passages have them, and what is asked is what they say beside.
    """
    said = [each for passage in found.passages for each in sentences_of(passage, question.text)][:MOST]
    if not found or not said:
        return found
    tokenizer = ctx.files("embed")["tokenizer.json"]
    items = await ctx.work(token_items, tokenizer, [bare(question.text), *(each.text for each in said)])
    ctx.spend("input_tokens", float(sum(int(item["attention_mask"].sum()) for item in items)))
    embedded: list[Any] = await asyncio.gather(*(ctx.infer("embed", item) for item in items))
    asked, *vectors = (each["embedding"] for each in embedded)
    return narrowed(found, question.text, said, [float(asked @ vector) for vector in vectors])


class Said(NamedTuple):
    """A sentence that is compared, and what is quoted of it: its paragraph, or of a long one what follows it, too."""

    passage: tt.Passage
    text: str
    shown: str


def narrowed(found: tt.Found, question: str, said: Sequence[Said], cosines: Sequence[float]) -> tt.Found:
    """What was found with the nearest sentences in the place of passages, each paragraph once."""
    best: dict[str, tt.Passage] = {}
    for place in sorted(range(len(said)), key=lambda place: (-cosines[place], place)):
        passage, _, shown = said[place]
        chunk = msgspec.structs.replace(passage.chunk, blocks=(Block(shown),))
        score = max(cosines[place], 0.0)
        near = msgspec.structs.replace(passage, chunk=chunk, cosine=cosines[place], score=score)
        best.setdefault(shown, near)
    if not names(question) and max(cosines) < NEAREST:
        return _refused(found, f"no sentence is near enough ({max(cosines):.2f}, {NEAREST:.2f} is needed)")
    return msgspec.structs.replace(found, passages=tuple(best.values())[:3])


def sentences_of(passage: tt.Passage, question: str) -> list[Said]:
    """The sentences of a passage, of paragraphs that hold what the question names as far as the titles do not."""
    chunk = passage.chunk
    titled = words_of(f"{chunk.source} {' '.join(chunk.titles)}")
    own = {name.casefold() for name in names(question)} - titled
    found: list[Said] = []
    for block in (each for each in chunk.blocks if own <= words_of(each.text) and _says(each.text)):
        said = sentences(block.text)
        short = len(block.text.split()) <= PARAGRAPH
        for text, after in zip(said, [*said[1:], ""], strict=True):
            found.append(Said(passage, text, block.text if short else f"{text} {after}".strip()))
    return found


def _says(text: str) -> bool:
    """Whether a paragraph says something; a few words without an end are a heading that was read from a picture."""
    return text.endswith((".", "!", "?", ":")) or len(text.split()) > HEADING


def bare(question: str) -> str:
    """A question without what it calls by name, where anything else is left of it."""
    named = set(names(question))
    left = " ".join(word for word in _WORD.findall(question) if word not in named)
    return left or question


@tt.stage(pure=True)
def certainty(found: tt.Found, question: tt.Text) -> tuple[float, float]:
    """How sure the search is, and its lead: the share of the question's words in what was found, with its cosine."""
    if not found:
        return -1.0, 0.0
    first, *others = found.passages
    asked = content_words(question.text)
    held = content_words(f"{first.chunk.source} {first.chunk.words}")
    share = len(asked & held) / len(asked) if asked else 0.0
    lead = 1.0 - others[0].score / first.score if others and first.score > 0 else 1.0
    return (share + max(first.cosine, 0.0)) / 2, lead


# -- what is answered ------------------------------------------------------------------------------------------


def quotation(answer: tt.Answer) -> str:
    """What the documents say, and where; of pages their number."""
    if not answer.found:
        return answer.text
    page = answer.url.partition("#page=")[2]
    where = " > ".join([*answer.titles, *([f"page {page}"] if page else [])])
    return f"{answer.text}\n\n[{answer.source}: {where}]"


@tt.stage(pure=True, inline=True)
def answered(found: tt.Found) -> tt.Answer:
    """What was found first, or the honest statement that nothing fits."""
    if not found:
        return refused(found)
    said = [block.text for block in found.passages[0].chunk.blocks]
    return answer_of(found, said, [1.0] * len(said))


@tt.stage(pure=True, inline=True)
def quoted(answer: tt.Answer) -> tt.Text:
    """The answer of the search alone."""
    return tt.Text(quotation(answer))


@tt.stage(pure=True)
async def explained(answer: tt.Answer, words: tt.Stream[tt.Text] | None) -> AsyncIterator[tt.Text]:
    """The quotation at once, then the model's words as they come."""
    yield tt.Text(quotation(answer))
    if words is None:
        return
    yield tt.Text(SHORT)
    async for piece in words:
        yield piece


@tt.stage(pure=True, inline=True)
def is_found(answer: tt.Answer) -> bool:
    """Whether there is a quotation to explain."""
    return answer.found


def as_good(search: tt.Text, full: tt.Text) -> bool:
    """Whether the search's answer would have done for the full one: the model added nothing to the quotation."""
    shown, _, short = full.text.partition(SHORT)
    return shown == search.text and (not short.strip() or covered(short, shown))


@tt.workflow(slo=tt.Slo(p95_ms=1500, first_output_ms=300, quality_loss=0.02))
def live_chat(question: tt.Text) -> tt.Stream[tt.Text]:
    """Answer a question from the documents that are in the index now."""
    found = closest(about(tt.retrieve(question, documents, k=FOUND), question), question)
    answer = answered(found)
    words = tt.when(
        is_found(answer),
        tt.generate("answer.md", question=question, passage=answer.text, max_tokens=20, stop="\n"),
    )
    return tt.choose(
        tt.option(quoted(answer), score=certainty(found, question)),
        explained(answer, words),
        policy="retrieval_first",
        margin=MARGIN,
        same=as_good,
        name="route",
    )


# -- what good means -------------------------------------------------------------------------------------------


@tt.metric(name="right answers")
def metric(answer: tt.Text, label: Label) -> bool:
    """See `is_right`."""
    return is_right(answer.text, label)
