"""What a plan's steps say of themselves before and after they ran."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.explain.planned import in_force_text


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
