"""Questions to documents: answered by the search alone where that will do, or explained by the language model.

A simple question asks for a definition, which a quotation answers. A complex one is about prose, and wants a sentence of
the model beside the quotation. The search knows which of the two it found, and how sure it is; nothing else decides.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import msgspec

import tauten as tt
from tauten.examples.document_chat import chat
from tauten.examples.document_chat.chat import documents, metric, quotation
from tauten.examples.explained import REFUSED, SHORT
from tauten.improve.recording import Item, Label

GATE = "bench-retrieval-first"
TEMPLATE = str(Path(chat.__file__).with_name("answer.md"))
MOST_TOKENS = 20  # of the model's sentence, as in the example
COMPLEX = ("prose", "refused")  # kinds of questions that are not about a definition


class Candidate(msgspec.Struct, frozen=True):
    """What the search alone would answer, and how sure it is."""

    text: str
    score: float


@tt.stage(pure=True, inline=True)
def sure(found: tt.Found, answer: tt.Answer) -> float:
    """How sure the search is that its quotation is the whole answer: not at all where it found nothing, or prose."""
    if not answer.found or found.passages[0].chunk.kind == "section":
        return 0.0
    return answer.confidence


@tt.stage(pure=True, inline=True)
def any_found(answer: tt.Answer) -> bool:
    return answer.found


@tt.stage(pure=True, inline=True)
def quoted(answer: tt.Answer) -> tt.Text:
    return tt.Text(quotation(answer))


@tt.stage(pure=True, inline=True)
def explained(answer: tt.Answer, words: tt.Text | None) -> tt.Text:
    """The quotation with the model's sentence; a refusal as it is."""
    return tt.Text(quotation(answer) + (SHORT + words.text if words is not None else ""))


@tt.stage(pure=True, inline=True)
def candidate(answer: tt.Answer, score: float) -> Candidate:
    return Candidate(quotation(answer), score)


def same(alone: object, full: object) -> bool:
    """Whether the model quoted the same, and had nothing to explain: what a served gate would learn from."""
    quotation_of, _, short = str(full).partition(SHORT)
    return quotation_of == str(alone) and not short


@tt.workflow
def searched(question: tt.Text) -> Candidate:
    """The search alone: labels of the gate come from it."""
    found = tt.retrieve(question, documents, k=3)
    answer = tt.quote(found, question)
    return candidate(answer, sure(found, answer))


@tt.workflow
def model_first(question: tt.Text) -> tt.Text:
    """The usual way: whatever is found goes to the model."""
    found = tt.retrieve(question, documents, k=3)
    answer = tt.quote(found, question)
    words = tt.when(
        any_found(answer),
        tt.generate(TEMPLATE, question=question, passage=answer.text, max_tokens=MOST_TOKENS, stop="\n"),
    )
    return explained(answer, words)


@tt.workflow
def search_first(question: tt.Text) -> tt.Text:
    """The search answers where the gate lets it, else the model explains."""
    found = tt.retrieve(question, documents, k=3)
    answer = tt.quote(found, question)
    words = tt.when(
        any_found(answer),
        tt.generate(TEMPLATE, question=question, passage=answer.text, max_tokens=MOST_TOKENS, stop="\n"),
    )
    return tt.choose(
        tt.option(quoted(answer), score=sure(found, answer)),
        explained(answer, words),
        policy="retrieval_first",
        risk_gate=GATE,
        same=same,
    )


def is_simple(item: Item) -> bool:
    """Whether a question asks for a definition: its kind is its first tag."""
    return item.tags[0] not in COMPLEX


def right(text: str, label: Label, simple: bool) -> bool:
    """As the example judges it; and what is complex has to be explained, too."""
    if not label.answerable:
        return text.startswith(REFUSED)
    return bool(metric(tt.Text(text), label)) and (simple or SHORT in text)


def would_do(alone: str, label: Label, simple: bool) -> bool:
    """Whether a quotation alone is no worse than what the full path would answer: that explains the same quotation.

    It is worse where the quotation is right and its explanation is missing. Where the quotation itself is wrong, or
    should have been a refusal, the full path is as wrong.
    """
    if right(alone, label, simple):
        return True
    return not label.answerable or not metric(tt.Text(alone), label)
