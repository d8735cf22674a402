"""What a plan's steps say of themselves before and after they ran."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tauten as tt
from tauten.explain.account import Estimate
from tauten.explain.planned import estimate_text, in_force_text, planned_text
from tauten.plan.lower import lower
from tauten.plan.plan import Plan


@tt.stage(pure=True)
def same(text: tt.Text, note: str = "") -> tt.Text:
    return text


@tt.workflow
def flow(text: tt.Text) -> tt.Text:
    return same(text)


def test_what_a_plan_holds_is_shown_and_not_obeyed() -> None:
    """A plan file comes from anywhere, and a terminal obeys what is sent to it."""
    assert flow.graph is not None
    plan = Plan(name="loud\x1b[31m").edit("same", settings={"note": "\x1b]0;owned\x07"})
    shown = planned_text("flow", lower(flow.graph, plan), {})
    assert "note=\ufffd]0;owned\ufffd" in shown
    assert "plan loud\ufffd[31m" in shown
    assert not {"\x1b", "\x07"} & set(shown)


def test_an_estimate_below_a_millisecond_is_not_nothing() -> None:
    shown = [Estimate(402, 390, 447), Estimate(4.25, 4, 5), Estimate(0.43, 0.4, 0.471), Estimate(0.2)]
    assert [estimate_text(each) for each in shown] == [
        "402 (390-447)",
        "4.2 (4.0-5.0)",
        "0.43 (0.40-0.47)",
        "0.20",
    ]


def test_what_is_in_force_reads_as_words_and_numbers() -> None:
    told = in_force_text(
        {
            "look": {"model": {"precision": "f32", "threads": "2"}},
            "hear": {
                "model": {"precision": "float32", "threads": "framework default"},
                "body": {"threads": "1"},
            },
            "own": {"body": {"threads": "1"}},
        }
    )
    assert told == " In force:  look: f32 x2; hear: float32, threads: framework default\n"
