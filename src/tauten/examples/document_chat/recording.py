"""The labelled recording of the document chat: typed questions with repeats and other wordings, from items/*.toml.

docs/examples.md says how it is made and what is templated.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from importlib import resources
from typing import Literal

import msgspec

from tauten.describe.payload import Text
from tauten.improve.labelled import TOPIC
from tauten.improve.recording import Document, Inputs, Item, Label, Recording, arrivals

Half = Literal["dev", "held_out"]
HALVES: tuple[Half, ...] = ("dev", "held_out")

RATE_PER_S = 5.0  # mean arrival rate of the recording; replay may choose another
REPEATED = 0.2  # share of requests that ask word for word what was asked before; three in ten requests to
REWORDED = (
    0.1  # language models resemble an earlier one in published studies of traffic: both shares together
)
POOL = 20  # topics before the first comes again: with fewer, the first few would make up all that is popular
QUICK = 30  # items of a half in the quick set

WORDINGS = {
    "exception": ("When is {name} raised?", "What does {name} mean?", "why does my program end with {name}"),
    "builtin": (
        "What does {name}() do?",
        "what is the built-in function {name} good for",
        "Explain {name}().",
    ),
    "term": ("What does {name} mean in Python?", "define {name}", "Please explain the term {name}."),
    "library": ("What does {name} do?", "how do I use {name}", "What is {name} for?"),
}
"""How a definition is asked for: these are the templated part."""

SYNTHETIC = (
    "from items/*.toml and seeds: prose and refusals written by hand, questions about definitions templated"
)


class Topic(msgspec.Struct, frozen=True):
    """Something that is asked about, its wordings, and what is right about it."""

    name: str
    kind: str
    questions: tuple[str, ...]
    label: Label


class Asked(msgspec.Struct, frozen=True):
    """One question in the order in which they come."""

    topic: Topic
    wording: int
    before: int = 0  # how often these very words were asked before
    known: bool = False  # whether the topic was asked about before


def recording(*, split: str | None = None, quick: bool = False) -> Recording:
    """The recording, a half of it, or its quick set.

    Both halves are mixed in time, each in its own order, so that a repeat comes after what it repeats. Arrivals are a
    Poisson process at `RATE_PER_S`, counted anew for what was chosen.
    """
    items = [
        item for item in _mixed() if (split is None or item.split == split) and (item.quick or not quick)
    ]
    times = arrivals(len(items), RATE_PER_S, seed=7)
    placed = (msgspec.structs.replace(item, at_s=at) for item, at in zip(items, times, strict=True))
    return Recording("document_chat", placed)


def topics(half: Half) -> list[Topic]:
    """All that one half asks about."""
    return [*_definitions(half), *_prose(half), *_refused(half)]


def _definitions(half: Half) -> Iterator[Topic]:
    rows = msgspec.toml.decode(_read(half, "definitions"), type=_Definitions).definitions
    for kind, source, title, name, says in rows:
        label = Label(documents=(Document(source, rf"(^|> ){_plain(title)}$"),), accept=((says,),))
        wordings = [wording.format(name=name) for wording in WORDINGS[kind]]
        random.Random(name).shuffle(wordings)  # which of them comes first
        yield Topic(name, kind, tuple(wordings), label)


def _prose(half: Half) -> Iterator[Topic]:
    for name, each in msgspec.toml.decode(_read(half, "prose"), type=dict[str, _Prose]).items():
        places = tuple(Document(source, title) for source, title in each.docs)
        label = Label(documents=places, accept=tuple(tuple(group) for group in each.accept))
        yield Topic(name, "prose", tuple(each.questions), label)


def _refused(half: Half) -> Iterator[Topic]:
    questions = msgspec.toml.decode(_read(half, "refused"), type=_Questions).questions
    for place, question in enumerate(questions):
        yield Topic(f"refused-{place}", "refused", (question,), Label(answerable=False))


def _plain(title: str) -> str:
    """A title as a pattern that means just it."""
    return "".join(char if char.isalnum() or char in "_- " else f"\\{char}" for char in title)


# -- the order in which they are asked -----------------------------------------------------------------------


def asked(half: Half) -> Iterator[Asked]:
    """Every topic of a half once, in between earlier questions again and earlier topics in other words.

    Of earlier topics the popular ones come again: the chance falls with the rank, as one over it. What has no answer
    is not popular.
    """
    rng = random.Random(f"document chat/{half}")
    left = topics(half)
    rng.shuffle(left)
    weights: dict[str, float] = {topic.name: 1 / rank for rank, topic in enumerate(_shuffled(left, rng), 1)}
    seen: list[Topic] = []
    words: dict[tuple[str, int], int] = {}
    while left:
        chance = rng.random()
        again = len(seen) >= POOL and chance < REPEATED + REWORDED
        topic = rng.choices(seen, [weights[each.name] for each in seen])[0] if again else left.pop()
        used = [place for name, place in words if name == topic.name]
        if again and chance >= REPEATED:
            used = [place for place in range(len(topic.questions)) if place not in used] or used
        wording = rng.choice(used) if used else 0
        count = words.get((topic.name, wording), 0)
        yield Asked(topic, wording, count, again)
        words[topic.name, wording] = count + 1
        if not again and topic.label.answerable:
            seen.append(topic)


def _shuffled(topics: list[Topic], rng: random.Random) -> list[Topic]:
    return rng.sample(topics, len(topics))


@functools.cache
def _half(half: Half) -> tuple[Item, ...]:
    """All items of one half, the quick ones evenly spread."""
    items = [_item(half, each) for each in asked(half)]
    chosen = {place * len(items) // QUICK for place in range(QUICK)}
    return tuple(
        msgspec.structs.replace(item, quick=True) if place in chosen else item
        for place, item in enumerate(items)
    )


def _mixed() -> Iterator[Item]:
    """Both halves, shuffled into one another like cards: each keeps its order."""
    rng = random.Random("document chat")
    waiting = {half: list(reversed(_half(half))) for half in HALVES}
    while any(waiting.values()):
        half = rng.choices(HALVES, [len(waiting[half]) for half in HALVES])[0]
        yield waiting[half].pop()


def _item(half: Half, each: Asked) -> Item:
    topic = each.topic
    again = f"/again-{each.before}" if each.before else ""
    came = "repeated" if each.before else "reworded" if each.known else "first"
    return Item(
        id=f"{half}/{topic.name}/{each.wording}{again}",
        render=functools.partial(_inputs, topic.questions[each.wording]),
        label=topic.label,
        split=half,
        tags=(topic.kind, came, f"{TOPIC}{topic.name}"),
        provenance=SYNTHETIC,
    )


def _inputs(question: str) -> Inputs:
    return {"question": Text(question)}


# -- files ---------------------------------------------------------------------------------------------------


class _Definitions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    definitions: list[tuple[str, str, str, str, str]]


class _Prose(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    docs: list[tuple[str, str]]
    accept: list[list[str]]
    questions: list[str]


class _Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: list[str]


def _read(half: Half, name: str) -> bytes:
    return resources.files(__package__).joinpath("items").joinpath(f"{half}_{name}.toml").read_bytes()
