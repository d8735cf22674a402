"""How much of an answer stands in what was read."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from tauten.describe.graph import FromInput, FromStage, Listed, Literal
from tauten.describe.payload import Image, Text
from tauten.describe.template import parse
from tauten.improve.optimizer.quoting import quoted_share, readable, written


@pytest.mark.parametrize(
    ("said", "read", "share"),
    [
        ("the second argument is zero", "Raised when the second argument is zero.", 1.0),
        ("THE SECOND argument, is zero!", "the second argument is zero", 1.0),
        ("the second argument is one", "the second argument is zero", 2 / 3),
        ("nothing of this", "the second argument is zero", 0.0),
        ("two words", "two words", 0.0),
    ],
)
def test_three_words_in_a_row_count(said: str, read: str, share: float) -> None:
    assert quoted_share(said, read) == pytest.approx(share)


def test_what_a_step_read_is_put_together_of_its_sources() -> None:
    inputs, values = {"question": Text("why?")}, {"found": Text("because"), "picture": None}
    sources = Listed((FromInput("question"), FromStage("found"), FromStage("unseen"), Literal("always")))
    assert written(sources, inputs, values).split() == ["why?", "because", "always"]
    assert "Say" in written(Literal(parse("Say {{ word }}.")), {}, {}), "of a template its text"


def test_what_is_no_text_is_not_read() -> None:
    assert readable(Image(b"\x89PNG\r\n\x1a\n" + bytes(16))) == ""
    assert readable(object) == ""
    assert readable(None) == ""
