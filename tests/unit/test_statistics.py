"""The maths of gates: tabulated values, guarantees by enumeration and simulation, properties."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.errors import InputError, InternalError
from tauten.statistics import (
    Histogram,
    binomial_cdf,
    block_bootstrap,
    clopper_pearson,
    items_needed,
    loss_interval,
    loss_p_value,
    median_interval,
    normal_quantile,
    paired_bootstrap,
    percentile,
    percentile_interval,
    percentile_ranks,
    queries_needed,
    round_to_total,
    smallest_provable_loss,
    wilson,
)

times = st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=80)


@st.composite
def counts(draw: st.DrawFn, most: int = 300) -> tuple[int, int]:
    n = draw(st.integers(1, most))
    return draw(st.integers(0, n)), n


@st.composite
def flips(draw: st.DrawFn, most: int = 60) -> tuple[int, int, int]:
    n = draw(st.integers(2, most))
    bad = draw(st.integers(0, n))
    return n, bad, draw(st.integers(0, n - bad))


# --- distributions and rates


def exact_cdf(k: int, n: int, p: float) -> float:
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


@pytest.mark.parametrize(
    ("k", "n", "p"), [(0, 1, 0.5), (3, 20, 0.2), (50, 100, 0.5), (7, 900, 0.01), (899, 900, 0.99)]
)
def test_binomial_cdf_is_the_sum_of_its_terms(k: int, n: int, p: float) -> None:
    assert binomial_cdf(k, n, p) == pytest.approx(exact_cdf(k, n, p), rel=1e-9)


def test_normal_quantiles_are_the_tabulated_ones() -> None:
    assert normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert normal_quantile(0.95) == pytest.approx(1.644854, abs=1e-6)
    assert normal_quantile(0.5) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (4, 20, 0.0573, 0.4366), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0)],
)
def test_clopper_pearson_is_the_tabulated_one(right: int, n: int, low: float, high: float) -> None:
    found = clopper_pearson(right, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_is_the_published_example() -> None:
    found = wilson(81, 263)  # Newcombe 1998, table I
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0


@given(counts(), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_rate_intervals_hold_the_rate_and_grow_with_confidence(
    count: tuple[int, int], confidence: float
) -> None:
    right, n = count
    for interval in (wilson, clopper_pearson):
        found, wider = interval(right, n, confidence), interval(right, n, (1 + confidence) / 2)
        assert 0.0 <= wider.low <= found.low <= right / n <= found.high <= wider.high <= 1.0


@given(counts(most=200))
@settings(max_examples=40, deadline=None)
def test_rate_intervals_rise_with_the_count(count: tuple[int, int]) -> None:
    right, n = count
    if right == n:
        right -= 1
    for interval in (wilson, clopper_pearson):
        assert interval(right, n).low <= interval(right + 1, n).low
        assert interval(right, n).high <= interval(right + 1, n).high


def test_clopper_pearson_never_covers_less_than_it_says() -> None:
    n = 30
    found = [clopper_pearson(k, n) for k in range(n + 1)]
    for rate in [i / 40 for i in range(1, 40)]:
        held = [k for k in range(n + 1) if found[k].low <= rate <= found[k].high]
        assert sum(math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in held) >= 0.95


@pytest.mark.parametrize(("right", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_rates_are_refused(right: int, n: int) -> None:
    with pytest.raises(InputError, match="no rate"):
        wilson(right, n)
    with pytest.raises(InputError, match="no rate"):
        clopper_pearson(right, n)


def test_impossible_confidence_is_refused() -> None:
    with pytest.raises(InputError, match="is not between 0 and 1"):
        wilson(1, 2, confidence=95)


# --- percentiles


def test_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([30.0, 10.0, 20.0], 0.5) == 20.0
    assert percentile([float(i) for i in range(1, 21)], 0.95) == 19.0
    assert percentile([5.0], 0.99) == 5.0
    with pytest.raises(InputError, match="no values"):
        percentile([], 0.5)


@pytest.mark.parametrize(("q", "n"), [(0.95, 72), (0.99, 368), (0.999, 3688), (0.5, 6)])
def test_percentile_interval_needs_enough_items(q: float, n: int) -> None:
    assert percentile_ranks(n - 1, q) is None
    assert percentile_ranks(n, q) is not None


@given(st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.95]))
@settings(max_examples=80, deadline=None)
def test_percentile_ranks_cover_and_are_tight(n: int, q: float) -> None:
    ranks = percentile_ranks(n, q)
    if ranks is None:
        assert q**n > 0.025 or (1 - q) ** n > 0.025
        return
    low, high = ranks
    below, above = binomial_cdf(low - 1, n, q), 1 - binomial_cdf(high - 1, n, q)
    assert below <= 0.025 + 1e-12
    assert above <= 0.025 + 1e-12
    assert binomial_cdf(low, n, q) > 0.025
    assert 1 - binomial_cdf(high - 2, n, q) > 0.025


def test_percentile_interval_covers_in_simulation() -> None:
    draw, held, runs = random.Random(1), 0, 400
    for _ in range(runs):
        found = percentile_interval([draw.expovariate(1.0) for _ in range(100)], 0.95)
        assert found is not None
        held += found.low <= -math.log(0.05) <= found.high
    assert held / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_median_interval_holds_the_median() -> None:
    assert median_interval([1.0, 2.0, 3.0]) is None
    assert median_interval([]) is None
    found = median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert found == (1.0, 3.0, 6.0, 6)


@pytest.mark.parametrize(
    ("q", "misses", "n"),
    [(0.9, 0, 44), (0.95, 0, 90), (0.99, 0, 459), (0.99, 1, 662), (0.99, 50, 6898), (0.999, 2, 8403)],
)
def test_early_stopping_counts_are_the_published_ones(q: float, misses: int, n: int) -> None:
    assert queries_needed(q, misses) == n


# --- paired right and wrong


def test_smallest_provable_loss_is_as_promised() -> None:
    assert round(100 * smallest_provable_loss(60), 2) == 4.87
    assert round(100 * smallest_provable_loss(299), 1) == 1.0
    assert smallest_provable_loss(60) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert smallest_provable_loss(60, bad=2) > smallest_provable_loss(60, bad=1) > smallest_provable_loss(60)


def test_without_flips_the_gate_proves_what_was_promised() -> None:
    assert loss_p_value(60, 0, 0, 0.0488) <= 0.05 < loss_p_value(60, 0, 0, 0.0485)
    assert loss_p_value(299, 0, 0, 0.01) <= 0.05 < loss_p_value(298, 0, 0, 0.01)


@functools.cache
def accepted_bad(n: int, margin: float, level: float) -> tuple[int, ...]:
    """For each count of good flips, the most bad flips that are still accepted (-1: none)."""
    most, reach = [], -1
    for good in range(n + 1):
        while reach + 1 + good <= n and loss_p_value(n, reach + 1, good, margin) <= level:
            reach += 1
        most.append(min(reach, n - good))
    return tuple(most)


def chance_of_acceptance(n: int, margin: float, level: float, bad_rate: float, good_rate: float) -> float:
    total = 0.0
    for good, most in enumerate(accepted_bad(n, margin, level)):
        for bad in range(most + 1):
            ways = math.comb(n, good) * math.comb(n - good, bad)
            same = 1 - bad_rate - good_rate
            total += ways * good_rate**good * bad_rate**bad * same ** (n - good - bad)
    return total


@pytest.mark.parametrize(("n", "margin"), [(20, 0.15), (30, 0.1)])
def test_false_accepts_never_exceed_the_level(n: int, margin: float) -> None:
    """Every outcome is enumerated: the chance to accept a change that loses exactly the margin."""
    sizes = []
    for step in range(41):
        good_rate = step / 40 * (1 - margin) / 2
        sizes.append(chance_of_acceptance(n, margin, 0.05, good_rate + margin, good_rate))
    assert max(sizes) <= 0.05
    assert max(sizes) > 0.02  # and the test is not empty


def test_false_accepts_in_simulation() -> None:
    draw, n, margin, runs = random.Random(7), 60, 0.05, 2000
    verdict = functools.cache(lambda bad, good: loss_p_value(n, bad, good, margin) <= 0.05)
    accepted = 0
    for _ in range(runs):
        seen = draw.choices(("bad", "good", "same"), (0.08, 0.03, 0.89), k=n)
        accepted += verdict(seen.count("bad"), seen.count("good"))
    assert accepted / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@given(flips())
@settings(max_examples=12, deadline=None)
def test_loss_interval_holds_the_loss_and_mirrors(case: tuple[int, int, int]) -> None:
    n, bad, good = case
    found, mirror = loss_interval(n, bad, good), loss_interval(n, good, bad)
    assert -1.0 <= found.low <= (bad - good) / n <= found.high <= 1.0
    assert found.low == pytest.approx(-mirror.high)


@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_a_bad_flip_never_helps_and_a_good_one_never_hurts(margin: float) -> None:
    n, slack = 12, 1e-4  # the good rates looked at move with the good flips; their error is kept aside
    for bad in range(n):
        for good in range(n - bad):
            here = loss_p_value(n, bad, good, margin)
            assert 0.0 <= here <= 1.0
            assert loss_p_value(n, bad + 1, good, margin) >= here - 1e-9
            assert loss_p_value(n, bad, good + 1, margin) <= here + slack
            if here < 0.2:  # the order of outcomes depends on the margin; far from any decision it may turn
                assert loss_p_value(n, bad, good, margin + 0.02) <= here + slack


def test_loss_bound_agrees_with_the_p_value() -> None:
    for case in [(60, 2, 1), (120, 0, 4), (200, 7, 3)]:
        high = loss_interval(*case).high
        assert loss_p_value(*case, high) <= 0.05 < loss_p_value(*case, high - 2e-4)


def test_items_needed_is_near_the_published_table() -> None:
    assert items_needed(0.01) == 299
    assert items_needed(0.05) == 59
    for margin, n in [(0.01, 2474), (0.02, 619), (0.05, 99)]:  # normal approximation, no room for two flips
        assert items_needed(margin, discordance=0.04) == n + 2 / margin
    assert items_needed(0.02, discordance=0.04, loss=0.01) > items_needed(0.02, discordance=0.04)
    with pytest.raises(InputError, match="no number of items"):
        items_needed(0.01, loss=0.01)


@pytest.mark.parametrize(("margin", "discordance"), [(0.1, 0.06), (0.05, 0.04)])
def test_items_needed_gives_about_the_promised_power(margin: float, discordance: float) -> None:
    n, runs, draw = items_needed(margin, discordance=discordance), 400, random.Random(3)
    verdict = functools.cache(lambda bad, good: loss_p_value(n, bad, good, margin) <= 0.05)
    accepted = 0
    for _ in range(runs):
        flip = discordance / 2
        seen = draw.choices(("bad", "good", "same"), (flip, flip, 1 - discordance), k=n)
        accepted += verdict(seen.count("bad"), seen.count("good"))
    assert 0.7 < accepted / runs < 0.9


def test_impossible_flips_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit"):
        loss_p_value(10, 6, 6, 0.1)
    with pytest.raises(InputError, match="not a share"):
        loss_p_value(10, 1, 1, 5)


# --- bootstraps


def test_paired_bootstrap_covers_in_simulation() -> None:
    draw, held, runs = random.Random(5), 0, 80
    for _ in range(runs):
        before = [draw.random() for _ in range(60)]
        after = [score - draw.expovariate(20.0) for score in before]  # true difference -0.05, skewed
        found = paired_bootstrap(before, after, resamples=400, seed=draw.randrange(2**32))
        assert found.low <= found.mid <= found.high
        held += found.low <= -0.05 <= found.high
    assert held / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_paired_bootstrap_repeats_with_its_seed_and_widens_with_clusters() -> None:
    draw = random.Random(2)
    shifts = [draw.gauss(0, 0.2) for _ in range(12)]
    before = [0.5] * 120
    after = [0.5 + shifts[item // 10] for item in range(120)]
    alone = paired_bootstrap(before, after, seed=4)
    assert alone == paired_bootstrap(before, after, seed=4)
    whole = paired_bootstrap(before, after, clusters=[item // 10 for item in range(120)], seed=4)
    assert whole.mid == pytest.approx(alone.mid)
    assert whole.high - whole.low > 2 * (alone.high - alone.low)


def test_one_sided_ends_lie_inside_two_sided_ones() -> None:
    before, after = [0.0, 0.2, 0.4, 0.9] * 10, [0.1, 0.1, 0.6, 0.8] * 10
    one, two = paired_bootstrap(before, after, sides=1), paired_bootstrap(before, after)
    assert two.low < one.low < one.high < two.high


def test_unpaired_series_are_refused() -> None:
    with pytest.raises(InputError, match="not pairs"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="not pairs"):
        block_bootstrap([], [])


def walk(draw: random.Random, n: int) -> list[float]:
    value, series = 0.0, []
    for _ in range(n):
        value = 0.9 * value + draw.gauss(0, 1)
        series.append(10 + value)
    return series


def test_block_bootstrap_knows_that_neighbours_agree() -> None:
    draw = random.Random(9)
    before, after = walk(draw, 400), walk(draw, 400)
    blocks = block_bootstrap(before, after, block=40, resamples=300)
    single = block_bootstrap(before, after, block=1, resamples=300)
    assert blocks.high - blocks.low > 2 * (single.high - single.low)
    assert blocks == block_bootstrap(before, after, block=40, resamples=300)


def test_block_bootstrap_finds_a_constant_gain_in_any_statistic() -> None:
    before = walk(random.Random(4), 200)
    after = [value - 3 for value in before]
    for statistic in (lambda v: percentile(v, 0.95), lambda v: sum(v) / len(v)):
        found = block_bootstrap(before, after, statistic, resamples=200)
        assert (found.low, found.mid, found.high) == pytest.approx((-3, -3, -3))


# --- histograms


@given(times, st.sampled_from([0.0, 0.05, 0.5, 0.95, 0.99, 1.0]))
@settings(max_examples=100, deadline=None)
def test_histogram_quantiles_are_within_one_percent(values: list[float], q: float) -> None:
    histogram = Histogram(values)
    assert histogram.quantile(q) == pytest.approx(percentile(values, q), rel=0.0100001)
    assert histogram.low <= histogram.quantile(q) <= histogram.high


@given(times, times)
@settings(max_examples=60, deadline=None)
def test_merged_histograms_equal_one_of_everything(left: list[float], right: list[float]) -> None:
    merged, whole = Histogram(left), Histogram([*left, *right, 0.0])
    merged.merge(Histogram([*right, 0.0]))
    assert (merged.buckets, merged.zeros, merged.n) == (whole.buckets, whole.zeros, whole.n)
    assert (merged.low, merged.high) == (whole.low, whole.high)
    assert merged.total == pytest.approx(whole.total)


def test_histogram_keeps_zeros_and_intervals() -> None:
    histogram = Histogram([0.0] * 6 + [float(i) for i in range(1, 95)])
    assert histogram.quantile(0.05) == 0.0
    exact = percentile_interval([0.0] * 6 + [float(i) for i in range(1, 95)], 0.95)
    found = histogram.interval(0.95)
    assert exact is not None
    assert found == pytest.approx(exact, rel=0.01)
    assert Histogram([1.0]).interval(0.5) is None


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_histogram_refuses_what_it_cannot_count(value: float) -> None:
    with pytest.raises(InputError, match="cannot count"):
        Histogram([value])


def test_histograms_of_other_error_do_not_merge() -> None:
    with pytest.raises(InternalError, match="relative error"):
        Histogram().merge(Histogram(relative_error=0.02))
    with pytest.raises(InputError, match="no values"):
        Histogram().quantile(0.5)


# --- rounding


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=40), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_rounded_rows_add_up(values: list[float], digits: int) -> None:
    total, unit = math.fsum(values), 10.0**-digits
    rounded = round_to_total(values, total, digits)
    assert round(sum(rounded) / unit) == round(total / unit)
    assert all(abs(value - row) < unit * 1.0001 for value, row in zip(values, rounded, strict=True))


def test_rounding_keeps_empty_rows_empty_and_refuses_open_books() -> None:
    assert round_to_total([1.4, 0.0, 1.4, 1.4], 4.2) == [2, 0, 1, 1]
    with pytest.raises(InternalError, match="the total says"):
        round_to_total([1.0, 2.0], 30.0)


def test_import_needs_neither_numpy_nor_scipy() -> None:
    code = "import sys, tauten.statistics as s; sys.exit(any(m in sys.modules for m in ('numpy', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
