"""The assistant: what it is asked about orders it looks up; all else it answers from the shop's pages.

A passage of the pages is quoted, and the language model says in one sentence what it means for the question. Every
step is pure, so each may have a cache of its own: `layered.toml` gives them theirs.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import tauten as tt
from tauten.describe.passages import Searchable
from tauten.examples.assistant.lookup import about_orders, order_numbers
from tauten.examples.assistant.pages import NAME, ensure_pages
from tauten.examples.explained import SHORT

ensure_pages()
pages = tt.index(NAME)


@tt.stage(pure=True)
async def search(
    ctx: tt.Context, question: tt.Text, vector: tt.Tensor, index: Any, *, k: int = 3
) -> tt.Found:
    """`tt.retrieve` in two halves: the question's vector is a step before, so that it has a cache of its own."""
    searched: Searchable = index

    def look_up() -> tt.Found:
        return searched.search(question.text, vector.array, k)

    return await ctx.work(look_up, cause="lookup")


@tt.stage(pure=True, inline=True)
def reply(answer: tt.Answer, words: tt.Text | None) -> tt.Text:
    """The quotation with its place, and what the model says of it; the refusal alone where nothing fits."""
    if not answer.found:
        return tt.Text(answer.text)
    quoted = f"{answer.text}\n\n[{answer.source}: {' > '.join(answer.titles)}]"
    return tt.Text(f"{quoted}{SHORT}{words.text.strip()}" if words is not None else quoted)


def about_the_shop(question: Any) -> Any:
    """The part of a drawing that answers from the pages; the model is asked where a passage was found."""
    found = search(question, tt.embed(question), pages)
    answer = tt.quote(found, question)
    words = tt.generate("sentence.md", question=question, passage=answer.text, max_tokens=24, stop="\n")
    return reply(answer, tt.when(answer.found, words))


@tt.workflow(slo=tt.Slo(p95_ms=2500, quality_loss=0.02))
def assistant(question: tt.Text) -> tt.Text:
    numbers = order_numbers(question)
    return tt.when(numbers, about_orders(numbers), about_the_shop(question))
