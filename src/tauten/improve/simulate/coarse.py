"""A tape without what is too short to matter: small pieces in threads are counted as the step's own code.

A simulation pays for each thing that happens, and a thousandth of a request is less than any tape is true to.
What models are asked stays as it is, however short: batches and queues hang on it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from tauten.improve.simulate.tape import BODY, CREW, Event, Level, Tape, Visit

SHORT = (
    0.001  # of all that a request does; its pieces of own code are added up to this before they are played
)


def coarse(tape: Tape) -> Tape:
    """The same request in fewer and longer pieces; no time is lost, up to `short_s` in all at its end."""
    short_s = SHORT * sum(_seconds(visit) for visit in tape.visits.values())
    visits = {name: _visit(visit, short_s) for name, visit in tape.visits.items()}
    return replace(tape, visits=visits, short_s=short_s)


def _seconds(visit: Visit) -> float:
    asked_s = sum(event.seconds + event.gap_s for event in visit.events())
    return asked_s + sum(level.gap_s for level in visit.levels) + visit.tail_s


def _visit(visit: Visit, short_s: float) -> Visit:
    levels: list[Level] = []
    carried_s = 0.0
    for level in visit.levels:
        folded = [_chain(chain, short_s) for chain in level.chains]
        chains = tuple(chain for chain, _ in folded if chain)
        gap_s = carried_s + level.gap_s
        carried_s = max((after_s for _, after_s in folded), default=0.0)
        if chains or level.needs or level.gives:
            levels.append(replace(level, gap_s=gap_s, chains=chains))
        else:
            carried_s += gap_s
    return replace(visit, levels=tuple(levels), tail_s=carried_s + visit.tail_s)


def _chain(chain: Sequence[Event], short_s: float) -> tuple[tuple[Event, ...], float]:
    """What stays of a chain, and the seconds of own code behind it."""
    kept: list[Event] = []
    carried_s = 0.0
    for event in chain:
        carried_s += event.gap_s
        if event.role in (CREW, BODY) and event.seconds < short_s:
            carried_s += event.seconds
        else:
            kept.append(replace(event, gap_s=carried_s))
            carried_s = 0.0
    return tuple(kept), carried_s
