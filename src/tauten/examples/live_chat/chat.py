"""Chat about documents that come in while it runs: search answers where it is sure, else a language model helps.

What is found is quoted with its place. Where a gate lets the search pass, the quotation is the answer, and no model is
asked; else the model says in one sentence what the quotation means for the question, marked as what it is.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import msgspec

import tauten as tt
from tauten.describe.passages import Chunk
from tauten.examples.help_desk.scoring import accepts, stands_in
from tauten.examples.live_chat.library import documents
from tauten.examples.words import content_words
from tauten.improve.recording import Label

SHORT = "\n\nIn short (language model, may be wrong): "
REFUSED = "Not found"  # how `quote` begins when no passage fits
FOUND = 8  # passages that are looked at for what the question names
MARGIN = 0.02  # by which the first must lead the second: two machines' tables read alike but for the name
COVERED = 0.75  # share of the model's words that must stand in the quotation


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


def said_by(chunk: Chunk) -> frozenset[str]:
    """All words of a passage and of where it stands, in small letters."""
    return frozenset(_WORD.findall(f"{chunk.source} {chunk.words}".casefold()))


@tt.stage(pure=True)
def about(found: tt.Found, question: tt.Text) -> tt.Found:
    """The passages that speak of what the question names; a refusal where none does.

    Machines are told apart by their names alone: the passage of another one is no answer, however near it is.
    """
    wanted = {name.casefold() for name in names(question.text)}
    kept = tuple(each for each in found.passages if wanted <= said_by(each.chunk))
    if kept or not found.passages:
        return msgspec.structs.replace(found, passages=kept[:3])
    reason = f"no passage speaks of {', '.join(names(question.text))}"
    return msgspec.structs.replace(found, refused=True, reason=reason, passages=found.passages[:1])


@tt.stage(pure=True)
def certainty(found: tt.Found, question: tt.Text) -> tuple[float, float]:
    """How sure the search is, and its lead: the share of the question's words in the first passage, with its cosine."""
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
    found = about(tt.retrieve(question, documents, k=FOUND), question)
    answer = tt.quote(found, question)
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

_PLACE = re.compile(r"\[([\w./-]+): (.+)\]\s*\Z")


@tt.metric(name="right answers")
def metric(answer: tt.Text, label: Label) -> bool:
    """The quotation holds the accepted words from a labelled place, and the model adds nothing to it; or it was rightly refused."""
    shown, _, short = answer.text.partition(SHORT)
    if not label.answerable:
        return shown.startswith(REFUSED)
    place = _PLACE.search(shown)
    return (
        place is not None
        and stands_in(label, place[1], place[2])
        and accepts(label, shown[: place.start()])
        and (SHORT not in answer.text or covered(short, shown))
    )


def covered(short: str, shown: str) -> bool:
    """Whether a sentence says something, and says it with the words of the quotation."""
    said = content_words(short)
    return bool(said) and len(said & content_words(shown)) >= COVERED * len(said)
