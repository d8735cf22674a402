"""What is right: the accepted words from a labelled page and a sentence that adds nothing, or what an order is."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

import tauten as tt
from tauten.examples.help_desk.scoring import accepts, stands_in
from tauten.examples.words import content_words
from tauten.improve.recording import Label

SHORT = "\n\nIn short (language model, may be wrong): "
REFUSED = "Not found"  # how `quote` begins when no passage fits
COVERED = (
    0.75  # share of the model's words that must stand in the quotation; it may put a question's word between
)
_PLACE = re.compile(r"\[([\w./-]+): (.+)\]\s*\Z")


@tt.metric(name="right answers")
def metric(answer: tt.Text, label: Label) -> bool:
    """An order as it is; or a quotation from the labelled page to which the model adds nothing; or a refusal."""
    if not label.answerable:
        return answer.text.startswith(REFUSED)
    if not label.documents:
        return accepts(label, answer.text)
    quoted, short, words = answer.text.partition(SHORT)
    place = _PLACE.search(quoted)
    return (
        place is not None
        and stands_in(label, place[1], place[2])
        and accepts(label, quoted[: place.start()])
        and (not short or _covered(words, quoted))
    )


def _covered(words: str, quoted: str) -> bool:
    """Whether a sentence says something, and says it with the words of the quotation."""
    said = content_words(words)
    return bool(said) and len(said & content_words(quoted)) >= COVERED * len(said)
