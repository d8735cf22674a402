"""A prompt's tokens by part: whose text each token ends in. The parts add up to the whole."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from tauten.describe.message import VARIABLE, Span, joined
from tauten.describe.template import Template
from tauten.run.contracts import PromptReader
from tauten.run.reading import asked

PARTS: Final = {
    "system": "what system messages always say",
    "examples": "few-shot examples",
    "text": "what other messages always say",
    "variables": "values of fields",
    "marks": "of the model's chat template, and what it adds",
}

Spans = Sequence[tuple[str, Sequence[Span]]]


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one prompt. `unchanged` of them stand before the first value: every request begins with them.

    Where the chat template or the tokenizer writes the text in another way, tokens have no owner, and all but the
    total is None."""

    total: int
    parts: dict[str, int] | None = None
    examples: dict[str, int] | None = None
    unchanged: int | None = None


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt as the model gets it."""

    template: str
    version: str
    model: str
    context: int  # tokens that the model sees at once, prompt and answer
    sampled: list[str]  # variables that stand for what nobody gave
    tokens: Parts
    text: str
    values: dict[str, str]


def preview(
    template: Template,
    values: dict[str, object],
    reader: PromptReader,
    model: str,
    sampled: Sequence[str] = (),
) -> Preview:
    """Render a template and count it; raises what rendering raises."""
    spans = template.spans(values)
    text, tokens = counted(spans, reader)
    written = {name: _of(name, template, values) for name in template.fields if values.get(name) is not None}
    return Preview(
        template=template.front.name or template.name,
        version=template.version,
        model=model,
        context=reader.context,
        sampled=list(sampled),
        tokens=tokens,
        text=text,
        values=written,
    )


def _of(name: str, template: Template, values: dict[str, object]) -> str:
    """A value in a few words, for the list of what was given."""
    shown = values[name]
    text = shown if isinstance(shown, str) else getattr(shown, "text", None)
    return text if isinstance(text, str) else repr(shown)


def counted(spans: Spans, reader: PromptReader) -> tuple[str, Parts]:
    """The exact text of a prompt, and its tokens by part."""
    prompted = reader.read(asked(joined(spans)))
    owners = _owners(prompted.text, spans)
    if owners is None or prompted.ends is None:
        return prompted.text, Parts(total=prompted.tokens)
    first = next((place for place, owner in enumerate(owners) if owner == VARIABLE), len(owners))
    whose = [owners[end - 1] if end else "marks" for end in prompted.ends]
    found = Counter(_part(owner) for owner in whose)
    examples = Counter(owner.removeprefix("example ") for owner in whose if owner.startswith("example "))
    return prompted.text, Parts(
        total=prompted.tokens,
        parts={part: found[part] for part in PARTS},
        examples=dict(examples),
        unchanged=sum(end <= first for end in prompted.ends),
    )


def _part(owner: str) -> str:
    if owner.startswith("example "):
        return "examples"
    return "variables" if owner == VARIABLE else owner


def _owners(text: str, spans: Spans) -> list[str] | None:
    """Whose each character is; None where a message does not stand in the text as it was said."""
    owners = ["marks"] * len(text)
    at = 0
    for role, pieces in spans:
        content = "".join(span.text for span in pieces)
        said = content.strip()  # as many chat templates write a message
        begin = text.find(said, at)
        if begin < 0:
            return None
        whose = list(_each(role, pieces))[len(content) - len(content.lstrip()) :]
        owners[begin : begin + len(said)] = whose[: len(said)]
        at = begin + len(said)
    return owners


def _each(role: str, pieces: Sequence[Span]) -> Iterator[str]:
    for span in pieces:
        plain = "system" if role == "system" else "text"
        owner = span.mark if span.mark == VARIABLE or span.mark.startswith("example ") else plain
        yield from [owner] * len(span.text)
