"""Blocks of a template that has front matter: what always stays, few-shot examples one by one, other formats.

    +++ stable            ends at the next line of `+++`; holds no field
    +++ example NAME      may be left out by a plan
    +++ format NAME       one of several; the first stands where nothing is chosen
    +++                   ends a block

`\\+++` writes three signs at the beginning of a line.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tauten.describe.front import FENCE, unreadable
from tauten.errors import suggest

_KINDS: Final = ("stable", "example", "format")
_MARK: Final = re.compile(r"^\+\+\+(?:[ \t]+(.*?))?[ \t]*$")
_NAME: Final = re.compile(r"[A-Za-z][\w-]*")  # begins with a letter: examples without a name have numbers


class Marked(NamedTuple):
    """A line of a template's body, where it stands in the file, and the block that it belongs to ("" is none)."""

    number: int
    text: str
    mark: str = ""


class Choice(NamedTuple):
    """Which format stands ("" is the first), and which examples do not."""

    format: str = ""
    without: tuple[str, ...] = ()


def plain(lines: Sequence[str]) -> list[Marked]:
    """The lines of a template without front matter, which has no blocks."""
    return [Marked(number, line) for number, line in enumerate(lines, 1)]


def blocks(lines: Sequence[str], before: int, where: str) -> list[Marked]:
    """The lines of a body with their marks, `before` lines having gone before; raises WorkflowError E108."""
    found: list[Marked] = []
    seen: set[str] = set()
    mark, begun = "", 0
    for number, line in enumerate(lines, before + 1):
        opened = _MARK.match(line)
        if opened is None:
            found.append(Marked(number, line[1:] if line.startswith("\\" + FENCE) else line, mark))
            continue
        if not opened[1] and not mark:
            help = "open a block first: +++ stable, +++ example NAME or +++ format NAME"
            raise unreadable("`+++` ends no block", help, where, number)
        _check_said(found, mark, begun, where)
        mark, begun = _opened(opened[1] or "", seen, where, number), number
    _check_said(found, mark, begun, where)
    return found


def _check_said(found: Sequence[Marked], mark: str, begun: int, where: str) -> None:
    """A block without a word could be chosen, and nobody would see that it says nothing."""
    if mark and not any(line.text.strip() for line in found if line.number > begun):
        raise unreadable(
            f"`+++ {mark}` says nothing", "write its text below it, or leave it out", where, begun
        )


def _opened(words: str, seen: set[str], where: str, number: int) -> str:
    kind, _, name = words.partition(" ")
    name = name.strip()
    if not kind:
        return ""
    if kind not in _KINDS:
        raise unreadable(f"`+++ {kind}` is no block", suggest(kind, _KINDS), where, number)
    if kind == "stable" and name:
        raise unreadable(
            f"a stable block has no name, and this one is called `{name}`", "write +++ stable", where, number
        )
    if kind != "stable" and not _NAME.fullmatch(name):
        help = f"write +++ {kind} NAME, one word that begins with a letter"
        raise unreadable(
            f"the {kind} has the name `{name}`" if name else f"the {kind} has no name", help, where, number
        )
    mark = f"{kind} {name}".strip()
    if mark in seen and name:
        raise unreadable(
            f"`{mark}` stands here for the second time", "give each a name of its own", where, number
        )
    seen.add(mark)
    return mark


def named(kind: str, marks: Sequence[str]) -> tuple[str, ...]:
    """The names of the blocks of a kind, in their order.

    >>> named("example", ["", "stable", "example loop", "example loop", "format short"])
    ('loop',)
    """
    found = (mark.partition(" ") for mark in marks)
    return tuple(dict.fromkeys(name for word, _, name in found if word == kind and name))


def stands(mark: str, choice: Choice, first_format: str) -> bool:
    """Whether a line of a block is part of what the model reads."""
    kind, _, name = mark.partition(" ")
    if kind == "format":
        return name == (choice.format or first_format)
    return kind != "example" or name not in choice.without


def check_choice(choice: Choice, formats: Sequence[str], examples: Sequence[str], where: str) -> None:
    """Raise WorkflowError E108 for what a template has not."""
    if choice.format and choice.format not in formats:
        raise unreadable(f"there is no format `{choice.format}`", suggest(choice.format, formats), where, 0)
    for name in choice.without:
        if name not in examples:
            raise unreadable(f"there is no example `{name}`", suggest(name, examples), where, 0)


def loose(lines: Sequence[Marked], sections: Sequence[str]) -> Iterator[Marked]:
    """Written lines that follow an example or a format with sections of its own, and begin none: who says them would
    hang on whether that is left out.

    `sections` are those that the lines start, "" for a line that starts none.
    """
    ended = ""
    before = ""
    own = False
    for line, section in zip(lines, sections, strict=True):
        if line.mark != before:
            ended = before if own and before.startswith(("example ", "format ")) else ended
            before, own = line.mark, False
        own = own or bool(section)
        if section:
            ended = ""
        elif ended and line.text.strip():
            yield line
