"""Lines of a screen: no wider than it is, and nothing in them that a terminal would obey."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import textwrap


def clip(text: str, width: int) -> str:
    """At most `width` characters, the last one a mark where some are missing."""
    shown = printable(text)
    return shown if len(shown) <= width else f"{shown[: max(0, width - 1)]}…"


def wrapped(block: str, width: int) -> str:
    """Lines that are too long go on in the next one, two columns further in."""
    lines: list[str] = []
    for line in block.split("\n"):
        shown = printable(line)
        lines += [shown] if len(shown) <= width else _broken(shown, width)
    return "\n".join(lines)


def printable(text: str) -> str:
    """Control characters are shown, never sent to a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _broken(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]
