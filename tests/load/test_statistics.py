"""Early stopping, order statistics and slopes against tables and against simulation."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random

import pytest

from tauten.errors import InputError
from tauten.statistics import percentile_ranks, queries_needed
from tauten.statistics.early_stopping import allowed_misses, rule, too_many_misses
from tauten.statistics.order_statistics import effective_count, interval_needs
from tauten.statistics.trend import mean_interval, slope_interval, student_cdf, student_quantile

SEEN = (0, 1, 2, 5, 10, 20, 50)
TABLE = {
    0.90: (44, 64, 81, 127, 197, 325, 681),
    0.95: (90, 130, 165, 259, 398, 656, 1372),
    0.99: (459, 662, 838, 1307, 2010, 3304, 6898),
    0.999: (4603, 6636, 8403, 13105, 20140, 33097, 69058),
}


@pytest.mark.parametrize("q", TABLE)
def test_early_stopping_is_the_table_of_mlperf(q: float) -> None:
    assert tuple(queries_needed(q, seen) for seen in SEEN) == TABLE[q]


@pytest.mark.parametrize("q", TABLE)
def test_allowed_misses_is_the_table_read_backwards(q: float) -> None:
    for seen, n in zip(SEEN, TABLE[q], strict=True):
        assert allowed_misses(n, q) == seen
        assert allowed_misses(n - 1, q) == seen - 1


def test_a_ruling_is_met_missed_or_open() -> None:
    assert rule(662, 1, 0.99).proof == "met"
    assert rule(661, 1, 0.99).proof == "cannot conclude"
    assert rule(100, 30, 0.95).proof == "missed"
    few = rule(60, 2, 0.95)
    assert few.proof == "cannot conclude"
    assert few.needed is not None
    assert rule(few.needed, round(few.needed * 2 / 60), 0.95).proof != "cannot conclude"


def test_what_is_needed_without_a_miss_is_the_first_entry() -> None:
    assert rule(10, 0, 0.95).needed == 90
    assert rule(0, 0, 0.99).needed == 459


def test_a_share_on_the_line_is_never_settled() -> None:
    assert rule(1000, 50, 0.95).needed is None


def test_too_many_misses_mirror_the_allowed_ones() -> None:
    assert too_many_misses(100, 0.95) == 12  # P(X >= 12) = 0.0043, P(X >= 11) = 0.0115
    assert too_many_misses(2, 0.5) == 3  # not even two of two: P = 0.25


def test_false_verdicts_are_as_rare_as_said() -> None:
    """On the line, each verdict may be wrong in 1 % of runs: 20 of 2000 expected, 37 is four sigma."""
    draw = random.Random(5)
    seen = [sum(draw.random() < 0.05 for _ in range(400)) for _ in range(2000)]
    known = {misses: rule(400, misses, 0.95).proof for misses in set(seen)}
    proofs = [known[misses] for misses in seen]
    assert proofs.count("met") <= 37
    assert proofs.count("missed") <= 37


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688)])
def test_an_interval_needs_so_many(q: float, n: int) -> None:
    assert interval_needs(q) == n
    assert percentile_ranks(n, q) is not None
    assert percentile_ranks(n - 1, q) is None


def test_alike_neighbours_are_worth_less() -> None:
    draw = random.Random(1)
    alone = [draw.random() for _ in range(4000)]
    assert effective_count(alone) > 2000
    value, series = 0.0, []
    for _ in range(4000):
        value = 0.95 * value + draw.gauss(0, 1)  # worth n (1 - 0.95) / (1 + 0.95): about 103
        series.append(value)
    assert 40 < effective_count(series) < 300
    assert effective_count([3.0] * 100) == 100
    assert effective_count([1.0, 2.0]) == 2


@pytest.mark.parametrize(
    ("p", "freedom", "t"),
    [(0.975, 1, 12.7062), (0.975, 4, 2.7764), (0.975, 10, 2.2281), (0.995, 10, 3.1693), (0.95, 30, 1.6973)],
)
def test_students_quantiles_are_the_table(p: float, freedom: int, t: float) -> None:
    assert student_quantile(p, freedom) == pytest.approx(t, abs=1e-4)
    assert student_quantile(1 - p, freedom) == pytest.approx(-t, abs=1e-4)
    assert student_cdf(0.0, freedom) == 0.5


def test_the_interval_of_a_mean_needs_three_runs() -> None:
    assert mean_interval([1.0, 2.0]) is None
    found = mean_interval([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.low, found.mid, found.high) == pytest.approx((2 - 2.4841, 2, 2 + 2.4841), abs=1e-3)


def test_a_slope_is_found_and_no_slope_is_not() -> None:
    xs = [float(x) for x in range(10)]
    line = slope_interval(xs, [3 + 2 * x for x in xs])
    assert line is not None
    assert line.mid == pytest.approx(2)
    draw, wrong = random.Random(2), 0
    for _ in range(300):
        flat = slope_interval(xs, [draw.gauss(0, 1) for _ in xs], confidence=0.99)
        assert flat is not None
        wrong += not flat.low <= 0 <= flat.high
    assert wrong <= 10  # 3 expected
    assert slope_interval([1.0, 1.0, 1.0, 1.0], xs[:4]) is None
    assert slope_interval(xs[:3], xs[:3]) is None
    with pytest.raises(InputError, match="not pairs"):
        slope_interval(xs, xs[:3])
