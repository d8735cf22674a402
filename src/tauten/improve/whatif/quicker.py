"""A library in which one step takes less time: what if only that were faster.

Causal profiling: Curtsinger and Berger, Coz (SOSP 2015). They slow everything else down; a simulation can do what it
says.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec

from tauten.improve.simulate.library import Library
from tauten.improve.simulate.tape import Event, Level, Tape, Visit
from tauten.plan.lower import Lowered
from tauten.run.visits import base_name


class Quicker(Library):
    """What another library knows, with one step in only a part of its time: its code, its models, its streams."""

    def __init__(self, known: Library, step: str, by: float) -> None:
        self.__dict__.update(known.__dict__)  # one knowledge, seen in another way
        self._step = step
        self._part = 1.0 - by

    def tape(self, id: str, lowered: Lowered) -> Tape:
        tape = super().tape(id, lowered)
        visits = {
            name: _visit(visit, self._part) if base_name(name) == self._step else visit
            for name, visit in tape.visits.items()
        }
        return msgspec.structs.replace(tape, visits=visits)


def _visit(visit: Visit, part: float) -> Visit:
    return Visit(tuple(_level(level, part) for level in visit.levels), visit.tail_s * part, visit.held)


def _level(level: Level, part: float) -> Level:
    chains = tuple(tuple(_event(event, part) for event in chain) for chain in level.chains)
    return msgspec.structs.replace(level, gap_s=level.gap_s * part, chains=chains)


def _event(event: Event, part: float) -> Event:
    return msgspec.structs.replace(
        event,
        seconds=event.seconds * part,
        gap_s=event.gap_s * part,
        first_s=event.first_s * part,
        slow=event.slow * part,
        slow_tokens=event.slow_tokens * part,
    )
