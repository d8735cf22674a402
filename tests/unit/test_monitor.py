"""The watch rarely cries wolf, however long it is listened to, and cries soon when errors begin."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from tauten.errors import InputError
from tauten.statistics.monitor import STAKES, Watch, stakes
from tauten.statistics.rates import first_count

EPSILON, ALPHA, FLOOR = 0.02, 0.05, 0.02


def watch() -> Watch:
    return Watch(EPSILON, ALPHA, FLOOR)


def alarms(worlds: int, steps: int, one: Callable[[Watch, random.Random], bool], seed: int) -> int:
    """In how many worlds the watch cries within so many verified shortcuts."""
    draw, found = random.Random(seed), 0
    for _ in range(worlds):
        seen = watch()
        found += any(one(seen, draw) for _ in range(steps))
    return found


def even(seen: Watch, draw: random.Random) -> bool:
    """As many errors as were promised, each shortcut as likely to be verified."""
    return seen.observe(draw.random() < EPSILON, FLOOR)


def uneven(seen: Watch, draw: random.Random) -> bool:
    """Half of the shortcuts are close to the threshold: verified five times as often, and wrong at 4 %."""
    while True:
        close = draw.random() < 0.5
        chance = 5 * FLOOR if close else FLOOR
        if draw.random() < chance:
            return seen.observe(close and draw.random() < 2 * EPSILON, chance)


@pytest.mark.parametrize("traffic", [even, uneven])
def test_false_alarms_are_as_rare_as_it_says(traffic: Callable[[Watch, random.Random], bool]) -> None:
    worlds = 150
    assert alarms(worlds, 800, traffic, seed=21) <= first_count(worlds, ALPHA, 0.9999)


@pytest.mark.slow
@pytest.mark.parametrize("traffic", [even, uneven])
def test_false_alarms_stay_rare_over_a_long_time(traffic: Callable[[Watch, random.Random], bool]) -> None:
    worlds = 600
    assert alarms(worlds, 4000, traffic, seed=22) <= first_count(worlds, ALPHA, 0.9999)


def test_without_the_weights_it_would_cry_for_nothing() -> None:
    def unweighted(seen: Watch, draw: random.Random) -> bool:
        close = draw.random() < 5 / 6  # of those that are drawn
        return seen.observe(close and draw.random() < 2 * EPSILON, FLOOR)

    worlds = 60
    assert alarms(worlds, 2500, unweighted, seed=23) > first_count(worlds, ALPHA, 0.9999)


def delay(before: int, rate: float, draw: random.Random, most: int = 3000) -> int:
    """Verified shortcuts from the moment when errors begin until it cries; -1 where it cried before."""
    seen = watch()
    for _ in range(before):
        if seen.observe(draw.random() < EPSILON / 4, FLOOR):
            return -1
    for step in range(most):
        if seen.observe(draw.random() < rate, FLOOR):
            return step + 1
    return most


@pytest.mark.parametrize(("before", "rate", "within"), [(0, 0.3, 40), (1000, 0.3, 60), (1000, 0.1, 350)])
def test_errors_that_begin_late_are_heard_soon(before: int, rate: float, within: int) -> None:
    draw = random.Random(24)
    delays = sorted(delay(before, rate, draw) for _ in range(41))
    assert delays[0] > 0
    assert delays[20] <= within


def test_good_times_hold_it_back_by_little() -> None:
    draw = random.Random(25)
    early = sorted(delay(50, 0.2, draw) for _ in range(41))[20]
    late = sorted(delay(5000, 0.2, draw) for _ in range(41))[20]
    assert late < 3 * early


def test_what_was_shown_once_stays_shown() -> None:
    seen = watch()
    while not seen.observe(True, FLOOR):
        pass
    for _ in range(2000):
        seen.observe(False, FLOOR)
    assert seen.refuted
    assert seen.evidence * ALPHA < 1.0


def test_no_fortune_turns_negative() -> None:
    seen = Watch(0.4, ALPHA, 1.0)
    for step in range(500):
        seen.observe(step % 7 == 0, 1.0)
        assert min(seen.fortunes) >= 0.0
    assert all(stake * 0.4 < 1.0 for stake in stakes(0.4))
    assert stakes(0.02) == STAKES


def test_the_rate_weighs_each_for_those_that_it_stands_for() -> None:
    seen = watch()
    for _ in range(5):
        seen.observe(True, 5 * FLOOR)
    seen.observe(False, FLOOR)
    assert seen.rate == pytest.approx(0.5)
    assert (seen.n, seen.wrong) == (6, 5)
    assert watch().rate is None


def test_it_survives_as_plain_data() -> None:
    draw, seen = random.Random(26), watch()
    for _ in range(100):
        seen.observe(draw.random() < 0.1, FLOOR)
    again = msgspec.json.decode(msgspec.json.encode(seen), type=Watch)
    assert again == seen
    assert again.observe(True, FLOOR) == seen.observe(True, FLOOR)
    assert again == seen


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match="chance"):
        watch().observe(True, FLOOR / 2)
    with pytest.raises(InputError, match="least chance"):
        Watch(EPSILON, ALPHA, 0.0)
