"""The help desk: a picture of a failing program and a spoken or typed question, answered from the manual.

The answer is a quotation with its source; what the language model adds is labelled, and every sentence of
it whose words the manual, the question or the screen do not hold is dropped.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import builtins
import difflib
import re
from collections.abc import AsyncIterator

import msgspec

import tauten as tt
from tauten.examples.help_desk.manual import NAME, ensure_manual
from tauten.examples.words import content_words

ensure_manual()  # indexed once
manuals = tt.index(NAME)
ASSUMED = tt.Text("What does this error mean?")  # of a picture that comes without a question


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part of the reply: the quoted `answer` first, then the model's `words`, sentence by sentence."""

    answer: tt.Answer | None = None
    passages: tuple[tt.Passage, ...] = ()
    words: str = ""
    dropped: bool = False

    def __str__(self) -> str:
        if self.answer is not None:
            return describe(self.answer)
        if self.dropped:
            return "\n[a sentence of the language model was dropped: the passage does not say it]"
        return f"\n[language model, may be wrong] {self.words}"


# -- the error on the screen ---------------------------------------------------------------------------------

_NAMED = re.compile(
    r"\b([A-Za-z_][\w.]*?(?:Error|Exception|Warning|Interrupt|Exit|Iteration|Group))\b\s*(:?.*)"
)
_KNOWN = {name.casefold(): name for name, value in vars(builtins).items() if isinstance(value, type)}
_KNOWN |= {
    name.casefold(): name
    for name in (
        "JSONDecodeError",
        "CalledProcessError",
        "TimeoutExpired",
        "CancelledError",
        "InvalidStateError",
    )
}
SCREEN_SCORE = 0.2  # share of screen-like ImageNet classes: chosen on 27 pictures of the development half
SCREEN_ROWS = 3  # rows of text that make a screen, whatever the classifier says


@tt.stage(pure=True)
def error_line(page: tt.Page | None, kind: tt.Labels | None) -> tt.Text | None:
    """The last line of the screen that names an exception, its name as Python spells it."""
    if page is None:
        return None
    screen = kind is not None and kind.screen >= SCREEN_SCORE
    if not screen and len(page.lines) < SCREEN_ROWS:
        return None
    for line in reversed(page.lines):
        match = _NAMED.search(line.text)
        if match:
            return tt.Text(snap(match[1]) + match[2])
    return None


def snap(name: str) -> str:
    """The known exception that a misread name means: equal without case, or two letters off."""
    prefix, _, last = name.rpartition(".")
    known = _KNOWN.get(last.casefold())
    if known is None:
        close = difflib.get_close_matches(last.casefold(), _KNOWN, n=1, cutoff=1 - 2 / max(len(last), 3))
        known = _KNOWN[close[0]] if close else last
    return f"{prefix}.{known}" if prefix else known


# -- the reply -----------------------------------------------------------------------------------------------


@tt.stage(pure=True)
async def reply(
    answer: tt.Answer,
    found: tt.Found,
    question: tt.Text,
    error: tt.Text | None,
    explained: tt.Stream[tt.Text] | None,
) -> AsyncIterator[Reply]:
    """The quotation at once, then what the model says, as far as the sources cover it."""
    yield Reply(answer, found.passages)
    if explained is None:
        return
    source = content_words(" ".join([answer.passage, question.text, error.text if error else ""]))
    async for sentence in sentences(explained):
        if content_words(sentence) <= source:
            yield Reply(words=sentence)
        else:
            yield Reply(words=sentence, dropped=True)


async def sentences(pieces: tt.Stream[tt.Text]) -> AsyncIterator[str]:
    """Whole sentences of a stream of text; the last may lack its full stop."""
    held = ""
    async for piece in pieces:
        held += piece.text
        *whole, held = re.split(r"(?<=[.!?])\s+", held)
        for sentence in whole:
            yield sentence
    if held.strip():
        yield held.strip()


def describe(answer: tt.Answer) -> str:
    """The answer as a person reads it."""
    if not answer.found:
        return answer.text
    code = f"\n\n{answer.code}" if answer.code else ""
    where = " > ".join(answer.titles) or answer.source
    return f"{answer.text}{code}\n\n  {where}\n  {answer.url}   confidence {answer.confidence:.0%}"


# -- the workflow: a stage stands above the workflow that uses it


@tt.workflow(slo=tt.Slo(p95_ms=1500, first_output_ms=1200, quality_loss=0.05))
def help_desk(question: tt.Audio | tt.Text | None = None, photo: tt.Image | None = None) -> tt.Stream[Reply]:
    words = tt.transcribe(question)
    kind = tt.classify(photo)
    page = tt.ocr(photo)
    error = error_line(page, kind)
    asked = tt.default(words, ASSUMED)
    found = tt.retrieve(asked, manuals, error, k=3)
    answer = tt.quote(found, asked)
    explained = tt.when(
        found,
        tt.generate("explain.md", question=asked, error=error, passage=answer.text, max_tokens=40, stop="\n"),
    )
    return reply(answer, found, asked, error, explained)
