"""Messages of a template: lines of text and fields, each with the block that it belongs to."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from tauten.describe.blocks import Choice, stands


class Field(msgspec.Struct, frozen=True):
    """One `{{ name.path? }}` and the line it stands on."""

    name: str
    path: tuple[str, ...] = ()
    optional: bool = False
    line: int = 0

    def __str__(self) -> str:
        return "{{ " + ".".join([self.name, *self.path]) + " }}"


Line = tuple[str | Field, ...]
VARIABLE: Final = "variable"  # the mark of a field's value; other text has that of its block


class Span(NamedTuple):
    """A piece of what a model reads, and where it comes from: a block's mark, `VARIABLE`, or "" for other text."""

    text: str
    mark: str


class Message(msgspec.Struct, frozen=True):
    """One message: who speaks, its lines, and to which block each belongs."""

    role: str
    lines: tuple[Line, ...]
    marks: tuple[str, ...]

    @property
    def rows(self) -> Iterator[tuple[Line, str]]:
        """Each line with its mark."""
        return zip(self.lines, self.marks, strict=True)


def joined(spans: Sequence[tuple[str, Sequence[Span]]]) -> list[dict[str, str]]:
    """Messages in pieces as a model is given them."""
    return [{"role": role, "content": "".join(span.text for span in pieces)} for role, pieces in spans]


def said(spans: Sequence[Span]) -> bool:
    """Whether a line holds anything but its end."""
    return any(span.text for span in spans[:-1])


def trimmed(spans: Sequence[Span]) -> list[Span]:
    """The pieces without line breaks before and after all of them, and without empty ones."""
    whole = "".join(span.text for span in spans)
    first, last = len(whole) - len(whole.lstrip("\n")), len(whole.rstrip("\n"))
    found, at = [], 0
    for span in spans:
        text = span.text[max(0, first - at) : max(0, last - at)]
        at += len(span.text)
        if text:
            found.append(Span(text, span.mark))
    return found


def fixed_first(message: Message) -> Message:
    """Paragraphs are parted by empty lines, and keep one between them."""
    paragraphs: list[list[tuple[Line, str]]] = [[]]
    for line, mark in message.rows:
        if written([line]):
            paragraphs[-1].append((line, mark))
        elif paragraphs[-1]:
            paragraphs.append([])
    there = [each for each in paragraphs if each]
    ordered = sorted(there, key=lambda each: has_field([line for line, _ in each]))  # keeps equals in order
    if ordered == there:
        return message
    rows = [row for place, each in enumerate(ordered) for row in ([((), each[0][1])] if place else []) + each]
    return Message(message.role, tuple(line for line, _ in rows), tuple(mark for _, mark in rows))


def has_field(lines: Sequence[Line]) -> bool:
    """Whether a field stands in any of these lines."""
    return any(isinstance(part, Field) for line in lines for part in line)


def numbered(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Pairs of [user] and [assistant] without a field are examples, too: where no block names them, by number."""
    found, number = list(messages), 0
    for place, (asked, answered) in enumerate(itertools.pairwise(messages)):
        fixed = not (has_field(asked.lines + answered.lines) or any(asked.marks + answered.marks))
        if fixed and (asked.role, answered.role) == ("user", "assistant"):
            number += 1
            for offset, each in enumerate((asked, answered)):
                marks = (f"example {number}",) * len(each.lines)
                found[place + offset] = Message(each.role, each.lines, marks)
    return tuple(found)


def chosen(
    whole: Sequence[Message], choice: Choice, first_format: str
) -> tuple[tuple[Message, ...], tuple[Field, ...]]:
    """What stands of the messages, and the fields of what does not."""
    found, hidden = [], []
    for message in whole:
        rows = list(message.rows)
        kept = [row for row in rows if stands(row[1], choice, first_format)]
        gone = [line for line, mark in rows if not stands(mark, choice, first_format)]
        hidden += [part for line in gone for part in line if isinstance(part, Field)]
        if not gone or written([line for line, _ in kept]):
            lines, marks = tuple(line for line, _ in kept), tuple(mark for _, mark in kept)
            found.append(Message(message.role, lines, marks))
    return tuple(found), tuple(hidden)


def written(lines: Sequence[Line]) -> bool:
    """Whether lines hold a field, or any text that can be seen."""
    return any(not isinstance(part, str) or bool(part.strip()) for line in lines for part in line)
