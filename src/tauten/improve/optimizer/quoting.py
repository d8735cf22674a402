"""How much of what a step says is quoted from what it read: where nothing is, no guess from the prompt comes true."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tauten.describe.graph import FromInput, Listed, Literal, Source
from tauten.describe.template import as_text


def quoted_share(said: str, read: str) -> float:
    """The share of three words in a row that are said and stand in what was read; 0.0 of fewer than three.

    >>> quoted_share("The file is closed.", "at its end the file is closed, after all")
    1.0
    """
    rows, known = _threes(said), set(_threes(read))
    return sum(each in known for each in rows) / len(rows) if rows else 0.0


def _threes(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return list(zip(words, words[1:], words[2:], strict=False))


def written(source: Source, inputs: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """What a source gives a request, as text; empty where that is not known, or is no text.

    `inputs` are those of the request, `values` what its steps gave.
    """
    if isinstance(source, Literal):
        return readable(getattr(source.value, "source", source.value))  # of a template its text
    if isinstance(source, Listed):
        return " ".join(written(each, inputs, values) for each in source.members)
    value = (inputs if isinstance(source, FromInput) else values).get(source.name)
    return readable(getattr(value, source.attribute, None) if source.attribute else value)


def readable(value: Any) -> str:
    """A value as a prompt would show it; empty for a picture, a sound, or an object without text."""
    try:
        return as_text(value)
    except TypeError:
        return ""
