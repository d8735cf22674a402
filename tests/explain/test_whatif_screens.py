"""What would help, on a screen and a page: three changes, the best together, steps worth work, delays beside it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from tauten.explain import calibration
from tauten.explain.calibration import Prediction
from tauten.explain.whatif import Change, Moved, Probed, StepWorth, Together, Untried, WhatIf
from tauten.explain.whatif_page import whatif_html
from tauten.explain.whatif_text import moved_words, whatif_text


def moved(mid: float, half: float = 0.0) -> Moved:
    return Moved(mid - half, mid, mid + half)


def moves(p50: float, p95: float, half: float = 20.0) -> dict[str, Moved]:
    return {"p50_ms": moved(p50, half), "p95_ms": moved(p95, 2 * half)}


CHANGES = [
    Change(
        strategy="prefix",
        change="keep the prompt's beginning",
        steps=["generate"],
        answers="identical",
        moves=moves(-371, -455),
        place=1,
        plan='tauten = "plan/1"',
        scored=12,
    ),
    Change(
        strategy="overlap",
        change="ocr beside transcribe",
        steps=["ocr"],
        answers="equivalent",
        moves=moves(-299, -402),
        place=2,
    ),
    Change(
        strategy="quantize",
        change="transcribe in int8",
        steps=["transcribe"],
        answers="lossy",
        moves=moves(-188, -240),
        place=3,
        failed=0.125,
    ),
    Change(
        strategy="batch",
        change="ocr on 1 thread",
        steps=["ocr"],
        answers="equivalent",
        moves=moves(80, 120),
    ),
]
SHOWN = WhatIf(
    workflow="help_desk",
    plan="naive@3f9a",
    recording="desk.rec",
    machine="2 cores",
    rate_per_s=1.0,
    requests=200,
    schedules=5,
    now={"p50_ms": 1462.0, "p95_ms": 2210.0},
    changes=CHANGES,
    together=Together(places=[1, 2], answers="equivalent", moves=moves(-655, -1310, 52), plan=""),
    untried=[Untried("lookup", "generate", "answers quote nothing")],
    steps=[
        StepWorth("generate", [(0.1, moves(-68, -80)), (0.5, moves(-340, -400))]),
        StepWorth("retrieve", [(0.1, moves(-0.1, -0.1)), (0.5, moves(-0.5, -0.6))]),
    ],
    probed=[
        Probed(
            step="ocr",
            what="p50_ms",
            delay_ms=20.0,
            slowed=30,
            plain=90,
            measured=moved(0.9, 0.2),
            simulated=moved(1.0, 0.1),
        ),
        Probed(
            step="hear",
            what="p95_ms",
            delay_ms=20.0,
            slowed=28,
            plain=92,
            measured=moved(0.1, 0.1),
            simulated=moved(1.0, 0.1),
        ),
    ],
    record="by simulation: 12 predictions",
)


def test_the_screen() -> None:
    assert whatif_text(SHOWN).splitlines() == [
        " help_desk   plan naive@3f9a   5 schedules of 200 requests at 1/s   2 cores",
        "",
        " Now, simulated: p50 1462 ms, p95 2210 ms",
        "",
        " What would help (simulated on desk.rec; nothing has been changed)",
        "                                                     p50         p95       first   answers",
        "  1    prefix: keep the prompt's beginning      -371 ±20    -455 ±40           -   same bytes",
        "  2    overlap: ocr beside transcribe           -299 ±20    -402 ±40           -   rounding",
        "  3    quantize: transcribe in int8             -188 ±20    -240 ±40           -   not judged,",
        "    12 % would fail",
        "       1+2 together                             -655 ±52  -1310 ±104           -   rounding",
        "   1 more change with --all",
        "   ± holds 90 % of 5 simulated schedules and of the errors of 12 predictions; by simulation: 12",
        "     predictions",
        "",
        " What each step is worth (simulated: that step alone, in so much less time)",
        "             p50 -10 %  p50 -50 %  p95 -10 %  p95 -50 %",
        "   generate        -68       -340        -80       -400",
        "   nothing, however fast: retrieve",
        "",
        " Confirmed by delays on purpose: what a ms of delay costs, and so a ms less would gain",
        "   step     delay  of                   measured       simulated",
        "   ocr      20 ms  p50                0.90 ±0.20      1.00 ±0.10   30 of 120",
        "   hear     20 ms  p95                0.10 ±0.10      1.00 ±0.10   28 of 120   they disagree",
    ]


def test_all_of_it() -> None:
    shown = whatif_text(SHOWN, all_rows=True)
    assert "batch: ocr on 1 thread" in shown
    assert "+80 ±20" in shown
    assert "   retrieve" in shown
    assert "   lookup: generate: answers quote nothing" in shown


def test_nothing_helps() -> None:
    bare = replace(SHOWN, changes=[], together=None, steps=[], probed=[], now={}, record="")
    shown = whatif_text(bare)
    assert "none of the changes that were tried gains anything for certain" in shown
    assert "nothing is answered" in shown


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (moved(-299.4, 20.1), "-299 ±20"),
        (moved(-2.34, 0.5), "-2.3 ±0.5"),
        (moved(-0.234, 0.05), "-0.23 ±0.05"),
        (moved(-12_345.0, 400.0), "-12.3s ±0.4"),
        (moved(0.2, 14.0), "0 ±14"),
        (moved(-0.2, 14.0), "0 ±14"),
        (None, "-"),
    ],
)
def test_a_move_in_words(value: Moved | None, said: str) -> None:
    assert moved_words(value) == said


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "path", "rect", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "path", "rect", "circle", "br"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing() -> None:
    bad = replace(CHANGES[0], change="<script>alert(1)</script>")
    told = [Prediction("naive p50", 100.0, 90.0, 110.0, 105.0)]
    html = whatif_html(replace(SHOWN, changes=[bad, *CHANGES[1:]]), told)
    reader = _Tags()
    reader.feed(html)
    assert reader.open == []
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "default-src 'none'" in html
    for words in ("batch: ocr on 1 thread", "1+2 together", "they disagree", "1 predictions were measured"):
        assert words in html


def test_without_predictions_there_is_no_chart() -> None:
    assert "How good predictions were" not in whatif_html(SHOWN)


def test_an_interval_that_begins_at_nothing_leaves_the_chart_its_scale() -> None:
    """A logarithmic scale from a thousandth of a millisecond would press all else into a corner."""
    chart = calibration.svg([Prediction("p50", 100.0, 0.0, 200.0, 120.0)])
    assert ">100</text>" in chart
    assert ">0.001</text>" not in chart
