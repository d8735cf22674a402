"""Find the passages of an index that answer a question, or say that none do.

found = retrieve(words, manuals, k=3)
found = retrieve(words, "manuals", error_line)     # the error on screen is part of the search
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

from tauten.describe.passages import Found, Searchable, open_index
from tauten.describe.payload import Text
from tauten.describe.stage import Context, Role, stage
from tauten.describe.tokens import token_items
from tauten.errors import InputError

_EMBED = Role("minilm-l6-v2", ("onnx", "openvino"), variant="fp32")


def _opened(
    inputs: dict[str, Any], params: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """An index given by name is opened when the workflow is written, not on request 1."""
    if isinstance(inputs.get("index"), str | Path):
        inputs = {**inputs, "index": open_index(inputs["index"])}
    return inputs, params


@stage(pure=True, roles={"embed": _EMBED}, prepare=_opened)
async def retrieve(
    ctx: Context,
    question: Text,
    index: Any,
    error: Text | None = None,
    names: list[str] | None = None,
    *,
    k: int = 3,
) -> Found:
    """Search an index (or the index of that name) by meaning and by words.

    `error` is the line of an error message that belongs to the question; exceptions that it names get a
    vote for their definitions, and so do `names`. `Found.refused` says that nothing fits.
    """
    if k < 1:
        raise InputError(f"k={k} passages were asked for", help="ask for 1 or more", code="E226")
    searched: Searchable = open_index(index)
    line = error.text if error is not None else ""
    tokenizer = ctx.files("embed")["tokenizer.json"]
    [item] = await ctx.work(token_items, tokenizer, [f"{line} {question.text}".strip()])
    ctx.spend("input_tokens", int(item["attention_mask"].sum()))
    embedded = await ctx.infer("embed", item)
    model = str(ctx.params.get("model") or _EMBED.model)

    def look_up() -> Found:
        return searched.search(
            question.text, embedded["embedding"], k, error=line, hints=names or (), model=model
        )

    return await ctx.work(look_up, cause="lookup")
