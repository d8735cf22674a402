"""A request that is recorded several times finds its own prompt among what a language model keeps of earlier ones.

One that comes for the first time finds only what its prompt shares with others. So what a repeat says of reading the
prompt is replaced by what the first round said; of the very first request, which found nothing, by what the others
found there at least.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

from msgspec.structs import replace

from tauten.improve.simulate.tape import Event, Tape, Visit


def unseen(first: Sequence[Tape], repeats: Mapping[str, Sequence[Tape]]) -> dict[str, list[Tape]]:
    """The repeats of each request as if each had come for the first time; `first` are those of the round in which
    each did, in its order."""
    found = {}
    for place, tape in enumerate(first):
        seen = _after(first[1:], tape) if place == 0 else tape
        found[tape.id] = [_like(each, seen) for each in repeats[tape.id]]
    return found


def _after(others: Sequence[Tape], tape: Tape) -> Tape:
    """The very first request as if those behind it had come before: it keeps its pace of reading."""
    kept: dict[tuple[str, str], float] = {}
    for name, event in chain.from_iterable(_streams(other) for other in others):
        key, cached = (name, event.role), event.weight - event.fresh
        kept[key] = min(kept.get(key, cached), cached)
    visits = {name: visit.changed(partial(_shortened, name, kept)) for name, visit in tape.visits.items()}
    return replace(tape, visits=visits)


def _shortened(visit: str, kept: Mapping[tuple[str, str], float], event: Event) -> Event:
    fresh = min(event.fresh, max(1.0, event.weight - kept.get((visit, event.role), 0.0)))
    if not event.stream or fresh >= event.fresh:
        return event
    return _read(event, fresh, event.first_s * fresh / event.fresh)


def _like(tape: Tape, first: Tape) -> Tape:
    """A repeat that reads its prompts as the first round did."""
    visits = dict(tape.visits)
    for name, visit in tape.visits.items():
        other = first.visits.get(name)
        if other is not None and _shape(visit) == _shape(other):
            visits[name] = visit.changed(partial(_as, other.events()))
    return replace(tape, visits=visits)


def _as(firsts: Iterator[Event], event: Event) -> Event:
    first = next(firsts)
    longer = event.stream and first.fresh > event.fresh
    return _read(event, first.fresh, first.first_s) if longer else event


def _read(event: Event, fresh: float, first_s: float) -> Event:
    """A stream whose prompt takes so long; its tokens take what they took."""
    return replace(event, fresh=fresh, first_s=first_s, seconds=event.seconds - event.first_s + first_s)


def _streams(tape: Tape) -> list[tuple[str, Event]]:
    return [(name, event) for name, visit in tape.visits.items() for event in visit.events() if event.stream]


def _shape(visit: Visit) -> list[list[int]]:
    return [[len(chain) for chain in level.chains] for level in visit.levels]
