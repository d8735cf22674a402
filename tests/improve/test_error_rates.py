"""Error rates of the gate: false accepts at the margin stay within 5 %, counted exactly or by simulation."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator

import pytest

from improve.kit_labels import compared
from tauten.improve.labels.judgements import Judgement
from tauten.improve.labels.pairs import Comparison
from tauten.improve.labels.progress import Progress
from tauten.improve.quality import exact_decision
from tauten.statistics import holm, loss_p_value, predicted_interval
from tauten.statistics.paired import _score
from tauten.statistics.rates import binomial_pmf

ERROR = 0.05
Z = 1.6448536269514722  # 95 % of the normal lie below
RARE = 1e-6  # outcomes rarer than this are left out of the sums


def within(count: int, runs: int) -> bool:
    """Not more often than 5 %, as far as so many runs can tell (three standard errors)."""
    return count / runs <= ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / runs)


# -- right and wrong: the exact test, and why not Tango's interval ---------------------------------------------


def outcomes(n: int, bad: float, good: float) -> Iterator[tuple[int, int, float]]:
    """Counts of bad and good flips with their chance."""
    for bads in range(n + 1):
        first = binomial_pmf(bads, n, bad)
        for goods in range(n - bads + 1) if first > RARE else ():
            chance = first * binomial_pmf(goods, n - bads, good / (1 - bad))
            if chance > RARE:
                yield bads, goods, chance


def accepts(n: int, bad: float, good: float, accepted: Callable[[int, int], bool]) -> float:
    """How often a rule accepts at these true rates of flips."""
    return math.fsum(chance for bads, goods, chance in outcomes(n, bad, good) if accepted(bads, goods))


def exactly(n: int, margin: float) -> Callable[[int, int], bool]:
    p_value = functools.cache(loss_p_value)
    return lambda bad, good: p_value(n, bad, good, margin) <= ERROR


def by_tango(n: int, margin: float) -> Callable[[int, int], bool]:
    return lambda bad, good: _score(n, bad, good, margin) > Z


@pytest.mark.parametrize(("n", "margin", "good"), [(57, 0.05, 0.0), (60, 0.05, 0.05), (120, 0.05, 0.0)])
def test_at_the_margin_the_exact_test_keeps_its_level_and_tangos_interval_does_not(
    n: int, margin: float, good: float
) -> None:
    assert accepts(n, margin + good, good, exactly(n, margin)) <= ERROR
    assert accepts(n, margin + good, good, by_tango(n, margin)) > ERROR


@pytest.mark.parametrize(("n", "margin"), [(60, 0.05), (120, 0.05)])
def test_a_harmless_change_is_accepted_nearly_as_often_by_the_exact_test(n: int, margin: float) -> None:
    """So the exact one is not needlessly wide: verdicts use it alone."""
    exact = accepts(n, 0.01, 0.01, exactly(n, margin))
    tango = accepts(n, 0.01, 0.01, by_tango(n, margin))
    assert tango - 0.08 < exact <= tango + 1e-9


# -- many candidates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("common", [0.0, 0.9], ids=["independent", "alike"])
def test_of_many_harmful_candidates_none_passes_more_often_than_one_alone_may(common: float) -> None:
    draw, runs, false = random.Random(5), 2000, 0
    for _ in range(runs):
        shared = draw.random()
        p_values = [shared if draw.random() < common else draw.random() for _ in range(6)]
        levels = holm(6, lambda which, level, p=p_values: p[which] <= level, ERROR)  # type: ignore[misc]
        false += any(p <= level for p, level in zip(p_values, levels, strict=True))
    assert within(false, runs)


def test_of_candidates_at_the_margin_beside_good_ones_few_pass() -> None:
    """Real paired counts: two candidates lose just the margin, three lose nothing and are set aside first."""
    draw, runs, false, found, n, margin = random.Random(6), 400, 0, 0, 140, 0.05
    for _ in range(runs):
        bads = [sum(draw.random() < rate for _ in range(n)) for rate in (margin, margin, 0.0, 0.0, 0.0)]

        def passes(which: int, level: float, bads: list[int] = bads) -> bool:
            return exact_decision(n, bads[which], 0, margin, 1.0 - level)[0] == "accept"

        levels = holm(5, passes, ERROR)
        false += any(passes(which, levels[which]) for which in (0, 1))
        found += all(passes(which, levels[which]) for which in (2, 3, 4))
    assert within(false, runs)
    assert found == runs


# -- labels that come one by one -------------------------------------------------------------------------------


def labelled(comparison: Comparison, opinions: dict[str, int]) -> Comparison:
    """The same comparison after one person said this: 1 prefers the answer before, -1 the one after."""
    choices = {1: "left", -1: "right", 0: "equal"}
    said = [
        Judgement(
            item, *(each.content for each in comparison.answers[item]), choices[opinion], 1.0, "ada", ""
        )  # type: ignore[arg-type]
        for item, opinion in opinions.items()
    ]
    return Comparison(comparison.answers, said)


def stopped(blank: Comparison, truth: dict[str, int], margin: float) -> Progress:
    """Label one pair after another until the verdict stands, looking after each."""
    said: dict[str, int] = {}
    progress = Progress(blank, margin)
    for item, opinion in truth.items():
        if progress.decision != "cannot conclude":
            break
        said[item] = opinion
        progress = Progress(labelled(blank, said), margin)
    return progress


def test_looking_after_each_label_accepts_no_more_than_looking_once() -> None:
    draw, runs, items, margin, false = random.Random(7), 60, 40, 0.1, 0
    blank = compared(items, items)
    for _ in range(runs):
        truth = {f"q{i}": int(draw.random() < margin) for i in range(items)}
        early = stopped(blank, truth, margin)
        full = exact_decision(items, sum(truth.values()), 0, margin)[0]
        assert early.decision == full
        false += early.decision == "accept"
    assert within(false, runs)


@pytest.mark.parametrize(("opinion", "decision", "labels"), [(0, "accept", 49), (1, "reject", 35)])
def test_labelling_ends_once_no_missing_label_could_change_it(
    opinion: int, decision: str, labels: int
) -> None:
    """Of 50 items one may be worse at a margin of ten points; the last label is not needed."""
    early = stopped(compared(50, 50), {f"q{i}": opinion for i in range(50)}, 0.1)
    assert early.decision == decision
    assert early.labelled <= labels


# -- a judge that errs ---------------------------------------------------------------------------------------


def blind(said: int, draw: random.Random) -> int:
    return 0


def contrary(said: int, draw: random.Random) -> int:
    return -1 if said == 1 else said


def noisy(said: int, draw: random.Random) -> int:
    return said if draw.random() < 0.7 else draw.choice([-1, 0, 1])


def flattering(said: int, draw: random.Random) -> int:
    return said if draw.random() < 0.5 else -1


@pytest.mark.parametrize("judge", [blind, contrary, noisy, flattering])
@pytest.mark.parametrize(("people", "bad", "good"), [(60, 0.05, 0.0), (60, 0.3, 0.2), (30, 0.15, 0.05)])
def test_the_bound_with_a_judge_covers_the_loss_however_the_judge_errs(
    judge: Callable[[int, random.Random], int], people: int, bad: float, good: float
) -> None:
    draw, runs, items, differs = random.Random(11), 200, 400, 0.3
    too_low = too_high = 0
    for _ in range(runs):
        truth = [
            draw.choices([1, -1, 0], [bad, good, 1 - bad - good])[0]
            for _ in range(sum(draw.random() < differs for _ in range(items)))
        ]
        seen = [float(judge(said, draw)) for said in truth]
        corrections = [said - guess for said, guess in zip(truth[:people], seen, strict=False)]
        bounds = predicted_interval(items, seen, corrections)
        loss = differs * (bad - good)
        too_low += bounds.high < loss
        too_high += bounds.low > loss
    assert within(too_low, runs)
    assert within(too_high, runs)


def test_a_good_judge_narrows_the_bound_and_none_pretends_certainty() -> None:
    draw = random.Random(12)
    truth = [draw.choice([1, -1, 0]) for _ in range(300)]
    judged = [float(said if draw.random() < 0.9 else 0) for said in truth]
    with_judge = predicted_interval(1000, judged, [t - j for t, j in zip(truth[:60], judged, strict=False)])
    alone = predicted_interval(1000, [0.0] * 300, [float(said) for said in truth[:60]])
    assert with_judge.high - with_judge.mid < 0.7 * (alone.high - alone.mid)
    assert predicted_interval(1000, [0.0] * 300, [0.0] * 60).high > 0.3 * 3 / 60
