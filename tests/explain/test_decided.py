"""A plan is explained with its own reasons: what was measured, why each stage runs so, what was not taken."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.describe.slo import Slo
from tauten.explain.decided import decided_document, decided_html, decided_text
from tauten.plan.plan import Plan, Rejected, StagePlan, format_plan, parse_plan

TOLD = Plan(
    name="optimized",
    slo=Slo(p95_ms=800.0),
    result={
        "answer": "met",
        "rate_per_s": 1.0,
        "p95_ms": {"naive": 2210.0, "now": 742.0, "low": 711.0, "high": 779.0, "predicted": 768.0},
        "p50_ms": {"now": 420.5, "seen": 3},
    },
    stages={
        "transcribe": StagePlan(beside=("ocr",), why="overlap: beside ocr (p50 -299 ms simulated)"),
        "ocr": StagePlan(locked=True),
        "generate": StagePlan(threads=2),
    },
    rejected=(Rejected("transcribe on int8", "60 answers cannot show it is not worse: n >= 210"),),
)


def test_a_plan_says_what_was_measured_and_why() -> None:
    assert decided_text(TOLD).splitlines() == [
        " What was measured: met, rate per s 1",
        "                naive         now         low        high   predicted        seen",
        "   p95_ms        2210         742         711         779         768           -",
        "   p50_ms           -         420           -           -           -           3",
        "",
        " Why",
        "   transcribe  overlap: beside ocr (p50 -299 ms simulated)",
        "   ocr         locked",
        "",
        " Not taken",
        "   transcribe on int8: 60 answers cannot show it is not worse: n >= 210",
    ]


def test_a_plan_that_says_nothing_adds_nothing() -> None:
    assert decided_text(Plan(stages={"a": StagePlan(threads=1)})) == ""
    assert decided_html(Plan()) == ""


def test_the_document_has_all_of_it() -> None:
    told = decided_document(TOLD)
    assert told["slo"] == {"p95_ms": 800.0}
    assert told["result"]["p95_ms"]["now"] == 742.0
    assert told["why"] == {"transcribe": "overlap: beside ocr (p50 -299 ms simulated)"}
    assert told["locked"] == ["ocr"]
    assert told["rejected"][0]["change"] == "transcribe on int8"


def test_a_page_escapes_what_a_plan_says() -> None:
    html = decided_html(Plan(rejected=(Rejected("<b>bold</b>", "a & b"),), result={"answer": "<i>"}))
    assert "<b>" not in html
    assert "&lt;b&gt;bold" in html
    assert "a &amp; b" in html
    assert "&lt;i&gt;" in html


def test_what_is_told_survives_the_file() -> None:
    again = parse_plan(format_plan(TOLD))
    assert decided_document(again) == decided_document(TOLD)


def test_a_long_reason_goes_on_below_itself() -> None:
    lines = decided_text(Plan(stages={"a": StagePlan(why="word " * 40)})).splitlines()
    assert len(lines) > 2
    assert all(len(line) <= 96 for line in lines)
    assert lines[2].startswith("      word")
