"""The labelled recording of triage: messages made of sentences and subjects, from items/*.toml.

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

RATE_PER_S = 0.5  # mean arrival rate of the recording; replay may choose another
QUICK = 5  # of each queue in each half
SYNTHETIC = "sentences of items/*.toml with subjects put in"


class Queue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sentences for one queue, and subjects: a name, and where the documents tell of it if they do."""

    sentences: list[str]
    subjects: list[list[str]]
    each: int = 1  # messages about each subject


def recording(*, split: str | None = None, quick: bool = False) -> Recording:
    """The recording, a half of it, or its quick set. Arrivals are a Poisson process at `RATE_PER_S`."""
    items = [item for half in HALVES for item in _half(half)]
    random.Random("triage").shuffle(items)
    chosen = [item for item in items if (split is None or item.split == split) and (item.quick or not quick)]
    times = arrivals(len(chosen), RATE_PER_S, seed=7)
    placed = (msgspec.structs.replace(item, at_s=at) for item, at in zip(chosen, times, strict=True))
    return Recording("triage", placed)


@functools.cache
def queues(half: Half) -> dict[str, Queue]:
    """The script of one half."""
    data = resources.files(__package__).joinpath("items").joinpath(f"{half}.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, Queue])


def _half(half: Half) -> Iterator[Item]:
    for name, queue in queues(half).items():
        made = [
            _item(half, name, subject, queue.sentences[(place + turn) % len(queue.sentences)], turn)
            for place, subject in enumerate(queue.subjects)
            for turn in range(queue.each)
        ]
        chosen = {place * len(made) // QUICK for place in range(QUICK)}
        for place, item in enumerate(made):
            yield msgspec.structs.replace(item, quick=place in chosen)


def _item(half: Half, queue: str, subject: list[str], sentence: str, turn: int) -> Item:
    name = subject[0]
    return Item(
        id=f"{half}/{queue}/{name.replace(' ', '-')}/{turn}",
        render=functools.partial(_inputs, sentence.format(name=name)),
        label=_label(queue, subject),
        split=half,
        tags=(queue, f"{TOPIC}{name}"),
        provenance=SYNTHETIC,
    )


def _label(queue: str, subject: list[str]) -> Label:
    """What is known of a message, because it was made so."""
    known = {"queue": queue, "subject": subject[0]}
    if len(subject) == 1:
        return Label(answerable=False, answer=known)
    _, sources, title, says = subject
    places = tuple(Document(source, title) for source in sources.split("|"))
    return Label(documents=places, accept=((says,),), answer=known)


def _inputs(message: str) -> Inputs:
    return {"message": Text(message)}
