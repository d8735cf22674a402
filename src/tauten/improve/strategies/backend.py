"""Runs a model in another engine at full precision: compiled graphs, fused operators, other threads."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.situation import FULL, Proposal, Refusal, Situation, label, with_choice
from tauten.plan.lower import Step
from tauten.plan.plan import ModelChoice, Plan


class Backend:
    """For each model that works enough the other engines that its stage can use, and all of them at once."""

    name: ClassVar[str] = "backend"
    reason: ClassVar[str] = "before batches and threads, whose best values differ from engine to engine"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        every, changed = seen.plan, 0
        for step, role, choice in seen.models():
            if why := seen.idle(step):
                yield Refusal(self.name, f"{label(step, role)} on another engine", why)
                continue
            if written := seen.written_backend(step):
                why = f'the workflow writes backend = "{written}", and what it writes it keeps'
                yield Refusal(self.name, f"{label(step, role)} on another engine", why)
                continue
            others = _others(step, role, choice)
            if not others:
                yield Refusal(self.name, f"{label(step, role)} on another engine", "its stage knows no other")
                continue
            for backend in others:
                plan = _on(seen.plan, step, role, backend)
                yield Proposal(self.name, f"{label(step, role)} on {backend}", plan, "equivalent")
            every, changed = _on(every, step, role, others[0]), changed + 1
        if changed > 1:
            yield Proposal(self.name, "every model on its other engine", every, "equivalent")


def _others(step: Step, role: str, choice: ModelChoice) -> list[str]:
    assert step.kind is not None  # a model's step is a stage
    return [backend for backend in step.kind.roles[role].backends if backend != choice.backend]


def _on(plan: Plan, step: Step, role: str, backend: str) -> Plan:
    """In full precision, said: an engine's own default may be a shorter type, on this machine or on the next."""
    return with_choice(plan, step, role, backend=backend, precision=FULL)
