"""Figures that miss their bound, or are not there, each with the reason that reasons.toml states for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

REASONS = Path(__file__).parent / "reasons.toml"
COMPARISON = "comparison"
UNSTATED = "no reason stated yet"
Reasons = Mapping[str, Mapping[str, str]]


class Missed(NamedTuple):
    """One figure; `found` is the name of its scenario, `where` that scenario's title."""

    found: str
    where: str
    name: str
    seen: float | None
    bound: float | None
    unit: str
    at_least: bool
    reason: str


def read_reasons(path: Path = REASONS) -> Reasons:
    return dict(tomllib.loads(path.read_text()))


def missed(document: Mapping[str, Any], reasons: Reasons) -> list[Missed]:
    """All that are not met, in the order of the page; a scenario that did not run is one, too."""
    return [*_of_comparison(document, reasons), *_of_scenarios(document, reasons)]


def _of_comparison(document: Mapping[str, Any], reasons: Reasons) -> Iterator[Missed]:
    stated = reasons.get(COMPARISON, {})
    for one in document.get("targets", ()):
        if one["met"] is not True:
            name = one["target"]
            more = [*one.get("lost", ()), *filter(None, [one.get("note")])]
            reason = "; ".join([*more, stated.get(name, UNSTATED)])
            figures = (one["seen"], one["bound"], "", one["at_least"])
            yield Missed(COMPARISON, COMPARISON, name, *figures, reason)


def _of_scenarios(document: Mapping[str, Any], reasons: Reasons) -> Iterator[Missed]:
    for one in document.get("stress", {}).get("scenarios", ()):
        stated = reasons.get(one["name"], {})
        if one["error"]:
            yield Missed(one["name"], one["title"], "did not run", None, None, "", False, one["error"])
        for check in one["checks"]:
            if check["met"] is not True:
                figures = (check["seen"], check["bound"], check["unit"], check["at_least"])
                reason = stated.get(check["name"], UNSTATED)
                yield Missed(one["name"], one["title"], check["name"], *figures, reason)
