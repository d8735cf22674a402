"""Inline markup to plain words, and text to sentences."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

# No pattern here looks at the same letters again from each of many places: documents come from strangers, too.
_INLINE_RST = re.compile(
    r"``(?P<literal>.+?)``"
    r"|:(?:[a-z]+:)?(?P<role>[A-Za-z]+):`(?P<target>[^`]+)`"
    r"|`(?P<link>[^`<]++)(?P<place><[^`>]*>)?`_{0,2}"
    r"|(?<![\w*])\*\*(?P<strong>[^*\s](?:[^*]*[^*\s])?)\*\*(?!\w)"
    r"|(?<![\w*])\*(?P<emphasis>[^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"
    r"|(?P<footnote>(?:(?<!\s)\s++)?\[(?:\d+|#\w*|\*)\]_)"
    r"|\\(?P<escaped>.)",
    re.DOTALL,
)
_CALLED = {"func", "meth"}
_INLINE_MARKDOWN = re.compile(
    r"(?<!`)`++(?P<literal>[^`]++)`+"
    r"|!?\[(?P<link>[^\[\]]*+)\]\([^()]*+(?:\([^()]*+\)[^()]*+)*+\)"
    r"|(?<!\w)(?:\*\*|__)(?P<strong>\S(?:.{0,1000}?\S)?)(?:\*\*|__)(?!\w)"
    r"|(?<!\w)[*_](?P<emphasis>[^\s*_](?:[^*_]*[^\s*_])?)[*_](?!\w)"
    r"|(?P<footnote><(?=[A-Za-z/!?])[^<>]++>)",  # a tag; n < 10 and m > 5 are none
    re.DOTALL,
)


def plain_rst(text: str) -> str:
    """reStructuredText's inline markup as the words that a reader sees.

    >>> plain_rst("use :func:`~json.dumps` or ``*args``, *not* `eval <x>`_")
    'use dumps() or *args, not eval'
    """
    return _INLINE_RST.sub(_shown, text)


def plain_markdown(text: str) -> str:
    """Markdown's inline markup as the words that a reader sees.

    >>> plain_markdown("see [the *docs*](x) for `a_b`")
    'see the *docs* for a_b'
    """
    return _INLINE_MARKDOWN.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    groups = match.groupdict()
    if groups.get("role"):
        return _role(groups["role"], " ".join(groups["target"].split()))
    if groups["footnote"] or (groups.get("escaped") or "").isspace():
        return ""
    if groups.get("place"):
        return str(groups["link"]).rstrip()
    return next((value for value in groups.values() if value is not None), "")


def _role(role: str, target: str) -> str:
    shown = _without_place(target)
    if shown == target and shown.startswith("~"):
        shown = shown.rpartition(".")[2].lstrip("~")
    shown = shown.lstrip("!.")
    if role in _CALLED and " " not in shown:
        return shown if shown.endswith(")") else f"{shown}()"
    return f"PEP {shown}" if role == "pep" and shown.isdigit() else shown


def _without_place(target: str) -> str:
    """The title of ``title <place>``."""
    place = target.find("<", target.rfind(">", 0, -1) + 1) if target.endswith(">") else -1
    return target[:place].rstrip() if place >= 0 else target


_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9_`-])")
_LONGEST_SHORT = 8  # letters and the dot of what `_NOT_AN_END` knows
_NOT_AN_END = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Mr|Dr|No|Fig|approx|resp)|\b[A-Z])\.$")


def sentences(text: str) -> list[str]:
    """The sentences of prose, in order; paragraphs always end one.

    >>> sentences("Raised when a key, e.g. of a dict, is missing. Use get().")
    ['Raised when a key, e.g. of a dict, is missing.', 'Use get().']
    """
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        start = 0
        line = " ".join(paragraph.split())
        for end in _END.finditer(line):
            if not _NOT_AN_END.search(line, max(start, end.start() - _LONGEST_SHORT), end.start()):
                found.append(line[start : end.end()].strip())
                start = end.end()
        if line[start:]:
            found.append(line[start:])
    return found
