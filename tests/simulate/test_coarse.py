"""A tape in fewer pieces takes as long, and asks models for the same."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from tauten.improve.simulate.coarse import coarse
from tauten.improve.simulate.tape import BODY, CREW, Event, Level, Tape, Visit


def one(visit: Visit) -> Visit:
    return coarse(Tape("id", {}, {"step": visit, "long": Visit((), 1.0)}, {}, 0.0, 0.0)).visits["step"]


def seconds(visit: Visit) -> float:
    """Of a visit whose levels have one chain each."""
    return visit.own_s() + sum(event.seconds for event in visit.events())


def test_short_pieces_in_threads_become_own_code() -> None:
    levels = (
        Level(1e-5, ((Event(CREW, 2e-4),),)),
        Level(1e-4, ((Event("model", 1e-5), Event(CREW, 3e-4)),)),
        Level(0.0, ((Event(BODY, 2e-5), Event(CREW, 0.005)),)),
    )
    visit = Visit(levels, 1e-5)
    found = one(visit)
    assert [event.role for event in found.events()] == ["model", CREW], (
        "a model is asked, however short it is"
    )
    assert seconds(found) == pytest.approx(seconds(visit))
    assert found.levels[0].gap_s == pytest.approx(1e-5 + 2e-4 + 1e-4)


def test_what_waits_for_a_stream_or_gives_stays() -> None:
    levels = (
        Level(1e-5, needs="first"),
        Level(1e-5, ((Event(CREW, 1e-4),),), gives="first"),
        Level(1e-5, needs="end"),
    )
    found = one(Visit(levels))
    assert [(level.needs, level.gives, level.chains) for level in found.levels] == [
        ("first", "", ()),
        ("", "first", ()),
        ("end", "", ()),
    ]
    assert seconds(found) == pytest.approx(seconds(Visit(levels)))


def test_chains_side_by_side_take_as_long_as_the_longest() -> None:
    chains = ((Event("model", 0.1), Event(CREW, 1e-4)), (Event(CREW, 3e-4),), (Event("model", 0.1),))
    found = one(Visit((Level(0.0, chains),), 0.0))
    assert [[event.role for event in chain] for chain in found.levels[0].chains] == [["model"], ["model"]]
    assert found.tail_s == pytest.approx(3e-4)
