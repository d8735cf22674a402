"""Repeats of a request read their prompt as a request does that comes for the first time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.improve.simulate.tape import Event, Level, Tape, Visit
from tauten.improve.simulate.unseen import unseen

SHARED = 800.0  # tokens of every prompt
TOKEN_S = 0.002


def request(id: str, weight: float, cached: float, *, plain_s: float = 0.01) -> Tape:
    """A stream that reads so much of its prompt and gives eleven tokens in a second, behind something else."""
    fresh = weight - cached
    first_s = fresh * TOKEN_S
    stream = Event("llm", first_s + 1.0, weight, tokens=11.0, fresh=fresh, first_s=first_s, stream=True)
    levels = (Level(0.0, ((Event("tokenizer", plain_s),),)), Level(0.0, ((stream,),)))
    return Tape(id, {}, {"generate": Visit(levels)}, {}, first_s + 1.0 + plain_s, first_s)


def streams(tape: Tape) -> list[tuple[float, float, float]]:
    return [
        (event.fresh, round(event.first_s, 6), round(event.seconds, 6))
        for event in tape.visits["generate"].events()
        if event.stream
    ]


def test_a_repeat_reads_what_its_first_time_read() -> None:
    first = [request("a", 900.0, 0.0), request("b", 950.0, SHARED), request("c", 1000.0, SHARED)]
    again = {each.id: [request(each.id, 900.0 + 50.0 * place, 890.0)] for place, each in enumerate(first)}
    found = unseen(first, again)
    assert streams(found["b"][0]) == [(150.0, 0.3, 1.3)]
    assert streams(found["c"][0]) == [(200.0, 0.4, 1.4)]


def test_the_very_first_one_reads_what_no_other_had_left_it() -> None:
    first = [request("a", 900.0, 0.0), request("b", 950.0, SHARED), request("c", 1000.0, SHARED + 20.0)]
    found = unseen(first, {each.id: [request(each.id, 900.0, 899.0)] for each in first})
    assert streams(found["a"][0]) == [(100.0, 0.2, 1.2)]


def test_engines_that_keep_nothing_and_what_is_no_stream_are_left_as_they_are() -> None:
    first = [request("a", 900.0, 0.0, plain_s=0.5), request("b", 950.0, 0.0, plain_s=0.5)]
    again = {"a": [request("a", 900.0, 0.0)], "b": [request("b", 950.0, 0.0)]}
    assert unseen(first, again) == again


def test_a_repeat_that_went_another_way_is_left_as_it_is() -> None:
    first = [request("a", 900.0, 0.0), request("b", 950.0, SHARED)]
    silent = Tape("b", {}, {"generate": Visit((Level(0.0),))}, {}, 0.0, 0.0)
    assert unseen(first, {"a": [first[0]], "b": [silent]})["b"] == [silent]
