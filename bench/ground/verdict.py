"""What checks came to, in words: for a table of a page, and a line each for the terminal."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from bench.ground.check import Check

WORDS = {True: "met", False: "missed", None: "no figure"}


class Checked(Protocol):
    """A part of a comparison that was measured; `error` is why it did not come to its end."""

    title: str
    took_s: float
    error: str
    checks: list[Check]


def verdict(error: str, met: Sequence[bool | None]) -> str:
    """How many of its checks a part missed; a check without a figure is missed."""
    if error:
        return "did not run"
    lost = sum(each is not True for each in met)
    return f"{lost} of {len(met)} missed" if lost else f"all {len(met)} met"


def text(results: Iterable[Checked]) -> str:
    """Every check on a line."""
    return "\n".join(line for one in results for line in (_head(one), *map(_line, one.checks)))


def _head(one: Checked) -> str:
    return f"{one.title}   ({one.took_s:.0f} s)" + (f"   did not run: {one.error}" if one.error else "")


def _line(check: Check) -> str:
    seen = "-" if check.seen is None else f"{check.seen:.4g}"
    sign = ">=" if check.at_least else "<="
    return f"   {WORDS[check.met]:<9} {check.name:<58} {seen:>9} {sign} {check.bound:g} {check.unit}"
