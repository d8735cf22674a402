"""Rounds take turns, disturbed ones are repeated, what fails says why, and ratios are those of pairs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tauten.errors import BackendError
from tauten.improve.headlines.rounds import Measure, Reading, Rounds, Trial, interleaved, lines

MS = {"time": Measure("ms", headline=True)}


def trial(name: str, log: list[tuple[int, str]], factor: float = 1.0) -> Trial:
    async def once(turn: int) -> Reading:
        log.append((turn, name))
        return {("case", "time"): factor * (turn + 1)}

    return once


def ran(trials: dict[str, Trial], count: int, shares: Iterator[float] | None = None, seed: int = 0) -> Rounds:
    told = shares or iter([0.0] * 100)
    return asyncio.run(interleaved(trials, count, share=lambda: next(told), say=lambda text: None, seed=seed))


def test_each_setting_runs_once_a_round_in_an_order_of_the_seeds() -> None:
    orders = []
    for seed in (0, 0, 1):
        log: list[tuple[int, str]] = []
        found = ran({name: trial(name, log) for name in "abc"}, 8, seed=seed)
        assert [turn for turn, _ in log] == [turn for turn in range(8) for _ in "abc"]
        assert all({name for turn, name in log if turn == at} == set("abc") for at in range(8))
        assert [len(each) for each in found.readings.values()] == [8, 8, 8]
        orders.append(log)
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(orders[0][at * 3 : at * 3 + 3]) for at in range(8)}) == 8
    assert len({tuple(name for _, name in orders[0][at * 3 : at * 3 + 3]) for at in range(8)}) > 1


def test_disturbed_rounds_are_repeated_and_count_when_they_do_not_end() -> None:
    log: list[tuple[int, str]] = []
    once = ran({"a": trial("a", log)}, 3, iter([0.0, 0.5, 0.01, 0.02, 0.03]))
    assert (once.repeated, once.others, once.typical, once.worst) == (1, [0.01, 0.02, 0.03], 0.02, 0.03)
    assert once.notes == ["1 rounds were disturbed and repeated"]
    always = ran({"a": trial("a", log)}, 3, iter([0.5] * 100))
    assert (always.repeated, always.others) == (2, [0.5, 0.5, 0.5])
    assert ran({"a": trial("a", log)}, 1, iter([0.5] * 100)).repeated == 0


def test_what_fails_says_why_and_the_others_go_on() -> None:
    async def fails(turn: int) -> Reading:
        if turn == 1:
            raise BackendError("it is gone", help="none")
        return {("case", "time"): 1.0}

    found = ran({"a": trial("a", []), "b": fails}, 4)
    assert (len(found.readings["a"]), found.readings["b"]) == (4, [])
    assert found.failed["b"].endswith("it is gone")
    assert ran({"b": fails}, 4).readings == {"b": []}


def test_a_line_has_medians_with_intervals_and_the_ratios_of_pairs() -> None:
    log: list[tuple[int, str]] = []
    found = ran({"naive": trial("n", log, 10.0), "best": trial("b", log, 4.0), "ours": trial("o", log)}, 7)
    [line] = lines(found.readings, MS, naive="naive", zero_effort="best", ours="ours")
    assert (line.case, line.what, line.unit, line.headline) == ("case", "time", "ms", True)
    assert (line.cells["ours"].mid, line.cells["ours"].n) == (4.0, 7)
    assert line.cells["ours"].low is not None
    assert line.to_naive is not None
    assert (round(line.to_naive.mid, 9), round(line.to_naive.low or 0, 9)) == (
        0.1,
        0.1,
    )  # the drift is in both
    assert line.to_zero_effort is not None
    assert line.to_zero_effort.mid == 0.25


def test_few_rounds_have_no_interval_and_a_missing_baseline_no_ratio() -> None:
    found = ran({"ours": trial("o", [])}, 2)
    [line] = lines(found.readings, MS, naive="naive", zero_effort="ours", ours="ours")
    assert (line.cells["ours"].mid, line.cells["ours"].n, line.cells["ours"].low) == (1.5, 2, None)
    assert line.to_naive is None
    assert line.to_zero_effort is None
