"""Figures that miss their bound, or are not there, each with the reason that reasons.toml states for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.ground.missed import UNSTATED, Missed, Reasons, of_parts
from bench.ground.missed import read_reasons as _read

REASONS = Path(__file__).parent / "reasons.toml"
COMPARISON = "comparison"


def read_reasons(path: Path = REASONS) -> Reasons:
    return _read(path)


def missed(document: Mapping[str, Any], reasons: Reasons) -> list[Missed]:
    """All that are not met, in the order of the page; a scenario that did not run is one, too."""
    return [
        *_of_comparison(document, reasons),
        *of_parts(document.get("stress", {}).get("scenarios", ()), reasons),
    ]


def _of_comparison(document: Mapping[str, Any], reasons: Reasons) -> Iterator[Missed]:
    stated = reasons.get(COMPARISON, {})
    for one in document.get("targets", ()):
        if one["met"] is not True:
            name = one["target"]
            more = [*one.get("lost", ()), *filter(None, [one.get("note")])]
            reason = "; ".join([*more, stated.get(name, UNSTATED)])
            figures = (one["seen"], one["bound"], "", one["at_least"])
            yield Missed(COMPARISON, COMPARISON, name, *figures, reason)
