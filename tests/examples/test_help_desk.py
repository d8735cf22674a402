"""The help desk brings its metric and its recording along, and the metric says what the tour says."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

import tauten as tt
from tauten.examples.help_desk.desk import Reply, help_desk
from tauten.examples.help_desk.scoring import score
from tauten.improve.labelled import labelled, metric_of, recording_of
from tauten.improve.recording import Item, Label

LABEL = Label(accept=(("not found", "key"),))
RIGHT = tt.Answer("Raised when a key is not found.", True)
BESIDE = tt.Answer("Raised when a name is not found.", True)
NONE = tt.Answer("Not found in the documents.", False)


def test_nothing_needs_to_be_named() -> None:
    own = recording_of(help_desk, "dev")
    assert own is not None
    assert len(own) == len(labelled(own)) == 239
    assert metric_of(help_desk) is not None


@pytest.mark.parametrize("answer", [RIGHT, BESIDE, NONE], ids=["right", "beside", "none"])
@pytest.mark.parametrize("label", [LABEL, Label(answerable=False)], ids=["answerable", "not"])
def test_the_metric_agrees_with_the_score(label: Label, answer: tt.Answer) -> None:
    metric = metric_of(help_desk)
    assert metric is not None
    said = [Reply(answer), Reply(words="A key."), Reply(words="A cake.", dropped=True)]
    assert metric(said, label) == score(Item(id="a", render=dict, label=label), answer).correct


def test_a_reply_without_a_quotation_is_wrong() -> None:
    metric = metric_of(help_desk)
    assert metric is not None
    assert metric([Reply(words="key not found")], LABEL) == 0.0
    assert metric([], Label(answerable=False)) == 0.0
