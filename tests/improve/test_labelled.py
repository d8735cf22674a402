"""What stands beside a workflow: its metric, its recordings, and how an answer is given to the metric."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from tauten.cli.target import load_workflow
from tauten.errors import InputError, StageError
from tauten.improve.labelled import (
    DEV,
    WHOLE,
    answer_of,
    clusters,
    labelled,
    metric_of,
    open_recording,
    recording_of,
    score,
    scores,
    splits_of,
)
from tauten.improve.quality import Metric
from tauten.improve.recording import Item, Label, Recording
from tauten.improve.replay import Served, serve_one
from tauten.run.engine import Engine

FLOW = """
import tauten as tt
from tauten.improve.recording import Item, Label, Recording

@tt.stage(pure=True)
async def same(text: tt.Text) -> tt.Text:
    return text

@tt.workflow
def echo(text: tt.Text) -> tt.Text:
    return same(text)
"""
METRIC = '''
@tt.metric
def {name}(answer, label):
    """Says it."""
    return label.answer in answer.text
'''
RECORDING = """
def recording(*, split=None):
    items = [Item(id=f"{half}/{n}", render=dict, split=half, at_s=n) for half in ("dev", "held_out") for n in range(3)]
    return Recording("echoes", items).select(split=split)
"""
_numbers = itertools.count()


def flow(folder: Path, *parts: str) -> Any:
    """The workflow of a file with these parts; each file has a name of its own."""
    path = folder / f"labelled_flow_{next(_numbers)}.py"
    path.write_text("".join([FLOW, *parts]))
    return load_workflow(str(path))


# -- the metric ----------------------------------------------------------------------------------------------


def test_the_only_metric_of_a_module_is_its_metric_whatever_it_is_called(tmp_path: Path) -> None:
    found = metric_of(flow(tmp_path, METRIC.format(name="says")))
    assert isinstance(found, Metric)
    assert (found.name, found.description) == ("says", "Says it.")


def test_of_several_the_one_called_metric_counts(tmp_path: Path) -> None:
    workflow = flow(tmp_path, METRIC.format(name="metric"), METRIC.format(name="says"))
    found = metric_of(workflow)
    assert found is not None
    assert found.name == "metric"


def test_several_of_other_names_are_an_error_that_names_them(tmp_path: Path) -> None:
    workflow = flow(tmp_path, METRIC.format(name="says"), METRIC.format(name="means"))
    with pytest.raises(InputError, match=r"2 metrics \(means, says\)") as raised:
        metric_of(workflow)
    assert raised.value.code == "E253"


def test_a_module_with_neither_has_neither(tmp_path: Path) -> None:
    workflow = flow(tmp_path, "\nrecording = 'of sounds'\nmetric = tt.metric\n")
    assert metric_of(workflow) is None
    assert recording_of(workflow) is None


def test_a_package_is_searched_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "labelled_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "flow.py").write_text(FLOW)
    (package / "scoring.py").write_text("import tauten as tt\n" + METRIC.format(name="metric"))
    (package / "recording.py").write_text(FLOW.partition("@")[0] + RECORDING)
    monkeypatch.syspath_prepend(str(tmp_path))
    workflow = load_workflow("labelled_package.flow:echo")
    assert metric_of(workflow) is not None
    own = recording_of(workflow, "dev")
    assert own is not None
    assert [item.id for item in own] == ["dev/0", "dev/1", "dev/2"]


def test_what_is_not_of_a_module_has_none() -> None:
    def nowhere(text: tt.Text) -> tt.Text:
        return text

    nowhere.__module__ = "no.such.module"
    workflow = tt.workflow(nowhere)
    assert metric_of(workflow) is None
    assert recording_of(workflow) is None


# -- recordings ----------------------------------------------------------------------------------------------


def test_a_recording_is_made_whole_or_a_split(tmp_path: Path) -> None:
    workflow = flow(tmp_path, RECORDING)
    whole, half = recording_of(workflow), recording_of(workflow, "held_out")
    assert whole is not None
    assert half is not None
    assert (len(whole), {item.split for item in half}) == (6, {"held_out"})


def test_a_recording_that_is_a_value_is_taken_as_it_is(tmp_path: Path) -> None:
    workflow = flow(tmp_path, "\nrecording = Recording('one', [Item(id='a', render=dict)])\n")
    own = recording_of(workflow, "dev")
    assert own is not None
    assert [item.id for item in own] == ["a"]


def test_a_maker_without_a_split_is_somebody_elses_function(tmp_path: Path) -> None:
    assert recording_of(flow(tmp_path, "\ndef recording(sound):\n    raise AssertionError\n")) is None


@pytest.mark.parametrize(
    ("part", "split", "message"),
    [
        (RECORDING, "test", "no item of the split 'test'"),
        ("\ndef recording(*, split=None):\n    return []\n", None, "gave list, expected a Recording"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, part: str, split: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        recording_of(flow(tmp_path, part), split)
    assert raised.value.code == "E245"
    assert raised.value.help


def test_a_command_line_names_a_folder_a_split_or_nothing(tmp_path: Path) -> None:
    workflow = flow(tmp_path, RECORDING)
    items = [Item(id=half, render=dict, split=half) for half in ("dev", "held_out")]
    folder = str(Recording("kept", items).save(tmp_path / "kept"))
    assert open_recording(workflow, folder, usual=DEV).name == "kept"
    assert splits_of(open_recording(workflow, folder, usual=DEV)) == ["dev", "held_out"]  # it was named
    assert splits_of(open_recording(workflow, "", usual=DEV)) == ["dev"]
    assert splits_of(open_recording(workflow, "held_out", usual=DEV)) == ["held_out"]
    for given, usual in (("", WHOLE), ("all", DEV)):
        assert splits_of(open_recording(workflow, given, usual=usual)) == ["dev", "held_out"]


def test_a_recording_without_the_usual_split_says_which_it_has(tmp_path: Path) -> None:
    workflow = flow(tmp_path, RECORDING.replace("dev", "train"))
    with pytest.raises(InputError, match="no item of the split 'dev'") as raised:
        open_recording(workflow, "", usual=DEV)
    assert "held_out, train, all" in str(raised.value.help)


def test_no_recording_anywhere_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="'desk' is not the folder of a recording, and echo brings"
    ) as raised:
        open_recording(flow(tmp_path), "desk", usual=WHOLE)
    assert "--recording FOLDER" in str(raised.value.help)


def test_items_without_a_label_are_not_judged_and_topics_cluster() -> None:
    known = Item(id="a", render=dict, label=Label(answer="x"), tags=("typed", "topic:sorting"))
    refused = Item(id="b", render=dict, label=Label(answerable=False))
    every = [known, refused, Item(id="c", render=dict)]
    assert [item.id for item in labelled(every)] == ["a", "b"]
    assert clusters(every) == {"a": "sorting", "b": "b", "c": "c"}


# -- scores --------------------------------------------------------------------------------------------------


@tt.stage(pure=True)
async def words(text: tt.Text) -> tt.Stream[tt.Text]:
    for word in text.text.split():
        yield tt.Text(word + " ")


@tt.stage(pure=True)
async def counts(text: tt.Text) -> tt.Stream[int]:
    for word in text.text.split():
        yield len(word)


@tt.stage(pure=True)
async def several(text: tt.Text) -> list[str]:
    return text.text.split()


@tt.workflow
def spoken(text: tt.Text) -> tt.Stream[tt.Text]:
    return words(text)


@tt.workflow
def counted(text: tt.Text) -> tt.Stream[int]:
    return counts(text)


@tt.workflow
def listed(text: tt.Text) -> list[str]:
    return several(text)


def run(workflow: Any, text: str) -> Served:
    async def main() -> Served:
        async with Engine() as engine:
            return await serve_one(engine, await engine.open(workflow), "one", {"text": tt.Text(text)})

    return asyncio.run(main())


@pytest.mark.parametrize("workflow", [spoken, counted, listed], ids=lambda each: str(each.name))
@pytest.mark.parametrize("text", ["one two three", "one", ""])
def test_a_metric_gets_what_calling_the_workflow_gives(workflow: Any, text: str) -> None:
    assert answer_of(workflow, run(workflow, text)) == workflow(text)


def said(*values: Any, error: Any = None, id: str = "one") -> Served:
    one = run(spoken, "x")
    return Served(id, list(values), one.trace, one.attribution, error)


def test_a_request_that_failed_scores_nothing_whatever_came_before() -> None:
    always = Metric(lambda answer, label: True, "always")
    assert score(always, spoken, said(tt.Text("right")), Label()) == 1.0
    failed = said(tt.Text("right"), error=StageError("cut", help="none"))
    assert score(always, spoken, failed, Label()) == 0.0


def test_a_metric_that_raises_is_named_with_the_request() -> None:
    broken = Metric(lambda answer, label: label["key"], "broken")
    with pytest.raises(InputError, match="metric `broken` raised TypeError on one") as raised:
        score(broken, spoken, said(tt.Text("x")), Label())
    assert raised.value.code == "E253"


def test_a_metric_out_of_range_keeps_its_own_error() -> None:
    with pytest.raises(InputError, match="gave 2, expected"):
        score(Metric(lambda answer, label: 2, "two"), spoken, said(tt.Text("x")), Label())


def test_every_labelled_item_that_was_run_is_scored() -> None:
    has = Metric(lambda answer, label: label.answer in answer.text, "has")
    items = [Item(id=id, render=dict, label=Label(answer="x")) for id in ("a", "b", "not run")]
    items.append(Item(id="no label", render=dict))
    served = [said(tt.Text("an x"), id="a"), said(tt.Text("none"), id="b"), said(tt.Text("x"), id="no label")]
    assert scores(has, spoken, served, items) == {"a": 1.0, "b": 0.0}
