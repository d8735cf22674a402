"""What a strategy may look at, and what it says: changes of a plan to be tried, and refusals with their reasons."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol

import msgspec

from tauten.describe.graph import Graph
from tauten.describe.slo import Slo
from tauten.describe.turn import Answers
from tauten.plan.card import Card
from tauten.plan.hardware import Hardware
from tauten.plan.lower import Lowered, Step, lower
from tauten.plan.plan import Choices, ModelChoice, Plan
from tauten.run.contracts import find

Said = str | Sequence[Mapping[str, str]]
"""A text by itself, or messages of `role` and `content`; a raw completion is one of the role ``prompt``."""

FULL = "f32"  # full precision, as plans spell it
WORTH = 0.01  # of a request's time: a step that takes less of it cannot gain what a change must gain


class Proposal(msgspec.Struct, frozen=True):
    """A plan to be tried in place of the present one."""

    strategy: str
    change: str  # what is different, in few words
    plan: Plan
    answers: Answers
    why: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """What is not worth trying, and why."""

    strategy: str
    change: str
    why: str


class Asks(NamedTuple):
    """What a request that comes to a step asks of one of its models, in the mean."""

    share: float  # of all requests that come to the step
    items: float  # of those, each
    together: float  # items that it asks for at once


class Tokens(NamedTuple):
    """What the streams of one model of a step read and wrote, in tokens; all zeros where none was seen."""

    prompt: float  # in the mean
    fresh: float  # of these not in a cache, in the mean
    longest_prompt: float
    answer: float  # the median
    longest: float
    first_s: float  # until the first token, the median
    token_s: float  # each further one, the median

    @property
    def read_s(self) -> float:
        """Seconds to read one token of a prompt that is not in a cache; 0.0 where none was seen."""
        return self.first_s / self.fresh if self.fresh else 0.0


NO_TOKENS = Tokens(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class First(NamedTuple):
    """One of the first requests after a start."""

    seconds: float
    usual_s: float  # that it takes later


class Repeated(NamedTuple):
    """What a cache before a step would meet."""

    share: float  # of the requests that come to the step: they give it what an earlier one gave it
    lookup_s: float  # seconds to name what it is given, and to look for it
    inputs: tuple[str, ...] = ()  # of the workflow, that the step hangs on


class Facts(Protocol):
    """What was measured of a workflow."""

    def work_s(self, step: str) -> float:
        """Seconds in which a request's step works, in the mean of those that come to it; 0.0 where none did."""
        ...

    def asks(self, step: str, role: str) -> Asks:
        """Zeros where it was never seen."""
        ...

    def run_s(self, step: str, role: str) -> float:
        """Seconds of a run of one item under the present plan; 0.0 where it was never seen."""
        ...

    def tokens(self, step: str, role: str) -> Tokens: ...

    def quoted(self, step: str) -> float | None:
        """The share of three words in a row of a step's answers that stand in what it read; None: not known."""
        ...

    def firsts(self) -> Sequence[First]:
        """The first requests after models were loaded, one after another, in their order; empty: not seen."""
        ...

    def repeats(self, step: str) -> Repeated:
        """How often requests give a step what an earlier one gave it, in the order in which they came."""
        ...


class Forms(Protocol):
    """The forms of models that lie on this machine, how others are made, and how they count a text."""

    def cards(self, model: str) -> Sequence[Card]:
        """One of each form that is here, the model's default first; without figures where none were measured."""
        ...

    def unbuilt(self, model: str) -> Sequence[Unbuilt]:
        """Recipes that could make another form of it, and have not."""
        ...

    def readers(self, format: str) -> Sequence[str]:
        """The backends that read a format."""
        ...

    def counted(self, choice: ModelChoice, said: Said) -> int | None:
        """Tokens of a text, or of messages with their marks, by a language model's own tokenizer; None where that is
        not here, or cannot be opened alone."""
        ...


class Unbuilt(NamedTuple):
    """A recipe that was not followed for a model."""

    recipe: str
    writes: str  # a format
    doubt: str  # why it is not advised; empty where it may well pay


class NoForms:
    """Nothing is known of any form."""

    def cards(self, model: str) -> Sequence[Card]:
        return ()

    def unbuilt(self, model: str) -> Sequence[Unbuilt]:
        return ()

    def readers(self, format: str) -> Sequence[str]:
        return ()

    def counted(self, choice: ModelChoice, said: Said) -> int | None:
        return None


class Situation:
    """A plan, the workflow and machine that it is for, and what is known of them. `rate` in requests a second."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        hardware: Hardware,
        slo: Slo,
        rate: float,
        facts: Facts,
        forms: Forms | None = None,
        processors: Sequence[int] = (),
    ) -> None:
        """`processors` are those that replicas may be bound to; as many as there are cores, where none are named."""
        self.graph = graph
        self.plan = plan
        self.hardware = hardware
        self.slo = slo
        self.rate = rate
        self.facts = facts
        self.forms: Forms = forms or NoForms()
        self.processors = tuple(processors) or tuple(range(hardware.cores))

    @cached_property
    def lowered(self) -> Lowered:
        return lower(self.graph, self.plan)

    def free(self, stage: str) -> bool:
        """Whether a stage may be changed: nobody has locked it."""
        return not self.plan.stage(stage).locked

    def stages(self) -> Iterator[Step]:
        """The steps of stages that may be changed: decode and control steps are none, nor the ways of a route."""
        for step in self.lowered.steps:
            runs = step.view is None and step.kind is not None and step.control in ("", "map")
            if runs and step.name in self.graph.stages and self.free(step.name):
                yield step

    @cached_property
    def _whole(self) -> tuple[float, str]:
        """Seconds of which a hundredth is worth something: of all work, or of the tightest limit, which may be that
        of a first output that little of the work comes before."""
        work_s = sum(self.facts.work_s(step.name) for step in self.lowered.steps)
        limits_s = [value / 1e3 for name, value in self.slo.limits().items() if name.endswith("_ms")]
        tightest_s = min(limits_s, default=work_s)
        return (tightest_s, "the tightest limit") if tightest_s < work_s else (work_s, "all work")

    def idle(self, step: Step) -> str:
        """Why nothing is to be gained at a step, whatever is changed there; empty where something may be."""
        work_s, (whole_s, what) = self.facts.work_s(step.name), self._whole
        if not work_s:
            return f"no request of the recording came to {step.name}"
        if work_s < WORTH * whole_s:
            return f"{step.name} works for {work_s * 1e3:.2g} ms, {work_s / whole_s:.1%} of {what}: nothing to gain there"
        return ""

    @property
    def worth_s(self) -> float:
        """Seconds of a request that are worth a change; less of them is lost in what measurements scatter."""
        return WORTH * self._whole[0]

    def models(self) -> Iterator[tuple[Step, str, ModelChoice]]:
        """(step, role, choice) of each model of a stage that may be changed."""
        for step in self.stages():
            for role, choice in step.models.items():
                if choice.backend:
                    yield step, role, choice

    def written_backend(self, step: Step) -> str:
        """The engine that the workflow itself writes for a stage, which no plan changes; empty where it writes none."""
        return str(self.graph.stages[step.name].params.get("backend") or "")


class Strategy(Protocol):
    """One idea. `reason` says why it stands where it stands in the order."""

    name: ClassVar[str]
    reason: ClassVar[str]

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]: ...


def computes_in(choice: ModelChoice, here: Hardware) -> str:
    """The precision in which a model computes on a machine: what the plan says, else what its engine chooses there.

    Engines that offer full precision or bf16 beside their own choose bf16 where the processor has units for it; for all
    others, and on all other machines, the default is full precision already.
    """
    if choice.precision:
        return choice.precision
    offered = getattr(find("backends", choice.backend), "precisions", ()) if choice.backend else ()
    return "bf16" if {"f32", "bf16"} & set(offered) and "amx" in here.flags else FULL


def with_choice(plan: Plan, step: Step, role: str, **changes: object) -> Plan:
    """The plan with another choice for one model: said of the stage where it has only that one."""
    stage = plan.stage(step.name)
    if len([each for each in step.models.values() if each.backend]) == 1:
        plan = plan.edit(step.name, **changes)
        if role not in stage.roles:
            return plan  # else what is said of the role goes before
    own: Choices = stage.roles.get(role, ModelChoice())
    return plan.edit(step.name, roles={**stage.roles, role: msgspec.structs.replace(own, **changes)})


def label(step: Step, role: str) -> str:
    """A model as people find it in a plan."""
    return step.name if len(step.models) == 1 else f"{step.name}.{role}"
