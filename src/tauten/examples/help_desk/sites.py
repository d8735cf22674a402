"""The scripts of the recording, read from items/*.toml: failing programs, questions, answers, refusals."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from importlib import resources
from typing import Literal

import msgspec

from tauten.improve.recording import Document, Label

Half = Literal["dev", "held_out"]
HALVES: tuple[Half, ...] = ("dev", "held_out")


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an answer stands and what it says."""

    docs: list[tuple[str, str]]
    accept: list[list[str]]


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One program that fails, and what people ask about its screen."""

    id: str
    exception: str
    means: str
    program: str
    questions: list[tuple[str, str]]

    @property
    def file(self) -> str:
        return f"{self.id}.py"


class Foreign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A screen of another tool, and what people ask about it."""

    command: str
    questions: list[str]
    text: str


class Refused(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests of one half that must get "not found"."""

    near: list[str]
    foreign: list[str]
    spoken: list[str]
    pictures: list[str]
    screens: list[Foreign]


class _Sites(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    site: list[Site]


class _Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: list[tuple[str, str]]


@functools.cache
def answers() -> dict[str, Answer]:
    """All answers by name."""
    return msgspec.toml.decode(_read("answers"), type=dict[str, Answer])


@functools.cache
def sites(half: Half) -> list[Site]:
    """The failing programs of one half."""
    return msgspec.toml.decode(_read(f"{half}_screens"), type=_Sites).site


@functools.cache
def questions(half: Half) -> list[tuple[str, str]]:
    """Questions without a screen: (text, name of the answer)."""
    return msgspec.toml.decode(_read(f"{half}_questions"), type=_Questions).questions


@functools.cache
def refused(half: Half) -> Refused:
    """What one half asks in vain."""
    return msgspec.toml.decode(_read(f"{half}_refused"), type=Refused)


@functools.cache
def tracebacks() -> dict[str, str]:
    """What each program printed when it ran; made by `tracebacks.py`."""
    return msgspec.toml.decode(_read("tracebacks"), type=dict[str, str])


def label(name: str, *, exception: str = "", transcript: str = "", screen: bool | None = None) -> Label:
    """The label of a request that answer `name` answers; an empty name means that nothing does."""
    if not name:
        return Label(answerable=False, exception=exception, transcript=transcript, screen=screen)
    answer = answers()[name]
    return Label(
        documents=tuple(Document(source, title) for source, title in answer.docs),
        accept=tuple(tuple(group) for group in answer.accept),
        exception=exception,
        transcript=transcript,
        screen=screen,
    )


def _read(name: str) -> bytes:
    return resources.files(__package__).joinpath("items").joinpath(f"{name}.toml").read_bytes()
