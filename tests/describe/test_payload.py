"""Plain values as payloads."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import pytest

from tauten.describe.payload import Audio, Pdf, Text, as_payload

LONG = "what does this say, in a few words of your own? " * 8


@pytest.mark.parametrize("text", [f"{LONG} see report.pdf", "what is in report.pdf", "a\0b.pdf"])
def test_a_text_that_ends_like_a_file_is_text(text: str) -> None:
    assert as_payload(text, (Text, Pdf, Audio)) == Text(text)


def test_a_file_that_is_there_is_a_medium(tmp_path: Path) -> None:
    there = tmp_path / "report.pdf"
    there.write_bytes(b"%PDF-1.4\n")
    assert isinstance(as_payload(str(there), (Text, Pdf)), Pdf)
