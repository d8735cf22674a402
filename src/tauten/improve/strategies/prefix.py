"""Computes once what prompts begin with: the keys and values of their first tokens are kept."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.describe.graph import Literal
from tauten.describe.template import Template
from tauten.describe.turn import Turn
from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.turned import turned
from tauten.plan.lower import Step

BLOCK_TOKENS = 32  # that engines keep or drop together
REORDER = "fixed_first"  # the setting that changes what a model reads


class Prefix:
    """What engines offer of it. Where a template says the same after what changes, the same with that put first;
    this changes what the model reads, and so may change what it says."""

    name: ClassVar[str] = "prefix"
    reason: ClassVar[str] = (
        "before anything that makes prompts shorter: a beginning that is kept costs nothing"
    )

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        return turned(self.name, seen, lambda step, turn: _why_not(seen, step, turn))


def _why_not(seen: Situation, step: Step, turn: Turn) -> str:
    longest = max((seen.facts.tokens(step.name, role).longest_prompt for role in step.models), default=0.0)
    if 0.0 < longest < BLOCK_TOKENS:
        return f"its prompts have at most {longest:.0f} tokens, and {BLOCK_TOKENS} are kept together at least"
    if REORDER not in turn.settings:
        return ""
    source = seen.graph.stages[step.name].inputs.get("template")
    template = source.value if isinstance(source, Literal) else None
    if not isinstance(template, Template):
        return "what it is asked comes with the request: nothing of it can be put first"
    if template.fixed_first() is template:
        return f"its template begins with all that stays the same already, {template.head} characters"
    return ""
