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
        return turned(
            self.name,
            seen,
            lambda step, turn: _why_not(seen, step, turn),
            lambda step, turn: _told(seen, step, turn),
        )


def _template(seen: Situation, step: Step) -> Template | None:
    """What the step asks by, under its present settings; None where that comes with the request."""
    source = seen.graph.stages[step.name].inputs.get("template")
    found = source.value if isinstance(source, Literal) else None
    if not isinstance(found, Template):
        return None
    return found.choose(step.params.get("prompt_format") or "", step.params.get("without_examples") or ())


def _told(seen: Situation, step: Step, turn: Turn) -> str:
    """How many tokens stay the same at the beginning, and what it takes to read those that can be kept."""
    template = _template(seen, step)
    if template is None:
        return ""
    put = template.fixed_first() if REORDER in turn.settings else template
    for role, choice in step.models.items():
        before, after = (seen.forms.counted(choice, each.opening) for each in (template, put))
        if before is None or after is None:
            continue
        kept, moved = after // BLOCK_TOKENS * BLOCK_TOKENS, f", {before} before" if after != before else ""
        saved_ms = kept * seen.facts.tokens(step.name, role).read_s * 1e3
        time = f", about {saved_ms:.3g} ms a request" if saved_ms else ""
        return f"{after} tokens at its beginning never change{moved}; {kept} of them can be kept{time}"
    return ""


def _why_not(seen: Situation, step: Step, turn: Turn) -> str:
    longest = max((seen.facts.tokens(step.name, role).longest_prompt for role in step.models), default=0.0)
    if 0.0 < longest < BLOCK_TOKENS:
        return f"its prompts have at most {longest:.0f} tokens, and {BLOCK_TOKENS} are kept together at least"
    if REORDER not in turn.settings:
        return ""
    template = _template(seen, step)
    if template is None:
        return "what it is asked comes with the request: nothing of it can be put first"
    if template.fixed_first() is template:
        return f"its template begins with all that stays the same already, {template.head} characters"
    return ""
