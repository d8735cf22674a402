"""Figures that miss their bound, or are not there, each with the reason that a file of reasons states for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from bench.ground import drawing

UNSTATED = "no reason stated yet"
Reasons = Mapping[str, Mapping[str, str]]


class Missed(NamedTuple):
    """One figure; `found` is the name of its part, `where` that part's title."""

    found: str
    where: str
    name: str
    seen: float | None
    bound: float | None
    unit: str
    at_least: bool
    reason: str


def read_reasons(path: Path) -> Reasons:
    """Per part of a comparison, a reason by the words of the check."""
    return dict(tomllib.loads(path.read_text()))


def of_parts(parts: Iterable[Mapping[str, Any]], reasons: Reasons) -> Iterator[Missed]:
    """All that are not met of parts with `name`, `title`, `checks`; one that did not run is one, too."""
    for one in parts:
        stated = reasons.get(one["name"], {})
        if one["error"]:
            yield Missed(one["name"], one["title"], "did not run", None, None, "", False, one["error"])
        for check in one["checks"]:
            if check["met"] is not True:
                seen = (check["seen"], check["bound"], check["unit"], check["at_least"])
                reason = stated.get(check["name"], UNSTATED)
                yield Missed(one["name"], one["title"], check["name"], *seen, reason)


def table(found: Sequence[Missed]) -> str:
    """Every figure that is not met, each with its reason."""
    if not found:
        return "<h2>Figures missed</h2><p>None.</p>"
    lines = "".join(
        f"<tr><td>{escape(one.where)}</td><td class=reason>{escape(one.name)}</td>"
        f"<td>{drawing.value(one.seen, one.unit)}</td><td>{_bound(one)}</td>"
        f"<td class=reason>{escape(one.reason)}</td></tr>"
        for one in found
    )
    head = "<tr><th></th><th>figure</th><th>seen</th><th>bound</th><th>reason</th></tr>"
    return f'<h2>Figures missed</h2><div class="wide"><table>{head}{lines}</table></div>'


def text(found: Sequence[Missed]) -> str:
    """The same for the terminal."""
    lines = [
        f"   {one.where}: {one.name}: {drawing.value(one.seen, one.unit)}, {_bound(one)}: {one.reason}"
        for one in found
    ]
    return "\n".join([f"figures missed: {len(found) or 'none'}", *lines])


def _bound(one: Missed) -> str:
    return (
        "–" if one.bound is None else f"{'≥' if one.at_least else '≤'} {drawing.value(one.bound, one.unit)}"
    )
