"""Lowers a workflow and a plan to steps in an order of execution: sequences, branches, knots.

The naive plan runs one stage after another as they were written. `beside` frees pairs of stages of that
order. What is left is a partial order; it is cut into series and parallel parts, so that a straight line
costs no task, and n branches cost n-1.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tauten.describe.graph import FromStage, Graph, Source, Stage, stages_in
from tauten.describe.stage import StageKind
from tauten.describe.view import View
from tauten.errors import PlanError, suggest
from tauten.plan.batches import in_force
from tauten.plan.caching import check_drawn
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan, check_fit
from tauten.plan.routed import routed

SIDE_PORTS = ("then", "otherwise", "value", "gate", "score")
"""Inputs of control stages that are evaluated only when the word says so."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One thing the engine does. `view` marks a decode step; `models` are the choices per role."""

    name: str
    kind: StageKind[..., Any] | None
    inputs: dict[str, Source]
    params: dict[str, Any]
    models: dict[str, ModelChoice]
    plan: StagePlan
    control: str = ""
    view: View | None = None
    sides: dict[str, Program] = field(default_factory=dict)
    place: str = ""

    @property
    def streams(self) -> bool:
        """Whether it goes on after the next step has begun."""
        return self.kind is not None and self.kind.streams and not self.control

    @property
    def stage(self) -> str:
        """The stage that it belongs to: its own, or the one that it decodes for."""
        return self.name if self.view is None else self.name.rpartition(".")[0]

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the steps it waits for, those of its sides included."""
        return tuple(dict.fromkeys(name for source in self.inputs.values() for name in stages_in(source)))


@dataclass(frozen=True, slots=True)
class Program:
    """Steps and how they are ordered: `shape` says how `parts` hang together."""

    shape: Literal["step", "series", "parallel", "knot"]
    step: Step | None = None
    parts: tuple[Program, ...] = ()
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of a knot: step -> steps before it

    def steps(self) -> Iterable[Step]:
        """All steps, sides included, in a legal order."""
        if self.step is not None:
            for side in self.step.sides.values():
                yield from side.steps()
            yield self.step
        for part in self.parts:
            yield from part.steps()


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """A workflow and a plan, ready to be opened."""

    graph: Graph
    plan: Plan
    program: Program
    edges: dict[str, tuple[str, ...]]
    order: dict[str, tuple[str, ...]]  # step -> steps that the program ends right before it
    result: Source

    @property
    def steps(self) -> list[Step]:
        return list(self.program.steps())


def lower(graph: Graph, plan: Plan | None = None) -> Lowered:
    """Make the steps; raises PlanError where the plan does not fit the workflow."""
    said = plan or Plan(graph=graph.hash)
    check_fit(said, graph)
    graph, plan = routed(graph, said)
    steps = _steps(graph, plan)
    owners = _owners(graph, steps)
    program = _program(steps, owners, plan, "")
    edges = {step.name: _edges(step, steps) for step in steps.values()}
    order: dict[str, tuple[str, ...]] = {}
    _order(program, (), order)
    return Lowered(graph, said, program, edges, order, graph.result)


def _edges(step: Step, steps: dict[str, Step]) -> tuple[str, ...]:
    """Whom a step waits for; behind a control step, which hands values on, also the step that gives them."""
    found = list(step.upstream)
    for name in found:
        if steps[name].control:
            found += [each for each in steps[name].upstream if each not in found]
    return tuple(found)


def _order(program: Program, before: tuple[str, ...], found: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Notes for each step whose end it waits for in this program; returns those that end the program.

    A step that streams is not waited for: what follows it begins when those before it have ended.
    """
    if program.shape == "parallel":
        return tuple(name for part in program.parts for name in _order(part, before, found))
    if program.shape == "knot":
        return _order_knot(program, before, found)
    for part in program.parts:
        before = _order(part, before, found)
    if program.step is None:
        return before
    for side in program.step.sides.values():
        before = _order(side, before, found)
    found[program.step.name] = before
    return before if program.step.streams else (program.step.name,)


def _order_knot(
    program: Program, before: tuple[str, ...], found: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    ends: dict[str, tuple[str, ...]] = {}
    for part, (name, needs) in zip(program.parts, program.needs.items(), strict=True):
        ends[name] = _order(part, tuple(end for each in needs for end in ends[each]) or before, found)
    inner = {each for needs in program.needs.values() for each in needs}
    return tuple(end for name in ends if name not in inner for end in ends[name])


def model_choices(
    kind: StageKind[..., Any], stage: StagePlan, params: dict[str, Any]
) -> dict[str, ModelChoice]:
    """Model, backend and the rest for each role: what was written, else the plan, else the default."""
    unknown = [role for role in stage.roles if role not in kind.roles]
    if unknown:
        raise PlanError(
            f"stage kind '{kind.name}' has no role or table `{unknown[0]}`",
            help=suggest(unknown[0], kind.roles),
            code="E109",
        )
    named = str(params.get("model") or "") or stage.model
    several = [role for role, wanted in kind.roles.items() if wanted.backends]
    if named and len(several) > 1:
        raise PlanError(
            f"model={named!r} for '{kind.name}', which runs {len(several)} models: {', '.join(several)}",
            help=f'say which one in the plan: [stage.NAME.{several[0]}] model = "{named}"',
            code="E118",
        )
    return {role: _choice(kind, role, stage, params) for role in kind.roles}


def _choice(kind: StageKind[..., Any], role: str, stage: StagePlan, params: dict[str, Any]) -> ModelChoice:
    wanted = kind.roles[role]
    own = stage.roles.get(role, ModelChoice())
    alone = len([each for each in kind.roles.values() if each.backends]) == 1
    written = str(params.get("model") or "") if alone else ""
    planned = stage.model if alone else ""
    if written and planned and written != planned:
        raise PlanError(
            f"the workflow pins model={written!r}, the plan says {planned!r}",
            help="what you write, it keeps: drop one of the two",
            code="E126",
        )
    known = {key: value for key, value in stage.settings.items() if key not in kind.params}
    options = {**wanted.options, **known, **own.options}
    return ModelChoice(
        model=own.model or written or planned or wanted.model,
        variant=own.variant or stage.variant or wanted.variant,
        backend=own.backend
        or str(params.get("backend") or "")
        or stage.backend
        or next(iter(wanted.backends), ""),
        precision=own.precision or stage.precision,
        threads=own.threads or stage.threads,
        replicas=max(own.replicas, stage.replicas),
        batch=in_force(own.batch if own.batch != Batch() else stage.batch, kind, options),
        cpus=own.cpus or stage.cpus,
        nodes=own.nodes or stage.nodes,
        options=options,
    )


# -- steps -----------------------------------------------------------------------------------------------


def _steps(graph: Graph, plan: Plan) -> dict[str, Step]:
    """The workflow's stages and the decode steps that feed them, in order; dead pure stages left out."""
    steps: dict[str, Step] = {}
    shared: dict[tuple[str, str], str] = {}
    for stage in graph.stages.values():
        if _dead(graph, stage):
            continue
        chosen = plan.stage(stage.name)
        inputs = dict(stage.inputs)
        for port in stage.kind.views:
            if port in inputs and _sees(stage, port):
                inputs[port] = _decoded(stage, port, inputs[port], chosen, steps, shared)
        params = step_params(stage.kind, stage.params, chosen, stage.name)
        check_drawn(graph, stage, chosen, params)
        steps[stage.name] = Step(
            stage.name,
            stage.kind,
            inputs,
            params,
            {} if stage.control not in ("", "map") else model_choices(stage.kind, chosen, stage.params),
            chosen,
            stage.control,
            None,
            {},
            stage.place,
        )
    return steps


def _sees(stage: Stage, port: str) -> bool:
    """Whether an input is decoded once for the step; the members of a map are decoded one by one."""
    return not stage.control or (stage.control == "map" and port != stage.params["first"])


def step_params(
    kind: StageKind[..., Any], written: dict[str, Any], chosen: StagePlan, name: str
) -> dict[str, Any]:
    """The kind's defaults, then the plan's settings, then what the workflow wrote, which always wins."""
    planned = {key: value for key, value in chosen.settings.items() if key in kind.params}
    for key, value in planned.items():
        if key in written and written[key] != value:
            raise PlanError(
                f"stage '{name}': the workflow writes {key}={written[key]!r}, the plan says {value!r}",
                help="what you write, it keeps: drop one of the two",
                code="E126",
            )
    return {**kind.params, **planned, **written}


def _decoded(
    stage: Stage,
    port: str,
    source: Source,
    chosen: StagePlan,
    steps: dict[str, Step],
    shared: dict[tuple[str, str], str],
) -> Source:
    """Insert the decode step that this input needs, or reuse one that gives the same view."""
    params = step_params(stage.kind, stage.params, chosen, stage.name)
    view = stage.kind.view_of(port, params, chosen.view)
    key = (repr(source), view.name)
    if key not in shared:
        name = shared[key] = f"{stage.name}.{port}"
        steps[name] = Step(name, None, {"payload": source}, {}, {}, chosen, "", view, {}, stage.place)
    return FromStage(shared[key])


def _dead(graph: Graph, stage: Stage) -> bool:
    """A pure stage whose result nobody uses; one with effects is run for its effect."""
    used = graph.consumers(stage.name) or stage.name in list(stages_in(graph.result))
    return not used and (stage.kind.pure or bool(stage.control))


# -- who runs only when a side is taken --------------------------------------------------------------------


def _owners(graph: Graph, steps: dict[str, Step]) -> dict[str, str]:
    """For each step the side (``control/port``) that alone uses it, or "" when it always runs."""
    kept = set(stages_in(graph.result))
    users: dict[str, list[tuple[str, str]]] = {name: [] for name in steps}
    for step in steps.values():
        for port, source in step.inputs.items():
            for name in stages_in(source):
                users[name].append((step.name, port))
    owners: dict[str, str] = {}
    for name in reversed(steps):
        sides = {_side(steps[user], port, owners) for user, port in users[name]}
        owners[name] = "" if name in kept else _owner(sides, steps, owners)
    return owners


def _owner(sides: set[str], steps: dict[str, Step], owners: dict[str, str]) -> str:
    """The innermost side that runs before all that use a step, or "" where only the main line does."""
    if not sides:
        return ""
    found = ""
    for level in itertools.zip_longest(*(_nesting(side, owners) for side in sides), fillvalue=""):
        if len(set(level)) > 1:
            return _asked_first(set(level), steps) or found
        found = level[0]
    return found


def _nesting(side: str, owners: dict[str, str]) -> list[str]:
    """A side and those around it, the outermost first."""
    chain: list[str] = []
    while side:
        chain.insert(0, side)
        side = owners[side.rpartition("/")[0]]
    return chain


def _asked_first(sides: set[str], steps: dict[str, Step]) -> str:
    """The side of one choose that is surely evaluated before the others, if there is one."""
    control, *others = {side.rpartition("/")[0] for side in sides}
    if others or not control or steps[control].control != "choose":
        return ""
    ports = {side.rpartition("/")[2] for side in sides}
    asked = [port for port in _asked(steps[control]) if port in ports]
    if steps[control].params.get("policy"):  # all gates first; then nobody knows whose turn it is
        gates = [port for port in asked if port.startswith("gate")]
        places = {port.lstrip("scorevalu") for port in ports}
        sure = gates or [f"value{place}" for place in places if len(places) == 1]
        return f"{control}/{sure[0]}" if sure else ""
    if not asked or ports - set(asked):  # nobody asks for scores
        return ""
    first = asked[0]
    sure_first = first.startswith("gate") or f"gate{first.removeprefix('value')}" not in steps[control].inputs
    return f"{control}/{first}" if sure_first else ""


def _asked(choose: Step) -> list[str]:
    """The ports of a choose in the order in which they are evaluated."""
    count = sum(port.startswith("value") for port in choose.inputs)
    return [f"{word}{index}" for index in range(count) for word in ("gate", "value")]


def _side(user: Step, port: str, owners: dict[str, str]) -> str:
    return f"{user.name}/{port}" if is_side(user, port) else owners[user.name]


def is_side(step: Step, port: str) -> bool:
    """Whether an input of a control step is evaluated only when its turn comes."""
    if step.control not in ("when", "choose", "fallback"):
        return False
    return port.rstrip("0123456789") in SIDE_PORTS


# -- order -----------------------------------------------------------------------------------------------


def _program(steps: dict[str, Step], owners: dict[str, str], plan: Plan, owner: str) -> Program:
    """The program of the steps that belong to one side ("" is the main line)."""
    inner: dict[str, Step] = {}
    for name, step in steps.items():
        if owners[name] == owner:
            inner[name] = _with_sides(step, steps, owners, plan)
    names = list(inner)
    before = _before(names, steps, owners, plan, owner)
    return _cut(names, inner, before)


def _with_sides(step: Step, steps: dict[str, Step], owners: dict[str, str], plan: Plan) -> Step:
    sides = {
        port: _program(steps, owners, plan, f"{step.name}/{port}")
        for port in step.inputs
        if is_side(step, port) and f"{step.name}/{port}" in owners.values()
    }
    if not sides:
        return step
    fields = {name: getattr(step, name) for name in step.__dataclass_fields__}
    return Step(**{**fields, "sides": sides})


def _before(
    names: list[str], steps: dict[str, Step], owners: dict[str, str], plan: Plan, owner: str
) -> dict[str, set[str]]:
    """For each step all steps of its program that must come before it (transitively)."""
    place = {name: index for index, name in enumerate(names)}
    before: dict[str, set[str]] = {}
    for index, name in enumerate(names):
        needed = {each for each in _needed(name, steps, owners, owner) if each in place}
        for earlier in names[:index]:
            if not _beside(steps[earlier], steps[name], plan):
                needed.add(earlier)
        closed = set(needed)
        for each in needed:
            closed |= before[each]
        before[name] = closed
    return before


def _needed(name: str, steps: dict[str, Step], owners: dict[str, str], owner: str) -> set[str]:
    """Steps whose results a step uses, or that the steps on its sides use."""
    found = set(steps[name].upstream)
    mine = f"{name}/"
    for other, its_owner in owners.items():
        if its_owner.startswith(mine):
            found |= _needed(other, steps, owners, its_owner)
    return found


def _beside(one: Step, other: Step, plan: Plan) -> bool:
    a, b = one.stage, other.stage
    return b in plan.stage(a).beside or a in plan.stage(b).beside


def _cut(names: list[str], steps: dict[str, Step], before: dict[str, set[str]]) -> Program:
    """Series-parallel decomposition; what is neither stays a knot of tasks."""
    if not names:
        return Program("series")
    if len(names) == 1:
        return Program("step", steps[names[0]])

    def ordered(a: str, b: str) -> bool:
        return a in before[b] or b in before[a]

    series = _components(names, lambda a, b: not ordered(a, b))
    if len(series) > 1:
        series.sort(key=lambda group: len(before[group[0]] & set(names)))
        return Program("series", parts=tuple(_cut(group, steps, before) for group in series))
    parallel = _components(names, ordered)
    if len(parallel) > 1:
        return Program("parallel", parts=tuple(_cut(group, steps, before) for group in parallel))
    needs = {name: tuple(each for each in names if each in before[name]) for name in names}
    return Program("knot", parts=tuple(Program("step", steps[name]) for name in names), needs=needs)


def _components(names: list[str], joined: Callable[[str, str], bool]) -> list[list[str]]:
    """Connected components of `names` under a symmetric relation, members in order."""
    groups: list[list[str]] = []
    left = list(names)
    while left:
        group = [left.pop(0)]
        for member in group:
            near = [each for each in left if joined(member, each)]
            group += near
            left = [each for each in left if each not in near]
        groups.append(sorted(group, key=names.index))
    return groups


def default_plan(graph: Graph, workflow: str = "", made_on: str = "") -> Plan:
    """The naive plan: every default, stages in the order they were written."""
    return msgspec.structs.replace(Plan(), graph=graph.hash, workflow=workflow, made_on=made_on)
