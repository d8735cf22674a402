"""Judge an answer of the help desk against the label of its request."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

import tauten as tt
from tauten.improve.recording import Item, Label


class Outcome(msgspec.Struct, frozen=True):
    """How one request came out.

    `correct`: the quoted text (with its code block) holds the accepted content, or the request was
    rightly refused. `hit_rank`: place, from 1, of the first passage that stands where the answer stands
    and holds it; None when none does or when there is no answer. `refused_right`: it was refused
    exactly if it should be.
    """

    correct: bool
    hit_rank: int | None
    refused_right: bool


def score(item: Item, answer: Any, passages: Sequence[Any] | None = None) -> Outcome:
    """Judge an answer with the fields found, text, passage, code, source, titles.

    `passages` are the retrieved ones, best first, with source, titles and text (or a `chunk` with these);
    without them the answer's own passage is the only one.
    """
    label = item.label
    found = bool(answer.found)
    if not label.answerable:
        return Outcome(correct=not found, hit_rank=None, refused_right=not found)
    candidates = [answer] if passages is None else passages
    return Outcome(correct=_right(label, answer), hit_rank=_rank(label, candidates), refused_right=found)


def _quoted(answer: Sequence[Any]) -> Any:
    """The quotation of a reply; None where it has none so far."""
    return next((reply.answer for reply in answer if reply.answer is not None), None)


@tt.metric(name="right answers", enough=lambda answer: _quoted(answer) is not None)
def metric(answer: Sequence[Any], label: Label) -> bool:
    """The quotation holds the accepted content, or the request was rightly refused; the model's words do not count."""
    quoted = _quoted(answer)
    return quoted is not None and _right(label, quoted)


def _right(label: Label, answer: Any) -> bool:
    if not label.answerable or not answer.found:
        return not label.answerable and not answer.found
    return accepts(label, f"{_field(answer, 'text')}\n{_field(answer, 'code')}")


def accepts(label: Label, text: str) -> bool:
    """Whether the text holds every pattern of one accepted group."""
    plain_text = plain(text)
    return any(all(_in(pattern, plain_text) for pattern in group) for group in label.accept)


def stands_in(label: Label, source: str, titles: str | Iterable[str]) -> bool:
    """Whether a passage of that file under those titles is one of the label's documents."""
    path = titles if isinstance(titles, str) else " > ".join(titles)
    return any(
        _same_file(document.source, source) and _in(document.title, plain(path))
        for document in label.documents
    )


def plain(text: str) -> str:
    """Text without markup and line breaks, so that a pattern finds its words however they were wrapped."""
    text = re.sub(r":(?:[a-z]+:)?[a-zA-Z]+:`[!~]?([^`<]*?)(?:\s*<[^`]*>)?`", r"\1", text)
    text = text.replace("`", "").replace("’", "'").replace("\\ ", "")
    text = re.sub(r"(?<!\w)\*\*?([^*\n]+)\*\*?(?!\w)", r"\1", text)
    return re.sub(r"\s+", " ", text)


def _rank(label: Label, passages: Sequence[Any]) -> int | None:
    for place, passage in enumerate(passages, 1):
        passage = getattr(passage, "chunk", passage)  # a retrieved passage is a chunk with its figures
        held = "\n".join(_field(passage, name) for name in ("passage", "text", "body", "code"))
        titles = getattr(passage, "titles", None) or _field(passage, "title")
        if stands_in(label, _field(passage, "source"), titles) and accepts(label, held):
            return place
    return None


def _field(value: Any, name: str) -> str:
    given = getattr(value, name, None)
    return str(given) if given is not None else ""


def _same_file(expected: str, source: str) -> bool:
    """Sources may be given with a folder in front, another suffix, or a place behind ``#``."""
    bare = re.sub(r"\.(rst|html|txt)\b.*$", "", source.split("#")[0])
    return bare == expected.removesuffix(".rst") or bare.endswith("/" + expected.removesuffix(".rst"))


def _in(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None
