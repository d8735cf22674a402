"""Only what was varied works again: stages aside of it give what they gave before."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

import tauten as tt
from tauten.describe.payload import Text
from tauten.describe.turn import Turn
from tauten.improve.optimizer.aside import aside
from tauten.improve.optimizer.live import REPEATS, LiveTestbed
from tauten.plan.plan import Plan

worked: Counter[str] = Counter()
ROUNDS = REPEATS + 1  # one warms up


@tt.stage(pure=True)
def first(question: Text) -> Text:
    worked["first"] += 1
    return Text(question.text.upper())


@tt.stage(pure=True, turns=(Turn("reduce", {"fast": True}, "lossy", "does less"),))
def second(words: Text, *, fast: bool = False) -> Text:
    worked["second"] += 1
    return Text(f"{words.text} {fast}")


@tt.stage(effects="once")
def sent(words: Text) -> Text:
    worked["sent"] += 1
    return words


@tt.workflow
def chained(question: Text) -> Text:
    return sent(second(first(question)))


ITEMS = [(f"item {number}", {"question": Text(f"q{number}")}) for number in range(3)]
FAST = Plan().edit("second", settings={"fast": True})


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    worked.clear()
    yield
    worked.clear()


def test_stages_that_may_be_kept_are_kept_but_for_the_wanted() -> None:
    assert chained.graph is not None
    plan = aside(chained.graph, FAST, {"second"})
    assert {name: plan.stage(name).cache for name in ("first", "second", "sent")} == {
        "first": True,
        "second": False,
        "sent": False,  # what has effects is never kept
    }
    assert plan.stage("second").settings == {"fast": True}


def test_what_was_not_varied_does_not_work_again() -> None:
    testbed = LiveTestbed(chained, [])
    whole = testbed.capture(Plan(), ITEMS)
    everything = len(ITEMS) * ROUNDS
    assert worked == {"first": everything, "second": everything, "sent": everything}
    testbed.capture(FAST, ITEMS, {"second"})
    assert worked["first"] == everything + len(ITEMS)  # nobody had kept what it gave when all worked
    assert worked["second"] == worked["sent"] == 2 * everything
    varied = testbed.capture(Plan().edit("second", settings={"fast": False}), ITEMS, {"second"})
    assert worked["first"] == everything + len(ITEMS)  # kept over the end of the plan
    assert worked["second"] == 3 * everything
    assert [len(tapes) for tapes in varied.tapes] == [len(tapes) for tapes in whole.tapes]
    assert all("second" in tape.visits for tapes in varied.tapes for tape in tapes)
