"""Finds out what has to be known before plans can be simulated: runs what is missing, and only that.

A step that was never seen with some settings is seen by running requests under a plan that has them. Several steps
are varied in one such plan, each once: what a step does hangs on its own settings. A model that was never measured on
some engine is run by itself.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tauten.describe.graph import Graph
from tauten.errors import TautenError
from tauten.improve.optimizer.testbed import Items, Testbed, Together
from tauten.improve.simulate.library import Library, cost_key, form_key
from tauten.plan.lower import Lowered, Step, lower
from tauten.plan.plan import Plan, StagePlan, diff_plans

Say = Callable[[str], None]
ALONE: Final[Together] = ((1, 1.0),)
NAMED: Final = 3  # settings on a line of progress: more of them hide what else it says


class Learner:
    """What is known of a workflow, and how it grows. `refused` keeps, by plan, why nothing could be learned."""

    def __init__(
        self,
        graph: Graph,
        items: Items,
        testbed: Testbed,
        *,
        more: Callable[[], bool] = lambda: True,
        say: Say = lambda text: None,
        weighs: bool = False,
    ) -> None:
        """With `weighs` the memory of every wanted plan is found out, too: an SLO limits it."""
        self.graph = graph
        self.items = items
        self.testbed = testbed
        self.library = Library()
        self.more = more
        self.say = say
        self.weighs = weighs
        self.failures: list[str] = []
        self._together: dict[tuple[str, str], Together] = {}  # by model and engine: settings hardly change it
        self._failed: set[str] = set()  # settings of stages, and costs, that could not be had

    def learn(self, present: Plan, wanted: Sequence[Plan]) -> None:
        """Whatever is missing to simulate the wanted plans, as far as time allows. What fails is kept as a reason
        and never tried again."""
        self._see(present, wanted)
        self._measure(wanted)
        if self.weighs:
            self.weigh([present, *wanted])

    # -- steps ------------------------------------------------------------------------------------------------

    def _see(self, present: Plan, wanted: Sequence[Plan]) -> None:
        if not self.library.inputs:
            self._capture(_apart(present), {})
        left = self._variations([present, *wanted])
        while left and self.more():
            turn = {stage: variants[0] for stage, variants in left.items()}
            self._capture(_apart(present), turn)
            left = self._variations([present, *wanted])

    def _variations(self, wanted: Sequence[Plan]) -> dict[str, list[StagePlan]]:
        """By stage the settings under which it was never seen."""
        found: dict[str, dict[str, StagePlan]] = {}
        for plan in wanted:
            for unknown in self.library.unknown(lower(self.graph, plan)):
                if unknown.role:
                    continue
                stage = unknown.step.stage
                settings = msgspec.structs.replace(plan.stage(stage), beside=(), why="", locked=False)
                key = _spelled(stage, settings)
                if key not in self._failed:
                    found.setdefault(stage, {})[key] = settings
        return {stage: list(each.values()) for stage, each in found.items()}

    def _capture(self, plan: Plan, turn: dict[str, StagePlan]) -> None:
        """Run requests with these stages varied; where that fails, with one of them at a time."""
        present = plan
        for stage, settings in turn.items():
            plan = msgspec.structs.replace(plan, stages={**plan.stages, stage: settings})
        self.say(f"run {len(self.items)} requests{_with(present, turn)}")
        only = set(turn) if self.library.inputs else set()
        before = {_spelled(stage, settings) for stage, settings in turn.items()}
        try:
            seen = self.testbed.capture(plan, self.items, only)
        except TautenError as error:
            if len(turn) > 1:
                for stage, settings in turn.items():
                    self._capture(present, {stage: settings})
                return
            if not self.library.inputs:
                raise  # the very first plan: there is nothing to optimise
            self.failures.append(f"{', '.join(turn)}: {error.message}")
            self._failed |= before
            return
        self.library.add(seen, only=only or None)
        self._failed |= before  # whatever it did not show, running it again will not show either

    # -- models -----------------------------------------------------------------------------------------------

    def _measure(self, wanted: Sequence[Plan]) -> None:
        for plan in wanted:
            lowered = lower(self.graph, plan)
            for step, role in self._unmeasured(lowered):
                if not self.more():
                    return
                if self.library.wants_streams(step.models[role]):
                    self._stream(plan, step, role)
                else:
                    self._run(plan, step, role)

    def _unmeasured(self, lowered: Lowered) -> list[tuple[Step, str]]:
        """Models of which no run is known, or none in a batch larger than the plan now allows."""
        found = []
        for step in lowered.steps:
            for role, choice in step.models.items():
                key = cost_key(choice)
                asked = choice.backend and self.library.asked(lowered, step, role)
                wanted = asked and (self.library.wants_runs(choice) or self.library.wants_streams(choice))
                if wanted and key not in self._failed:
                    found.append((step, role))
        return found

    def _stream(self, plan: Plan, step: Step, role: str) -> None:
        choice = step.models[role]
        engine, found = (choice.model, choice.backend), False
        if engine not in self._together:
            self.say(f"{choice.model}: streams side by side")
            try:
                self._together[engine] = self.testbed.streams(plan, step.name, role, self.items)
                found = True
            except TautenError as error:
                self.failures.append(f"{step.name}.{role}, streams side by side: {error.message}")
                self._together[engine] = ALONE  # each of two takes twice as long: no gain is made up
        self.library.add_streams(choice, self._together[engine])
        self._moving(plan, step, role)
        if found:
            self._held(plan, step, role)

    def _run(self, plan: Plan, step: Step, role: str) -> None:
        choice = step.models[role]
        threads = f" on {choice.threads} threads" if choice.threads else ""
        self.say(f"{choice.model} by itself: {choice.backend} {choice.precision}{threads}".rstrip())
        self._failed.add(cost_key(choice))
        try:
            runs = self.testbed.runs(plan, step.name, role, self.items)
        except TautenError as error:
            self.failures.append(f"{step.name}.{role} on {choice.backend}: {error.message}")
            return
        self.library.add_runs(choice, runs)
        self._moving(plan, step, role)
        self._held(plan, step, role)

    # -- memory -----------------------------------------------------------------------------------------------

    def weigh(self, plans: Sequence[Plan]) -> None:
        """What the models of plans hold of memory, where nobody knows it yet: each is opened once for it."""
        for plan in plans:
            for step in lower(self.graph, plan).steps:
                for role, choice in step.models.items():
                    if choice.backend and self.library.held(choice) is None:
                        self._held(plan, step, role)

    def _moving(self, plan: Plan, step: Step, role: str) -> None:
        """How much of its time a model that was just measured moves bytes."""
        try:
            moving = self.testbed.moving(plan, step.name, role, self.items)
        except TautenError as error:
            self.failures.append(f"{step.name}.{role}, bytes that it moves: {error.message}")
            return
        self.library.add_moving(step.models[role], moving)

    def _held(self, plan: Plan, step: Step, role: str) -> None:
        choice = step.models[role]
        key = f"memory {form_key(choice)}"
        if key in self._failed or self.library.held(choice) is not None:
            return
        self._failed.add(key)
        try:
            self.library.add_held(choice, self.testbed.held(plan, step.name, role, self.items))
        except TautenError as error:
            self.failures.append(f"{step.name}.{role}, memory: {error.message}")


def _apart(plan: Plan) -> Plan:
    """The plan one step after another: what runs side by side slows each other."""
    stages = {name: msgspec.structs.replace(stage, beside=()) for name, stage in plan.stages.items()}
    return msgspec.structs.replace(plan, stages=stages)


def _spelled(stage: str, settings: StagePlan) -> str:
    return f"{stage} {msgspec.json.encode(settings, order='deterministic').decode()}"


def _with(present: Plan, turn: dict[str, StagePlan]) -> str:
    """The settings that are varied, as a plan spells them; the first few of many."""
    varied = msgspec.structs.replace(present, stages={**present.stages, **turn})
    told = [f"{stage}.{key} = {_word(new)}" for stage, key, _, new in diff_plans(present, varied)]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return f" with {', '.join(told[:NAMED])}{more}" if told else ""


def _word(value: object) -> str:
    return "its default" if value is None else msgspec.json.encode(value).decode()
