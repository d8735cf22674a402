"""Takes words of the prompt as guesses of the answer (prompt lookup decoding, Saxena 2023)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.turned import turned


class Lookup:
    """What stages offer of it; it pays where answers quote."""

    name: ClassVar[str] = "lookup"
    reason: ClassVar[str] = (
        "after the prefix cache, which makes prompts cheap, so that tokens are what is left"
    )

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        return turned(self.name, seen)
