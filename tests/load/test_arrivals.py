"""Schedules: made beforehand, the same for a seed, with the rate and the spread that were asked for."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest

from tauten.errors import InputError
from tauten.improve.load.arrivals import KINDS, Arrivals, parse_arrivals
from tauten.improve.load.schedule import Load

RECORDED = [2.0, 2.5, 4.0, 6.0]


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_schedule(kind: str) -> None:
    arrivals = Arrivals(kind=kind)  # type: ignore[arg-type]
    once = arrivals.due(20.0, duration_s=60.0, seed=3, recorded=RECORDED)
    assert once == arrivals.due(20.0, duration_s=60.0, seed=3, recorded=RECORDED)
    assert once == sorted(once)
    assert all(0 <= at <= 60.0 for at in once)
    if kind not in ("constant", "recorded"):
        assert once != arrivals.due(20.0, duration_s=60.0, seed=4, recorded=RECORDED)


@pytest.mark.parametrize(("text", "cv2"), [("poisson", 1.0), ("gamma:4", 4.0), ("gamma:0.25", 0.25)])
def test_the_gaps_have_their_mean_and_spread(text: str, cv2: float) -> None:
    found = gaps(parse_arrivals(text).due(50.0, count=40_000, seed=1))
    mean = statistics.fmean(found)
    assert mean == pytest.approx(1 / 50, rel=0.04)
    assert statistics.pvariance(found) / mean**2 == pytest.approx(cv2, rel=0.1)


def test_constant_arrivals_do_not_drift() -> None:
    found = Arrivals(kind="constant").due(7.0, count=70_001)
    assert found[0] == 0.0
    assert found[-1] == 10_000.0


def test_recorded_times_keep_their_gaps_and_begin_again() -> None:
    found = Arrivals(kind="recorded").due(0.0, count=6, recorded=RECORDED)
    assert found[:4] == [0.0, 0.5, 2.0, 4.0]
    assert found[4] - found[3] == pytest.approx(4.0 / 3)  # the mean gap of the recording
    assert found[5] - found[4] == pytest.approx(0.5)


def test_recorded_times_stretch_to_a_rate() -> None:
    found = Arrivals(kind="recorded").due(10.0, count=4000, recorded=RECORDED)
    assert len(found) / found[-1] == pytest.approx(10.0, rel=0.01)
    first = gaps(found[:4])
    assert first[1] / first[0] == pytest.approx(3.0)


def test_bursts_are_ten_times_the_rate_and_then_over() -> None:
    found = parse_arrivals("bursts:10x5/60").due(20.0, duration_s=600.0, seed=1)
    within = [at for at in found if 27.5 <= at % 60.0 < 32.5]
    assert len(within) / 50.0 == pytest.approx(200.0, rel=0.05)
    assert (len(found) - len(within)) / 550.0 == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize(
    "text",
    [
        "gamma:x",
        "gamma:0",
        "gamma:inf",
        "gamma:1e-320",
        "bursts:2",
        "bursts:10x60/60",
        "constant:3",
        "even",
        "",
    ],
)
def test_arrivals_that_are_not_understood(text: str) -> None:
    with pytest.raises(InputError, match="arrivals") as caught:
        parse_arrivals(text)
    assert caught.value.code == "E260"
    assert caught.value.help


def test_schedules_that_cannot_be() -> None:
    for ask in (
        lambda: Arrivals().due(0.0, count=1),
        lambda: Arrivals().due(math.inf, count=1),
        lambda: Arrivals(kind="recorded").due(math.inf, count=1, recorded=[0.0, 1.0]),
        lambda: Arrivals().due(1.0),
        lambda: Arrivals(kind="recorded").due(1.0, count=1),
        lambda: Arrivals(kind="recorded").due(0.0, count=2, recorded=[1.0, 1.0]),
        lambda: Load(rate_per_s=0.001, duration_s=1.0).schedule(1),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        assert caught.value.code == "E246"


def test_the_warm_up_is_a_tenth_more_and_due_before_zero() -> None:
    made = Load(rate_per_s=100.0, duration_s=20.0, seed=1).schedule(3)
    warm = [at for at in made.due if at < 0]
    assert made.warm_up_s == 2.0
    assert len(warm) == pytest.approx(200, abs=50)
    assert made.due[-1] <= 20.0
    assert made.items[:4] == [0, 1, 2, 0]


def test_so_many_requests_are_measured() -> None:
    for warm_up_s, before in ((-1.0, 50), (0.0, 0)):
        made = Load(rate_per_s=10.0, requests=500, warm_up_s=warm_up_s).schedule(1)
        assert sum(at >= 0 for at in made.due) == 500
        assert len(made) == 500 + before
        assert made.window_s == pytest.approx(50.0, rel=0.2)


def test_each_round_has_a_fresh_seed() -> None:
    load = Load(rate_per_s=10.0, requests=50)
    assert load.schedule(1, turn=0).due == load.schedule(1, turn=0).due
    assert load.schedule(1, turn=0).due != load.schedule(1, turn=1).due
