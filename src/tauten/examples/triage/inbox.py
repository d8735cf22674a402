"""Triage: a support message is sorted, its subject is named, and a first sentence of the reply is drafted.

Three calls of a language model: the queue and the subject, which know nothing of one another, and the draft,
which needs both and what the documents say of the subject.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec

import tauten as tt
from tauten.examples.help_desk.manual import NAME, ensure_manual
from tauten.examples.help_desk.scoring import accepts, stands_in
from tauten.examples.words import content_words
from tauten.improve.recording import Label

ensure_manual()  # the documents are the help desk's, indexed once
documents = tt.index(NAME)

QUEUES = ("crash", "howto", "office")


class Ticket(msgspec.Struct, frozen=True):
    """A message as it is handed on: where it goes, what it is about, what the documents say, how a reply may begin."""

    queue: str
    subject: str
    answer: tt.Answer
    draft: str

    def __str__(self) -> str:
        return f"{self.queue}: {self.subject}\n{self.answer}\n\nDraft: {self.draft}"


@tt.stage(pure=True, inline=True)
def sorted_into(said: tt.Text) -> tt.Text:
    """One of the queues: the one that the model's word begins like, else the office, where people read."""
    word = said.text.strip().casefold()
    return tt.Text(next((queue for queue in QUEUES if word.startswith(queue)), "office"))


@tt.stage(pure=True, inline=True)
def asked(subject: tt.Text) -> tt.Text:
    """What the documents are asked: a message is mostly about other things than its subject."""
    return tt.Text(f"What does {subject.text.strip()} mean?")


@tt.stage(pure=True, inline=True)
def ticket(queue: tt.Text, subject: tt.Text, answer: tt.Answer, draft: tt.Text) -> Ticket:
    return Ticket(queue.text, subject.text.strip(), answer, draft.text.strip())


@tt.workflow(slo=tt.Slo(p95_ms=2500, quality_loss=0.05))
def triage(message: tt.Text) -> Ticket:
    said = tt.generate("queue.md", message=message, max_tokens=4, stop="\n", name="queue")
    queue = sorted_into(said)
    subject = tt.generate("subject.md", message=message, max_tokens=12, stop="\n", name="subject")
    wanted = asked(subject)
    found = tt.retrieve(wanted, documents, subject, k=3)
    answer = tt.quote(found, wanted)
    draft = tt.generate(
        "draft.md", queue=queue, subject=subject, passage=answer.text, max_tokens=24, stop="\n", name="draft"
    )
    return ticket(queue, subject, answer, draft)


# -- what good means -----------------------------------------------------------------------------------------

BESIDE = 2  # words that may stand beside the subject: a verb and its object
COVERED = 0.75  # share of the draft's words that must stand in the quotation or be the subject


@tt.metric(name="parts that are right")
def metric(answer: Ticket, label: Label) -> float:
    """The share of what is right: the queue, the subject, the quotation or its refusal, and the draft where there is an answer."""
    known = label.answer
    parts = [answer.queue == known["queue"], same(answer.subject, known["subject"])]
    if label.answerable:
        parts += [quoted(answer.answer, label), drafted(answer, known["subject"])]
    else:
        parts.append(not answer.answer.found)
    return sum(parts) / len(parts)


def same(said: str, known: str) -> bool:
    """Whether a subject is named, with two words beside it at most: "cancel the lease" names the lease."""
    words, named = content_words(said), content_words(known)
    return named <= words and len(words) <= len(named) + BESIDE


def quoted(answer: tt.Answer, label: Label) -> bool:
    """Whether the documents' right place was quoted."""
    return (
        answer.found
        and stands_in(label, answer.source, answer.titles)
        and accepts(label, f"{answer.text}\n{answer.code}")
    )


def drafted(ticket: Ticket, subject: str) -> bool:
    """Whether the draft names the subject and says no more than the quotation."""
    said, named = content_words(ticket.draft), content_words(subject)
    source = content_words(ticket.answer.text) | named
    return named <= said and len(said & source) >= COVERED * len(said)
