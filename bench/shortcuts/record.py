"""The figures of `make bench-shortcuts` as a page of the documentation: written by this command, never by hand.

python -m bench.shortcuts.record [FILE.json]
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.ground import drawing, markdown, missed
from bench.ground.command import drawn
from bench.shortcuts import page

PAGE = Path("docs/shortcuts_measured.md")
HEAD = """# Shortcuts, measured

Drawn by `python -m bench.shortcuts.record` from what [`make bench-shortcuts`](shortcuts.md) measured, never by hand. In each round every row of a section is measured once; a figure is
the median of the rounds. **Bold** rows are ours. What misses its bound stands at the end with the reason.
"""


def whole(document: Mapping[str, Any], reasons: missed.Reasons) -> str:
    """All of it as Markdown."""
    more = f"{document['settings']['rounds']} rounds, {document['minutes']:.0f} minutes"
    parts = [HEAD, markdown.conditions(document, more)]
    for one in document["sections"]:
        parts += _section(one)
    return "\n".join([*parts, *markdown.missed(page.missed_of(document, reasons))]).rstrip() + "\n"


def _section(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {one['title']}\n"
    yield f"{one['claim']} {one['how']}\n"
    if one["error"]:
        yield f"Did not run: {one['error']}\n"
        return
    if one["checks"]:
        yield from markdown.head(["what", "seen", "bound"], 1)
        for check in one["checks"]:
            seen = drawing.value(check["seen"], check["unit"])
            yield markdown.line([check["name"], seen, markdown.bound(check)])
        yield ""
    if one["rows"]:
        units = ["" if each["unit"] in ("", "share") else f", {each['unit']}" for each in one["columns"]]
        titles = [f"{each['title']}{unit}" for each, unit in zip(one["columns"], units, strict=True)]
        yield from markdown.head(["", *titles], 1)
        for row in one["rows"]:
            yield markdown.line([_name(row), *_cells(row, one["columns"])])
        yield ""
    yield from (f"{note}\n" for note in one["notes"])


def _name(row: Mapping[str, Any]) -> str:
    return f"**{row['name']}**" if row["ours"] else str(row["name"])


def _cells(row: Mapping[str, Any], columns: list[Mapping[str, Any]]) -> Iterator[str]:
    if row["reason"]:
        yield f"did not run: {row['reason']}"
        return
    for column in columns:
        found = row["figures"].get(column["key"])
        middle = found["median"] if isinstance(found, Mapping) else found
        shown = middle if isinstance(middle, str) else drawing.value(middle, _unit(column))
        yield shown


def _unit(column: Mapping[str, Any]) -> str:
    """Others stand in the head of the column."""
    return "share" if column["unit"] == "share" else ""


def written(file: Path, document: Mapping[str, Any]) -> Path:
    """The page of the documentation."""
    PAGE.write_text(whole(document, page.read_reasons()))
    return PAGE


def main() -> int:
    return drawn("make bench-shortcuts", page.OUT, page.read, written)


if __name__ == "__main__":
    sys.exit(main())
