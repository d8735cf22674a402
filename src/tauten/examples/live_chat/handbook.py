"""Handbooks of machines that do not exist, from items/*.toml and the machines' names: what they say, and what may be
asked about them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator
from importlib import resources
from typing import Literal, NamedTuple

import msgspec

Half = Literal["dev", "held_out"]
HALVES: tuple[Half, ...] = ("dev", "held_out")
Form = Literal["pdf", "columns", "scan", "picture", "md", "rst", "txt"]
ASKED_PROPERTIES, ASKED_PARTS, ASKED_CODES = 4, 2, 2  # of each handbook; the others stand there, and mislead
INTERVALS_H = (8, 20, 40, 50, 80, 100, 150, 200, 250, 300, 400, 500)


class Title(NamedTuple):
    """The name on the first page."""

    text: str


class Heading(NamedTuple):
    """The head of a chapter."""

    text: str


class Paragraph(NamedTuple):
    """Some sentences."""

    text: str


class Table(NamedTuple):
    """Rows under a caption."""

    caption: str
    rows: tuple[tuple[str, ...], ...]


class Figure(NamedTuple):
    """A drawing, of which only the caption says something."""

    caption: str


Part = Title | Heading | Paragraph | Table | Figure


class Question(msgspec.Struct, frozen=True):
    """What may be asked of a handbook: wordings, the words that a right answer quotes, and how hard it is."""

    topic: str
    wordings: tuple[str, ...]
    accept: tuple[tuple[str, ...], ...]
    simple: bool


class Handbook(msgspec.Struct, frozen=True):
    """One machine's: its parts in order, and its questions."""

    name: str
    form: Form
    half: str
    parts: tuple[Part, ...]
    questions: tuple[Question, ...]

    @property
    def slug(self) -> str:
        """The name as files have it."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


class _Asked(msgspec.Struct, frozen=True):
    name: str
    questions: list[str]
    unit: str = ""
    low: int = 0
    step: int = 0


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    text: str
    a: list[int]
    b: list[int | str]
    questions: list[str]
    accept: list[str]


class _Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    a: list[str]
    questions: list[str]


class _Refused(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: list[str]


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one half is made of."""

    machines: list[tuple[str, str, Form]]
    intro: str
    data_caption: str
    care_caption: str
    codes_caption: str
    care_head: tuple[str, str, str]
    codes_head: tuple[str, str, str]
    tools: list[str]
    chapters: tuple[str, str, str]
    properties: list[_Asked]
    parts: list[_Asked]
    codes: list[tuple[str, str]]
    code_questions: list[str]
    sections: list[_Section]
    figure: _Figure
    refused: _Refused


@functools.cache
def script(half: Half) -> Script:
    """The file of one half."""
    data = resources.files(__package__).joinpath("items").joinpath(f"{half}.toml").read_bytes()
    return msgspec.toml.decode(data, type=Script)


def handbooks(half: Half) -> list[Handbook]:
    """The handbooks of one half, the same every time."""
    return [handbook(half, *machine) for machine in script(half).machines]


def handbook(half: Half, name: str, kind: str, form: Form) -> Handbook:
    """The handbook of one machine, with the sentences of a half."""
    return _Drawn(script(half), name, kind).handbook(half, form)


class _Drawn:
    """The numbers of one machine: each thing's own, whatever else is drawn."""

    def __init__(self, script: Script, name: str, kind: str) -> None:
        self._script = script
        self._name, self._kind = name, kind

    def handbook(self, half: str, form: Form) -> Handbook:
        parts: list[Part] = [Title(self._name), Paragraph(self._said(self._script.intro))]
        questions: list[Question] = []
        for part, asked in (*self._tables(), *self._chapters(), self._figure()):
            parts += part
            questions += asked
        return Handbook(self._name, form, half, tuple(parts), tuple(questions))

    def _said(self, text: str, **more: object) -> str:
        return text.format(name=self._name, kind=self._kind, **more)

    def _random(self, what: str) -> random.Random:
        return random.Random(f"{self._name}/{what}")

    # -- tables ----------------------------------------------------------------------------------------------

    def _tables(self) -> Iterator[tuple[list[Part], list[Question]]]:
        script = self._script
        made = (self._data(), self._care(), self._codes())
        captions = (script.data_caption, script.care_caption, script.codes_caption)
        for number, ((rows, asked), head, caption) in enumerate(
            zip(made, script.chapters, captions, strict=True), 1
        ):
            table = Table(f"Table {number}. {self._said(caption)}", tuple(rows))
            yield [Heading(head), table], asked

    def _data(self) -> tuple[list[tuple[str, ...]], list[Question]]:
        rows: list[tuple[str, ...]] = []
        asked = []
        for each in self._script.properties:
            value = f"{each.low + each.step * self._random(each.name).randrange(17)} {each.unit}"
            rows.append((each.name, value))
            asked.append(self._question(each.name, each.questions, ((_exact(value),),)))
        return rows, self._some(asked, ASKED_PROPERTIES)

    def _care(self) -> tuple[list[tuple[str, ...]], list[Question]]:
        script = self._script
        rows: list[tuple[str, ...]] = [script.care_head]
        intervals = self._random("intervals").sample(INTERVALS_H, len(script.parts))
        asked = []
        for each, hours in zip(script.parts, intervals, strict=True):
            interval = f"{hours} hours"
            rows.append((each.name, interval, self._random(f"tool {each.name}").choice(script.tools)))
            asked.append(self._question(each.name, each.questions, ((_exact(interval),),)))
        return rows, self._some(asked, ASKED_PARTS)

    def _codes(self) -> tuple[list[tuple[str, ...]], list[Question]]:
        script = self._script
        rows: list[tuple[str, ...]] = [script.codes_head]
        asked = []
        chosen = self._random("codes").sample(script.codes, 4)
        for number, (meaning, remedy) in enumerate(chosen, 1):
            rows.append((f"F{number}", meaning, remedy))
            wordings = [each.replace("{code}", f"F{number}") for each in script.code_questions]
            asked.append(
                self._question(f"code F{number}", wordings, ((rf"F{number}\b.*{re.escape(meaning)}",),))
            )
        return rows, self._some(asked, ASKED_CODES)

    def _some(self, asked: list[Question], count: int) -> list[Question]:
        return self._random(f"asked {asked[0].topic}").sample(asked, count)

    # -- prose -----------------------------------------------------------------------------------------------

    def _chapters(self) -> Iterator[tuple[list[Part], list[Question]]]:
        for each in self._script.sections:
            rng = self._random(each.title)
            values = {"a": rng.choice(each.a), "b": rng.choice(each.b)}
            accept = tuple((re.escape(self._said(pattern, **values)),) for pattern in each.accept)
            question = self._question(each.title, each.questions, accept, simple=False)
            yield [Heading(each.title), Paragraph(self._said(each.text, **values))], [question]

    def _figure(self) -> tuple[list[Part], list[Question]]:
        each = self._script.figure
        place = self._random("figure").choice(each.a)
        text = self._said(each.text, a=place)
        asked = self._question("figure", each.questions, ((re.escape(place),),))
        return [Figure(f"Figure 1. {text}")], [asked]

    def _question(
        self, topic: str, wordings: list[str], accept: tuple[tuple[str, ...], ...], *, simple: bool = True
    ) -> Question:
        said = [each.format(name=self._name) for each in wordings]
        self._random(f"wording {topic}").shuffle(said)  # which of them comes first
        return Question(f"{self._name} {topic}", tuple(said), accept, simple)


def _exact(value: str) -> str:
    """A number that is not a part of a longer one."""
    number, unit = value.split(" ")
    return rf"(?<!\d){number}\s?{re.escape(unit)}\b"  # read from a picture, the space may be lost
