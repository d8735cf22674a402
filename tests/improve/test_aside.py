"""Only what was varied works again: stages aside of it give what they gave before."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import tauten as tt
from tauten.describe.payload import Text
from tauten.describe.turn import Turn
from tauten.errors import InputError
from tauten.improve.labels.keeper import Keeper
from tauten.improve.optimizer.aside import aside
from tauten.improve.optimizer.live import REPEATS, LiveTestbed
from tauten.improve.quality import Metric
from tauten.improve.recording import Item, Label
from tauten.plan.plan import Plan

worked: Counter[str] = Counter()
ROUNDS = REPEATS + 1  # one warms up
pause_s = 0.0  # before the second word of a stream


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


# -- what streams --------------------------------------------------------------------------------------------


@tt.stage(pure=True)
async def told(words: Text) -> tt.Stream[Text]:
    worked["told"] += 1
    yield Text("well")
    await asyncio.sleep(pause_s)
    yield words


@tt.stage(pure=True)
async def heard(words: tt.Stream[Text]) -> tt.Stream[Text]:
    async for word in words:
        worked[f"heard {word.text[:4]}"] += 1
        yield word


@tt.workflow
def streamed(question: Text) -> tt.Stream[Text]:
    return heard(told(second(first(question))))


def test_a_stream_that_nobody_wanted_reads_is_kept_too() -> None:
    testbed = LiveTestbed(streamed, [])
    testbed.capture(FAST, ITEMS, {"second"})
    assert worked["second"] == len(ITEMS) * ROUNDS
    assert worked["told"] == len(ITEMS)  # `second` gave the same each time


def test_who_reads_a_stream_as_it_comes_has_to_wait_for_it() -> None:
    assert streamed.graph is not None
    plan = aside(streamed.graph, Plan(), {"heard"})
    assert {name: plan.stage(name).cache for name in ("first", "told", "heard")} == {
        "first": True,
        "told": False,
        "heard": False,
    }


# -- what a score hangs on -----------------------------------------------------------------------------------

RECORDED = [Item(id=id, render=lambda inputs=inputs: dict(inputs)) for id, inputs in ITEMS]


def begins_well(answer: Text, label: Label) -> bool:
    return answer.text.startswith("well")


def scores(metric: Metric) -> dict[str, float]:
    found = LiveTestbed(streamed, RECORDED, metric).scores(Plan(), [id for id, _ in ITEMS])
    return {id: each.score for id, each in found.items()}


def test_what_no_score_hangs_on_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scores(Metric(begins_well))
    everything = Counter(worked)
    worked.clear()
    monkeypatch.setattr(f"{__name__}.pause_s", 600.0)  # nobody waits for that
    cut = scores(Metric(begins_well, enough=lambda answer: answer.text.startswith("well")))
    assert whole == cut == dict.fromkeys(whole, 1.0)
    assert everything["heard well"] == worked["heard well"] == len(ITEMS)
    assert {name for name in everything if name.startswith("heard Q")}
    assert not {name for name in worked if name.startswith("heard Q")}


def test_who_keeps_answers_keeps_them_whole(tmp_path: Path) -> None:
    metric = Metric(begins_well, enough=lambda answer: True)
    testbed = LiveTestbed(streamed, RECORDED, metric, keeper=Keeper(tmp_path))
    testbed.scores(Plan(), [id for id, _ in ITEMS])
    assert {name for name in worked if name.startswith("heard Q")}


def test_a_metric_that_cannot_say_whether_it_is_enough_is_named() -> None:
    metric = Metric(begins_well, "begins", enough=lambda answer: answer.missing)
    with pytest.raises(InputError, match="metric `begins` raised AttributeError in `enough`") as raised:
        scores(metric)
    assert raised.value.code == "E253"
