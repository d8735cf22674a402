"""The labelled recording of the assistant: orders, topics of the pages, refusals; with a stated share of repeats.

Published studies of traffic say that 30 to 40 % of requests to language models resemble earlier ones. Here that share
is an argument: `recording(repeats=0.35)`, from 0 to 0.5. docs/layers.md says how it is made and what is templated.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import random
import re
from importlib import resources
from typing import Literal

import msgspec

from tauten.describe.payload import Text
from tauten.errors import InputError
from tauten.examples.assistant.lookup import says
from tauten.examples.assistant.orders import bundled, read
from tauten.improve.labelled import TOPIC
from tauten.improve.recording import Document, Inputs, Item, Label, Recording, arrivals

Half = Literal["dev", "held_out"]
HALVES: tuple[Half, ...] = ("dev", "held_out")

REQUESTS = 120  # of each half, whatever the share: as many as there are topics, so that none need repeat
REPEATS = 0.35  # the middle of what studies say
MOST_REPEATS = 0.5  # beyond it so few topics are asked that popularity decides everything
REWORDED = (
    0.4  # of the repeats: in other words. No study that we know of tells; people seldom copy their words
)
POOL = 8  # topics before the first comes again: with fewer, the first few would make up all that is popular
RATE_PER_S = 2.0  # mean arrival rate of the recording; replay may choose another
QUICK = 15  # items of a half in the quick set
SYNTHETIC = (
    "orders made by lot; wordings, topics and refusals of items/*.toml by hand; order and repeats by seeds"
)


class Topic(msgspec.Struct, frozen=True):
    """Something that is asked about, its wordings, and what is right about it."""

    name: str
    kind: str  # order, unknown, page, refused
    questions: tuple[str, ...]
    label: Label


class Asked(msgspec.Struct, frozen=True):
    """One question in the order in which they come."""

    topic: Topic
    wording: int
    before: int = 0  # how often these very words were asked before
    known: bool = False  # whether the topic was asked about before


def recording(*, split: str | None = None, quick: bool = False, repeats: float = REPEATS) -> Recording:
    """The recording, a half of it, or its quick set; `repeats` is the share that resembles an earlier request.

    Both halves are mixed in time, each in its own order, so that a repeat comes after what it repeats. Arrivals are a
    Poisson process at `RATE_PER_S`, counted anew for what was chosen.
    """
    if not 0 <= repeats <= MOST_REPEATS:
        raise InputError(f"repeats={repeats:g}", help=f"give a share, from 0 to {MOST_REPEATS:g}")
    items = [
        item
        for item in _mixed(repeats)
        if (split is None or item.split == split) and (item.quick or not quick)
    ]
    times = arrivals(len(items), RATE_PER_S, seed=7)
    placed = (msgspec.structs.replace(item, at_s=at) for item, at in zip(items, times, strict=True))
    return Recording("assistant", placed)


# -- what is asked about -------------------------------------------------------------------------------------


@functools.cache
def topics(half: Half) -> tuple[Topic, ...]:
    """All that one half may ask about."""
    script = _script(half)
    place = HALVES.index(half)
    orders = bundled()[place :: len(HALVES)]
    unknown = read().unknown[place :: len(HALVES)]
    return (
        *(_order(each.number, "order", says(each), each.thing, script) for each in orders),
        *(_order(number, "unknown", f"no order {number}", "", script) for number in unknown),
        *(_page(each) for each in script.topics),
        *(
            Topic(f"refused-{half}-{number}", "refused", (question,), Label(answerable=False))
            for number, question in enumerate(script.refused)
        ),
    )


def _order(number: str, kind: str, says: str, thing: str, script: _Script) -> Topic:
    """Its wordings begin with another one for each number: else all first questions would be alike."""
    digits = number.removeprefix("T-")
    wordings = [wording.format(n=number, d=digits) for wording in script.orders]
    random.Random(number).shuffle(wordings)
    accept = tuple(map(re.escape, filter(None, (number, says, thing))))
    return Topic(number, kind, tuple(wordings), Label(accept=(accept,)))


def _page(each: _Page) -> Topic:
    source, title, says = each.page
    label = Label(documents=(Document(source, rf"(^|> ){re.escape(title)}$"),), accept=((says,),))
    return Topic(title, "page", tuple(each.ask), label)


# -- the order in which they are asked -----------------------------------------------------------------------


def asked(half: Half, repeats: float = REPEATS) -> list[Asked]:
    """`REQUESTS` questions, of which that share resembles an earlier one: the same topic, mostly in the same words.

    Which places are repeats is drawn first, so the share is met exactly. Of earlier topics the popular ones come again:
    the chance falls with the rank, as one over it. What has no answer is not popular.
    """
    rng = random.Random(f"assistant/{half}/{repeats:.4f}")
    fresh = list(topics(half))
    rng.shuffle(fresh)
    ranks = {topic.name: 1 / rank for rank, topic in enumerate(rng.sample(fresh, len(fresh)), 1)}
    again = set(rng.sample(range(POOL, REQUESTS), round(repeats * REQUESTS)))
    seen: list[Topic] = []
    words: dict[tuple[str, int], int] = {}
    found: list[Asked] = []
    for place in range(REQUESTS):
        popular = [topic for topic in seen if topic.label.answerable]
        repeat = place in again and bool(popular)
        topic = rng.choices(popular, [ranks[each.name] for each in popular])[0] if repeat else fresh.pop()
        wording = _wording(topic, words, rng) if repeat else 0
        count = words.get((topic.name, wording), 0)
        found.append(Asked(topic, wording, count, repeat))
        words[topic.name, wording] = count + 1
        if not repeat:
            seen.append(topic)
    return found


def _wording(topic: Topic, words: dict[tuple[str, int], int], rng: random.Random) -> int:
    """Words that were used before, or others where there are any left."""
    used = [place for place in range(len(topic.questions)) if (topic.name, place) in words]
    others = [place for place in range(len(topic.questions)) if place not in used]
    return rng.choice(others if others and rng.random() < REWORDED else used)


@functools.cache
def _half(half: Half, repeats: float) -> tuple[Item, ...]:
    """All items of one half, the quick ones evenly spread."""
    items = [_item(half, each) for each in asked(half, repeats)]
    chosen = {place * len(items) // QUICK for place in range(QUICK)}
    return tuple(
        msgspec.structs.replace(item, quick=True) if place in chosen else item
        for place, item in enumerate(items)
    )


def _mixed(repeats: float) -> list[Item]:
    """Both halves, shuffled into one another like cards: each keeps its order."""
    rng = random.Random("assistant")
    waiting = {half: list(reversed(_half(half, repeats))) for half in HALVES}
    found: list[Item] = []
    while any(waiting.values()):
        half = rng.choices(HALVES, [len(waiting[half]) for half in HALVES])[0]
        found.append(waiting[half].pop())
    return found


def _item(half: Half, each: Asked) -> Item:
    topic = each.topic
    again = f"/again-{each.before}" if each.before else ""
    came = "repeated" if each.before else "reworded" if each.known else "first"
    return Item(
        id=f"{half}/{topic.name.replace(' ', '-')}/{each.wording}{again}",
        render=functools.partial(_inputs, topic.questions[each.wording]),
        label=topic.label,
        split=half,
        tags=(topic.kind, came, f"{TOPIC}{topic.name}"),
        provenance=SYNTHETIC,
    )


def _inputs(question: str) -> Inputs:
    return {"question": Text(question)}


# -- files ---------------------------------------------------------------------------------------------------


class _Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    page: tuple[str, str, str]
    ask: list[str]


class _Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    orders: list[str]
    refused: list[str]
    topics: list[_Page]


@functools.cache
def _script(half: Half) -> _Script:
    data = resources.files(__package__).joinpath("items").joinpath(f"{half}.toml").read_bytes()
    return msgspec.toml.decode(data, type=_Script)
