"""What is right: the accepted words from a labelled page and a sentence that adds nothing, or what an order is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tauten as tt
from tauten.examples.explained import is_right
from tauten.examples.help_desk.scoring import accepts
from tauten.improve.recording import Label


@tt.metric(name="right answers")
def metric(answer: tt.Text, label: Label) -> bool:
    """An order as it is; or a quotation from the labelled page to which the model adds nothing; or a refusal."""
    if label.answerable and not label.documents:
        return accepts(label, answer.text)
    return is_right(answer.text, label)
