"""Two versions of a template: which lines differ, and by how many tokens of what every request says."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import difflib

import msgspec

from tauten.describe.template import Template
from tauten.improve.prompts.parts import PARTS, Parts, counted
from tauten.run.contracts import PromptReader


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two; its tokens are those of the text that does not hang on a request."""

    template: str
    version: str
    tokens: Parts


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from `a` to `b`. `tokens` are more (or, negative, fewer) in all, `parts` where that is known."""

    model: str
    a: Side
    b: Side
    tokens: int
    parts: dict[str, int] | None
    lines: list[str]

    @property
    def same(self) -> bool:
        return self.a.version == self.b.version


def difference(a: Template, b: Template, reader: PromptReader, model: str) -> Difference:
    """Compare sources line by line, and tokens by part."""
    sides = [_side(each, reader) for each in (a, b)]
    before, after = (side.tokens for side in sides)
    known = before.parts is not None and after.parts is not None
    return Difference(
        model=model,
        a=sides[0],
        b=sides[1],
        tokens=after.total - before.total,
        parts=_each(before.parts or {}, after.parts or {}) if known else None,
        lines=_lines(a, b),
    )


def _side(template: Template, reader: PromptReader) -> Side:
    return Side(
        template=template.name, version=template.version, tokens=counted(template.fixed_spans, reader)[1]
    )


def _each(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {part: after[part] - before[part] for part in PARTS if part != "variables"}


def _lines(a: Template, b: Template) -> list[str]:
    before, after = (f"{each.name} {each.version}" for each in (a, b))
    lines = (a.source.splitlines(), b.source.splitlines())
    return list(difflib.unified_diff(*lines, before, after, lineterm=""))
