"""Settings that stages and engines offer to be tried, as proposals of the strategy that they name."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tauten.describe.turn import Turn
from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.plan.lower import Step
from tauten.plan.plan import Plan
from tauten.run.contracts import find


def turned(strategy: str, seen: Situation) -> Iterator[Proposal | Refusal]:
    """The turns of a strategy that stages of this workflow and their engines offer."""
    found = False
    for step in seen.lowered.steps:
        if step.kind is None or step.view is not None or not seen.free(step.name):
            continue
        for turn in offered(step):
            if turn.strategy != strategy:
                continue
            found = True
            plan = with_settings(seen, step, turn.settings)
            if plan is not None and plan != seen.plan:
                yield Proposal(
                    strategy, f"{step.name}: {_spelled(turn.settings)}", plan, turn.answers, turn.why
                )
    if not found:
        yield Refusal(
            strategy, "any stage", "no stage of this workflow, and no engine, offers a setting for it"
        )


def offered(step: Step) -> Iterator[Turn]:
    """The turns of a step's kind, then those of the engines that run its models."""
    assert step.kind is not None  # asked of stages only
    yield from step.kind.turns
    for backend in dict.fromkeys(choice.backend for choice in step.models.values() if choice.backend):
        yield from getattr(find("backends", backend), "turns", ())


def with_settings(seen: Situation, step: Step, settings: dict[str, Any]) -> Plan | None:
    """The plan with settings of one stage; None where the workflow writes one of them otherwise: that it keeps."""
    written = seen.graph.stages[step.name].params
    if any(key in written and written[key] != value for key, value in settings.items()):
        return None
    stage = seen.plan.stage(step.name)
    return seen.plan.edit(step.name, settings={**stage.settings, **settings})


def _spelled(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())
