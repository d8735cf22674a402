"""A trace of requests for things of several modalities: popular by Zipf's law within each, and what is popular changes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

ZIPF: Final = (
    0.9  # the chance of the n-th most popular is proportional to n ** -0.9; web traces lie at 0.6 to 1.0
)
TURNS: Final = 10  # times in the trace that popularity changes
MOVED: Final = 0.1  # of the things of a modality that get another rank then
SPREAD: Final = 0.5  # sigma of the logarithm of a thing's size around its modality's measured one


class Fact(NamedTuple):
    """What one thing of a modality takes, as it was measured."""

    held_bytes: int  # in a cache
    fetched_bytes: int  # that come over the network for it when it is not there
    cost_ms: float  # to make it


@dataclass(frozen=True)
class Share:
    """How many different things of a modality there are, and its part of the requests."""

    things: int
    part: float


SHARES: Final[
    Mapping[str, Share]
] = {  # many short texts, few large media: a service that answers, sees and hears
    "text": Share(20_000, 0.40),
    "embedding": Share(40_000, 0.35),
    "image": Share(2_000, 0.15),
    "audio": Share(2_000, 0.10),
}


class Thing(NamedTuple):
    """One thing: sizes and cost go together, as a larger picture takes longer to decode."""

    key: bytes
    modality: str
    held_bytes: int
    fetched_bytes: int
    cost_ms: float


def trace(
    facts: Mapping[str, Fact], count: int, seed: str, shares: Mapping[str, Share] = SHARES
) -> list[Thing]:
    """So many requests in order, the same for the same seed."""
    rng = random.Random(seed)
    names = list(shares)
    ranked = {name: _things(rng, name, facts[name], shares[name].things) for name in names}
    chances = {
        name: list(accumulate(rank**-ZIPF for rank in range(1, shares[name].things + 1))) for name in names
    }
    drawn = rng.choices(names, [shares[name].part for name in names], k=count)
    found = []
    for number, name in enumerate(drawn):
        if number and number % max(1, count // TURNS) == 0:
            for each in ranked.values():
                _move(rng, each)
        found.append(ranked[name][_rank(rng, chances[name])])
    return found


def _things(rng: random.Random, name: str, fact: Fact, count: int) -> list[Thing]:
    factors = [rng.lognormvariate(0.0, SPREAD) for _ in range(count)]
    return [
        Thing(
            f"{name}/{number}".encode(),
            name,
            max(1, int(fact.held_bytes * factor)),
            max(1, int(fact.fetched_bytes * factor)),
            fact.cost_ms * factor,
        )
        for number, factor in enumerate(factors)
    ]


def _rank(rng: random.Random, sums: list[float]) -> int:
    return min(bisect_left(sums, rng.random() * sums[-1]), len(sums) - 1)


def _move(rng: random.Random, things: list[Thing]) -> None:
    """A part of them change places, wherever they stand."""
    places = rng.sample(range(len(things)), max(2, int(MOVED * len(things))))
    moved = [things[place] for place in places]
    rng.shuffle(moved)
    for place, each in zip(places, moved, strict=True):
        things[place] = each
