"""Settings that stages and engines offer to be tried, as proposals of the strategy that they name."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from tauten.describe.turn import Turn
from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.plan.lower import Step
from tauten.plan.plan import Plan
from tauten.run.contracts import find

WhyNot = Callable[[Step, Turn], str]
"""Why a turn is not worth trying here; empty where it may be."""

Told = Callable[[Step, Turn], str]
"""What counting foretells of a turn here, in words; empty where nothing was counted."""


def turned(
    strategy: str,
    seen: Situation,
    why_not: WhyNot = lambda step, turn: "",
    told: Told = lambda step, turn: "",
) -> Iterator[Proposal | Refusal]:
    """The turns of a strategy that stages of this workflow and their engines offer, but for what the workflow writes
    otherwise, what hardly works at all, and what `why_not` says."""
    found = False
    for step in seen.stages():
        for turn in offered(step):
            if turn.strategy != strategy:
                continue
            found = True
            change = f"{step.name}: {spelled(turn.settings)}"
            why = _kept(seen, step, turn.settings) or seen.idle(step) or why_not(step, turn)
            plan = with_settings(seen, step, turn.settings)
            if why:
                yield Refusal(strategy, change, why)
            elif plan != seen.plan:
                reason = ": ".join(filter(None, (turn.why, told(step, turn))))
                yield Proposal(strategy, change, plan, turn.answers, reason)
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


def with_settings(seen: Situation, step: Step, settings: Mapping[str, Any]) -> Plan:
    """The plan with settings of one stage."""
    stage = seen.plan.stage(step.name)
    return seen.plan.edit(step.name, settings={**stage.settings, **settings})


def _kept(seen: Situation, step: Step, settings: Mapping[str, Any]) -> str:
    """What a workflow writes, it keeps."""
    written = seen.graph.stages[step.name].params
    if all(written.get(key) == value for key, value in settings.items()):
        return "the workflow writes so itself"
    kept = {key: written[key] for key in settings if key in written and written[key] != settings[key]}
    return f"the workflow writes {spelled(kept)}, and what it writes it keeps" if kept else ""


def spelled(settings: Mapping[str, Any]) -> str:
    """Settings as a plan file writes them, on one line."""
    return ", ".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in settings.items())
