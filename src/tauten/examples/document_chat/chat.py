"""Document chat: a question is answered with a quotation from the documents and, of prose, with one sentence more.

A definition answers by itself. Of a passage of prose the language model says in few words what it means for the
question; its sentence is streamed as it comes, and marked as what it is.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncIterator

import tauten as tt
from tauten.examples.explained import SHORT, is_right
from tauten.examples.help_desk.manual import NAME, ensure_manual
from tauten.improve.recording import Label

ensure_manual()  # the documents are the help desk's, indexed once
documents = tt.index(NAME)


@tt.stage(pure=True, inline=True)
def is_prose(found: tt.Found) -> bool:
    """Whether the passage explains something rather than defines it; nothing where none fits."""
    return bool(found) and found.passages[0].chunk.kind == "section"


@tt.stage(pure=True)
async def reply(answer: tt.Answer, words: tt.Stream[tt.Text] | None) -> AsyncIterator[tt.Text]:
    """The quotation with its place at once, then the model's words as they come."""
    yield tt.Text(quotation(answer))
    if words is None:
        return
    yield tt.Text(SHORT)
    async for piece in words:
        yield piece


def quotation(answer: tt.Answer) -> str:
    """The answer as it is shown: what the documents say, and where."""
    if not answer.found:
        return answer.text
    code = f"\n\n{answer.code}" if answer.code else ""
    return f"{answer.text}{code}\n\n[{answer.source}: {' > '.join(answer.titles)}]"


@tt.workflow(slo=tt.Slo(p95_ms=1500, first_output_ms=300, quality_loss=0.02))
def document_chat(question: tt.Text) -> tt.Stream[tt.Text]:
    found = tt.retrieve(question, documents, k=3)
    answer = tt.quote(found, question)
    words = tt.when(
        is_prose(found),
        tt.generate("answer.md", question=question, passage=answer.text, max_tokens=20, stop="\n"),
    )
    return reply(answer, words)


# -- what good means -----------------------------------------------------------------------------------------


@tt.metric(name="right answers")
def metric(answer: tt.Text, label: Label) -> bool:
    """See `is_right`."""
    return is_right(answer.text, label)
