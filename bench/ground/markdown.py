"""Pieces of pages of the documentation that commands draw from figures."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.ground.drawing import value
from bench.ground.missed import Missed


def line(cells: Sequence[str]) -> str:
    """One of a table: what a program printed last has lines of its own, and would end the table."""
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def head(titles: Sequence[str], left: int) -> Iterator[str]:
    """The first two lines of a table; the first `left` columns hold words."""
    yield line(titles)
    yield line(["---"] * left + ["---:"] * (len(titles) - left))


def conditions(part: Mapping[str, Any], more: str, measured: Sequence[Mapping[str, Any]] = ()) -> str:
    """When, of which commit and on what a part was measured; of pieces that were `measured` apart the commits of all."""
    machine = part["machine"]
    pieces = sorted(measured, key=lambda one: one["began"])
    commits = dict.fromkeys(one["commit"] for one in pieces) or [machine["commit"]]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Measured {part['began'][:10]} at commit{'s' * (len(commits) > 1)} {', '.join(commits)}: {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['system'].split('-')[0]}, Python {machine['python']}, {versions}; {more}.\n"
    )


def bound(of: Mapping[str, Any]) -> str:
    """That of a check, with its direction."""
    return f"{'≥' if of['at_least'] else '≤'} {value(of['bound'], of['unit'])}"


def missed(found: Sequence[Missed]) -> Iterator[str]:
    """What misses its bound, each with the reason."""
    yield "## Missed\n"
    for one in found:
        wanted = "" if one.bound is None else f" ({bound(one._asdict())})"
        reason = " ".join(one.reason.split())
        yield f"* {one.where}: {one.name}: {value(one.seen, one.unit)}{wanted}: {reason}"
    if not found:
        yield "Nothing."
