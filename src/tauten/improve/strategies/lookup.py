"""Takes words of the prompt as guesses of the answer (prompt lookup decoding, Saxena 2023)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.describe.turn import Turn
from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.turned import turned
from tauten.plan.lower import Step

QUOTES = 0.25  # of three words in a row: below, guesses of three tokens add less than a third of one a step


class Lookup:
    """What stages offer of it, each by itself: it pays for those whose answers quote."""

    name: ClassVar[str] = "lookup"
    reason: ClassVar[str] = (
        "after the prefix cache, which makes prompts cheap, so that tokens are what is left"
    )

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        def why_not(step: Step, turn: Turn) -> str:
            longest = max((seen.facts.tokens(step.name, role).longest for role in step.models), default=0.0)
            if 0.0 < longest < 2.0:
                return "its answers are one token long: there is nothing to guess ahead"
            quoted = seen.facts.quoted(step.name)
            if quoted is not None and quoted < QUOTES:
                return (
                    f"of three words in a row of its answers {quoted:.0%} stand in what it read, under {QUOTES:.0%}: "
                    "guesses would be checked for nothing"
                )
            return ""

        return turned(self.name, seen, why_not)
