"""The screen of an optimisation, and what it says: golden text, and figures that are nobody's but the result's."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import msgspec
import pytest

from improve import kit_report
from tauten.improve.optimizer.outcome import Candidate, Optimized, from_json, to_json
from tauten.improve.optimizer.search import Figures
from tauten.improve.quality import Verdict
from tauten.improve.report import summary
from tauten.improve.report.screen import to_text

GOLDEN = Path(__file__).parent / "golden"
SCREENS = {
    "met": lambda: to_text(kit_report.met()),
    "missed": lambda: to_text(kit_report.missed()),
    "hostile": lambda: to_text(kit_report.hostile(), all_rows=True),
}


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_is_the_golden_one(name: str) -> None:
    """After a change that is meant: TAUTEN_WRITE_GOLDEN=1 pytest, then read the difference."""
    path, seen = GOLDEN / f"optimize_{name}.txt", SCREENS[name]()
    if os.environ.get("TAUTEN_WRITE_GOLDEN"):
        path.write_text(seen, encoding="utf-8")
    assert seen == path.read_text(encoding="utf-8")
    assert max(map(len, seen.splitlines())) <= 96
    assert "\x1b" not in seen


def test_a_result_read_back_prints_the_same() -> None:
    for found in (kit_report.met(), kit_report.missed()):
        again = from_json(to_json(found))
        assert to_text(again) == to_text(found)


def test_times_that_never_ended_come_back_from_the_document() -> None:
    found = kit_report.missed()
    drowned = Figures({"p50_ms": 12.0, "p95_ms": math.inf}, failed=0.5)
    first = msgspec.structs.replace(found.candidates[0], measured=drowned)
    found = msgspec.structs.replace(found, candidates=[first, *found.candidates[1:]])
    written = to_json(found)
    assert b'"Infinity"' in written
    assert from_json(written) == found


def test_an_empty_result_is_a_screen_too() -> None:
    found = Optimized(
        workflow="w",
        recording="r",
        machine="m",
        slo=kit_report.met().slo,
        rate_per_s=1.0,
        seed=1,
        answer="cannot conclude",
    )
    seen = to_text(found)
    assert "cannot be concluded" in seen
    assert "Nothing was changed" in seen
    assert "The recording has no labels." in seen
    assert re.search(r"p95 +800 ms +- +not known", seen)


# -- ratios --------------------------------------------------------------------------------------------------


def test_measured_is_compared_with_measured() -> None:
    naive, zero_effort, alone = summary.baselines(kit_report.met())
    assert (naive.how, zero_effort.name, alone.how) == (
        "measured at 1/s",
        "best zero-effort",
        "measured alone",
    )
    assert naive.ratios == pytest.approx(
        {"p50_ms": 1462 / 571, "p95_ms": 2210 / 742, "first_output_ms": 1790 / 366}
    )
    assert zero_effort.ratios["p95_ms"] == pytest.approx(1392 / 742)
    assert alone.ratios["p50_ms"] == pytest.approx(1180 / 402)


def test_where_one_side_was_not_measured_both_are_simulated() -> None:
    found = kit_report.met()
    unmeasured = [
        msgspec.structs.replace(each, measured=None) if each.name == "naive" else each
        for each in found.candidates
    ]
    naive, zero_effort, _ = summary.baselines(msgspec.structs.replace(found, candidates=unmeasured))
    assert naive.how == "simulated at 1/s"
    assert naive.ratios["p95_ms"] == pytest.approx(2170 / 768)
    assert zero_effort.how == "measured at 1/s"


def test_what_was_only_simulated_is_marked() -> None:
    found = kit_report.met()
    bare = [msgspec.structs.replace(each, measured=None, intervals={}) for each in found.candidates]
    seen = to_text(msgspec.structs.replace(found, candidates=bare))
    assert "~768 ms" in seen
    assert "ok (simulated)" in seen
    assert "~ simulated only" in seen


# -- decisions -----------------------------------------------------------------------------------------------


def test_refusals_tell_most_first() -> None:
    told = [(each.strategy, each.change) for each in summary.refused(kit_report.met())]
    assert told == [
        ("quantize", "transcribe on int8"),  # the gate
        ("batch", "two replicas of transcribe"),  # the strategy itself
        ("batch", "ocr in batches of 8"),  # does harm
        ("compact", "answers of at most 40 tokens"),  # does nothing
    ]


def test_what_was_taken_later_is_not_refused() -> None:
    found = kit_report.met()
    first = msgspec.structs.replace(found.decisions[2], taken=False, why="gains 0.2 % in simulation")
    again = msgspec.structs.replace(found, decisions=[first, *found.decisions])
    assert first.change not in {each.change for each in summary.refused(again)}
    assert len(summary.refused(again)) == len(summary.refused(found))


def test_of_two_refusals_of_one_change_the_last_counts() -> None:
    found = kit_report.met()
    later = msgspec.structs.replace(found.decisions[4], why="still never fills it")
    again = summary.refused(msgspec.structs.replace(found, decisions=[*found.decisions, later]))
    assert [each.why for each in again if each.change == later.change] == ["still never fills it"]


def test_a_long_list_of_refusals_is_cut_and_says_so() -> None:
    found = kit_report.met()
    more = [msgspec.structs.replace(found.decisions[6], change=f"{n} replicas of ocr") for n in range(2, 9)]
    many = msgspec.structs.replace(found, decisions=[*found.decisions, *more])
    assert "and 6 others (--all shows them)" in to_text(many)
    assert "8 replicas of ocr" in to_text(many, all_rows=True)


def test_measured_stands_beside_the_last_decision_of_its_strategy() -> None:
    found = kit_report.met()
    overlap = found.decisions[0]
    assert summary.outcome(found, overlap, "p95_ms") == 1790
    assert summary.outcome(found, found.decisions[2], "p95_ms") is None  # never measured
    another = msgspec.structs.replace(overlap, change="retrieve beside ocr")
    twice = msgspec.structs.replace(found, decisions=[*found.decisions, another])
    assert summary.outcome(twice, overlap, "p95_ms") is None
    assert summary.outcome(twice, another, "p95_ms") == 1790


# -- a miss --------------------------------------------------------------------------------------------------


def test_a_miss_says_what_would_be_needed() -> None:
    first, second = summary.missing(kit_report.missed())
    assert first == "p95 must come from 921 ms to 800 ms: 1.15 times as fast"
    needed = (1 - 800 / 921) * (265 + 240 + 122 + 17)
    assert second == f"transcribe alone would have to take {265 - needed:.0f} ms instead of 265 ms"


def test_a_gap_that_no_step_closes_alone_is_said() -> None:
    found = kit_report.missed()
    even = [msgspec.structs.replace(found.gap[0], step=f"step {n}", ms=60.0) for n in range(10)]
    assert summary.missing(msgspec.structs.replace(found, gap=even))[1] == "no step could close that alone"


def test_what_holds_misses_nothing() -> None:
    assert summary.missing(kit_report.met()) == []
    assert "What is missing" not in to_text(kit_report.met())


# -- quality -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "met"), [("accept", True), ("reject", False), ("cannot conclude", None)]
)
def test_the_verdict_is_a_row_of_the_slo(decision: str, met: bool | None) -> None:
    judged = msgspec.structs.replace(kit_report.verdict(), decision=decision)
    row = summary.rows(msgspec.structs.replace(kit_report.met(), verdict=judged))[-1]
    assert (row.what, row.verdict, row.met) == ("quality_loss", decision, met)


def test_lossy_changes_that_nobody_judged_are_not_called_harmless() -> None:
    found = kit_report.missed()
    assert summary.rows(found)[-1].verdict == "not judged"
    exact = [each for each in found.decisions if each.answers != "lossy"]
    assert summary.rows(msgspec.structs.replace(found, decisions=exact))[-1].chosen == "none"


def test_flips_are_listed_item_by_item() -> None:
    judged = kit_report.verdict()
    assert isinstance(judged, Verdict)
    seen = to_text(kit_report.met())
    for flip in judged.flips:
        assert re.search(rf"{'worse' if flip.bad else 'better'} +{flip.item}", seen)


# -- words ---------------------------------------------------------------------------------------------------


def test_the_headline_is_what_the_slo_limits() -> None:
    found = kit_report.met()
    for limits, what in (({"p50_ms": 1.0}, "p50_ms"), ({"cost_cents": 1.0}, "cost_cents"), ({}, "p95_ms")):
        slo = msgspec.convert(limits, type(found.slo))
        assert summary.headline(msgspec.structs.replace(found, slo=slo)) == what


def test_memory_is_known_of_the_candidate_where_no_figure_says_it() -> None:
    best: Candidate = kit_report.candidates()[-1]
    assert summary.shown("memory_bytes", summary.value(best, "memory_bytes")) == "1.58 GB"


def test_a_column_that_says_nothing_is_not_there() -> None:
    found = kit_report.met()
    plain = [
        msgspec.structs.replace(each, name=each.name.replace("after", "with")) for each in found.candidates
    ]
    assert "measured  answers" in to_text(found)
    assert "measured  answers" not in to_text(msgspec.structs.replace(found, candidates=plain))


def test_what_never_ended_is_said_to_have_failed() -> None:
    found = kit_report.endless()
    seen = to_text(found)
    assert re.search(r"p95 +800 ms +failed +failed +failed +MISSED: requests failed", seen)
    assert "p95 has no end: too many requests failed" in seen
    assert "inf" not in seen
    assert "nan" not in seen
