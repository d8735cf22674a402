"""The labelled recording of the live chat: questions about handbooks of both halves, with repeats and refusals.

docs/documents.md says how it is made. Everything is templated: numbers are drawn by the machines' names.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import random
from collections.abc import Iterator

import msgspec

from tauten.describe.payload import Text
from tauten.examples.live_chat.handbook import HALVES, Half, Handbook, Question, handbooks, script
from tauten.examples.live_chat.rendered import file_names
from tauten.improve.labelled import TOPIC
from tauten.improve.recording import Document, Inputs, Item, Label, Recording, arrivals

RATE_PER_S = 3.0  # mean arrival rate of the recording; replay may choose another
REPEATED = (
    0.15  # share of requests that ask word for word what was asked before: as published traffic, halved
)
QUICK = 24  # items of a half in the quick set
SYNTHETIC = "from items/*.toml and the machines' names: all templated"


def recording(*, split: str | None = None, quick: bool = False) -> Recording:
    """The recording, a half of it, or its quick set; arrivals are a Poisson process, counted for what was chosen."""
    halves = [half for half in HALVES if split in (None, half)]
    items = [item for half in halves for item in _half(half) if item.quick or not quick]
    if len(halves) > 1:  # the halves are mixed; a repeat still comes after what it repeats
        items.sort(key=lambda item: float(item.id.rpartition("@")[2]))
    times = arrivals(len(items), RATE_PER_S, seed=7)
    placed = (msgspec.structs.replace(item, at_s=at) for item, at in zip(items, times, strict=True))
    return Recording("live_chat", placed)


def items_of(handbook: Handbook, wording: int = 0) -> Iterator[Item]:
    """The questions about one handbook, in one wording each."""
    places = tuple(Document(name) for name in file_names(handbook))
    for question in handbook.questions:
        label = Label(documents=places, accept=question.accept)
        yield _item(handbook.half, question, label, wording, (handbook.form,))


@functools.cache
def _half(half: Half) -> tuple[Item, ...]:
    """All items of one half, in the order in which they are asked, the quick ones evenly spread."""
    rng = random.Random(f"live chat/{half}")
    left = [*_answerable(half), *_refused(half)]
    rng.shuffle(left)
    items: list[Item] = []
    while left:
        again = len(items) >= 10 and rng.random() < REPEATED
        item = _again(rng.choice(items), len(items)) if again else left.pop()
        items.append(msgspec.structs.replace(item, id=f"{item.id}@{len(items)}"))
    chosen = {place * len(items) // QUICK for place in range(QUICK)}
    return tuple(msgspec.structs.replace(item, quick=place in chosen) for place, item in enumerate(items))


def _again(item: Item, place: int) -> Item:
    bare = item.id.rpartition("@")[0].partition("/again")[0]
    tags = tuple("repeated" if tag == "first" else tag for tag in item.tags)
    return msgspec.structs.replace(item, id=f"{bare}/again-{place}", tags=tags)


def _answerable(half: Half) -> Iterator[Item]:
    for place, book in enumerate(handbooks(half)):
        yield from items_of(book, place % 2)


def _refused(half: Half) -> Iterator[Item]:
    for place, text in enumerate(script(half).refused.questions):
        question = Question(f"refused-{half}-{place}", (text,), (), True)
        yield _item(half, question, Label(answerable=False), 0, ("refused",))


def _item(half: str, question: Question, label: Label, wording: int, tags: tuple[str, ...]) -> Item:
    place = wording % len(question.wordings)
    kind = "refused" if not label.answerable else "simple" if question.simple else "complex"
    return Item(
        id=f"{half}/{question.topic.replace(' ', '-')}/{place}",
        render=functools.partial(_inputs, question.wordings[place]),
        label=label,
        split=half,
        tags=(kind, "first", *(tag for tag in tags if tag != kind), f"{TOPIC}{question.topic}"),
        provenance=SYNTHETIC,
    )


def _inputs(question: str) -> Inputs:
    return {"question": Text(question)}
