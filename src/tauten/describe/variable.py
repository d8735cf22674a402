"""A variable of a template: what its values may be, and how one is read from a command line."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from tauten.describe.payload import Image, Json, Media

Kind = Literal["text", "number", "choice", "list", "images", "struct"]


class Variable(msgspec.Struct, frozen=True, omit_defaults=True):
    """One declaration. `of` are the values of a choice; `least` and `most` bound a number, the members of a list, or
    how many images there are, which is also what the model reads of them. `sample` is shown where no value is given."""

    type: Kind = "text"
    description: str = ""
    of: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    sample: Any = None

    def contradiction(self) -> str:
        """What is wrong with the declaration itself; empty where nothing is."""
        if (self.type == "choice") != bool(self.of):
            return "is a choice without `of`" if self.type == "choice" else f"is a {self.type} and has `of`"
        if self.type in ("text", "choice", "struct") and not (self.least is None and self.most is None):
            return f"is a {self.type}, which has no `least` or `most`"
        if self.least is not None and self.most is not None and self.least > self.most:
            return f"is at least {self.least:g} and at most {self.most:g}"
        problem = self.problem(self.sample) if self.sample is not None else ""
        return f"has a sample that {problem}" if problem else ""

    def problem(self, value: Any) -> str:
        """Why a value does not fit; empty where it does. Absence is no value: a field says whether it may be."""
        if value is None:
            return ""
        value = value.value if isinstance(value, Json) else value
        if self.type == "number":
            return "" if _is_number(value) and self._within(value) else self._not(value)
        if self.type == "choice":
            return "" if _words(value) in self.of else self._not(value)
        if self.type == "list":
            return "" if isinstance(value, list | tuple) and self._within(len(value)) else self._not(value)
        if self.type == "images":
            count = images_in(value)
            return "" if count is not None and self._within(count) else self._not(value)
        fits = _words(value) is not None if self.type == "text" else _has_parts(value)
        return "" if fits else self._not(value)

    def _within(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def _not(self, value: Any) -> str:
        return f"is {_shown(value)}, expected {self}"

    def __str__(self) -> str:
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at least", self.least), ("at most", self.most))
            if bound is not None
        ]
        if self.type == "choice":
            return f"one of {', '.join(self.of)}"
        named = {"images": "a number of images", "struct": "a value with parts", "text": "text"}
        return ", ".join([named.get(self.type, f"a {self.type}"), *bounds])

    def read(self, text: str) -> Any:
        """A value that a command line writes: numbers and JSON where the type wants them, else the text itself."""
        if self.type in ("text", "choice"):
            return text
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return [text] if self.type == "list" else text  # one member; a wrong one is told by its check


class Format(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way in which an answer may be asked for. `answer` is one as it is wanted: its tokens are counted, to say
    what another format would save."""

    description: str = ""
    answer: str = ""


def images_in(value: Any) -> int | None:
    """How many images a value holds or says; None for what is neither."""
    if isinstance(value, Image):
        return 1
    if isinstance(value, list | tuple):
        return len(value) if all(isinstance(each, Image) for each in value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool)  # finite, also where no float is as large
    return isinstance(value, float) and math.isfinite(value)


def _words(value: Any) -> str | None:
    """A value's text, where it is one."""
    text = value if isinstance(value, str) else getattr(value, "text", None)
    return text if isinstance(text, str) else None


def _has_parts(value: Any) -> bool:
    return not isinstance(value, str | bool | int | float | list | tuple | Media) and not callable(value)


def _shown(value: Any) -> str:
    """A value in an error: itself where it is short, else what it is."""
    if isinstance(value, list | tuple):
        return f"{len(value)} members" if value else "an empty list"
    if isinstance(value, str | bool | int | float):
        return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."
    return str(value.__class__.__name__)
