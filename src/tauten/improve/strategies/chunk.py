"""Sizes the pieces in which a stream is made: small ones come sooner, large ones cost less."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.describe.turn import Turn
from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.turned import turned
from tauten.plan.lower import Step
from tauten.run.contracts import find

READ = "max_batched_tokens"  # of prompts that an engine reads in one step


class Chunk:
    """What stages and engines offer of it, unless prompts are too short to be read otherwise."""

    name: ClassVar[str] = "chunk"
    reason: ClassVar[str] = "after what makes a stream's work less: it only cuts it otherwise"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        return turned(self.name, seen, lambda step, turn: _why_not(seen, step, turn))


def _why_not(seen: Situation, step: Step, turn: Turn) -> str:
    if READ not in turn.settings:
        return ""
    for role, choice in step.models.items():
        fresh = seen.facts.tokens(step.name, role).fresh
        usual = getattr(find("backends", choice.backend), "step_tokens", 0) if choice.backend else 0
        smaller = min(int(choice.options.get(READ, usual)), int(turn.settings[READ]))
        if 0.0 < fresh <= smaller:
            return (
                f"{fresh:.0f} tokens of its prompts have to be read, in the mean, and a step reads {smaller}: "
                "one step as it is"
            )
    return ""
