"""A quotation with a sentence of a language model behind it: how it is shown, and when it is a right answer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Final

from tauten.examples.help_desk.scoring import accepts, stands_in
from tauten.examples.words import content_words
from tauten.improve.recording import Label

SHORT: Final = "\n\nIn short (language model, may be wrong): "
REFUSED: Final = "Not found"  # how an answer begins when no passage fits
COVERED: Final = (
    0.75  # share of the model's words that must stand in the quotation; it may put a question's word between
)
_PLACE: Final = re.compile(r"\[([\w./-]+): (.+)\]\s*\Z")


def is_right(answer: str, label: Label) -> bool:
    """The quotation holds the accepted content from a labelled place, and the model adds nothing to it; or it was rightly refused."""
    quoted, _, short = answer.partition(SHORT)
    if not label.answerable:
        return quoted.startswith(REFUSED)
    place = _PLACE.search(quoted)
    return (
        place is not None
        and stands_in(label, place[1], place[2])
        and accepts(label, quoted[: place.start()])
        and (SHORT not in answer or covered(short, quoted))
    )


def covered(short: str, quoted: str) -> bool:
    """Whether a sentence says something, and says it with the words of the quotation."""
    said = content_words(short)
    return bool(said) and len(said & content_words(quoted)) >= COVERED * len(said)
