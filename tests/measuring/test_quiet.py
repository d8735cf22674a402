"""Whether others had the machine, and what is repeated when they had."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest

import pytest

from tauten.improve.measuring import quiet
from tauten.improve.measuring.quiet import Watch, settled


class Books:
    """Seconds on the wall, of all cores, of this process; moved by hand."""

    def __init__(self) -> None:
        self.wall = self.all = self.own = 0.0

    def watch(self, cores: int = 2) -> Watch:
        return Watch(cores, lambda: self.wall, lambda: self.all, lambda: self.own)

    def pass_by(self, wall: float, own: float, others: float) -> None:
        self.wall, self.own, self.all = self.wall + wall, self.own + own, self.all + own + others


def test_examples() -> None:
    assert doctest.testmod(quiet).failed == 0


def test_what_others_had_is_a_share_of_all_cores() -> None:
    books = Books()
    watch = books.watch()
    books.pass_by(1.0, own=1.5, others=0.5)
    assert watch.share() == pytest.approx(0.25)
    books.pass_by(1.0, own=2.0, others=0.0)
    assert watch.share() == 0.0


def test_the_own_ticks_are_no_negative_others() -> None:
    books = Books()
    watch = books.watch()
    books.pass_by(1.0, own=1.0, others=-0.02)
    assert watch.share() == 0.0


def test_too_short_a_time_is_not_judged_but_not_forgotten() -> None:
    books = Books()
    watch = books.watch()
    books.pass_by(0.1, own=0.1, others=0.1)
    assert watch.share() == 0.0
    books.pass_by(0.3, own=0.3, others=0.1)
    assert watch.share() == pytest.approx(0.2 / 0.8)


def test_a_system_that_does_not_tell_is_quiet() -> None:
    books = Books()
    watch = Watch(2, lambda: books.wall, lambda: None, lambda: 0.0)
    books.wall = 5.0
    assert watch.share() == 0.0


def test_this_machine_tells_or_does_not() -> None:
    found = quiet.machine_seconds()
    assert found is None or found > 0.0


def measured(shares: list[float], values: list[float]) -> quiet.Settled:
    """`shares` of the rounds in turn; each is asked for before and after the round."""
    left, told = iter(values), iter([each for share in shares for each in (0.9, share)])
    return settled(lambda: next(left), lambda: next(told))


def test_quiet_rounds_are_not_repeated() -> None:
    found = measured([0.0] * 5, [5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.value, found.others, found.tries) == (3.0, 0.0, 5)
    assert found.note("x") == ""


def test_disturbed_rounds_are_repeated_and_left_out() -> None:
    found = measured([0.5, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0], [99.0, 1.0, 2.0, 98.0, 3.0, 4.0, 5.0])
    assert (found.value, found.others, found.tries) == (3.0, 0.0, 7)


def test_the_quietest_count_where_none_was_quiet() -> None:
    shares = [0.9 - place / 20 for place in range(15)]
    found = measured(shares, [float(place) for place in range(15)])
    assert (found.value, found.tries) == (12.0, 15)
    assert found.others == pytest.approx(shares[10])
    assert found.note("copy").startswith("copy: others had 40 % of the machine")
