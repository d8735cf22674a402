"""Stages that a plan can run in several ways: each way a stage of its own, and a choice in place of the one drawn."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import asdict, replace

from tauten.describe.flow import choice_kind
from tauten.describe.graph import FromStage, Graph, Source, Stage
from tauten.errors import PlanError
from tauten.plan.plan import Choices, ModelChoice, Plan, RouteOption, RoutePlan, StagePlan

MARK: Final = ":"  # between a stage and the way that it runs; no stage gets such a name by itself


def routed(graph: Graph, plan: Plan) -> tuple[Graph, Plan]:
    """The graph and the plan with the routes of the plan as choices; both as they are where it has none.

    A stage keeps its name, which is now that of the choice; its ways are called ``stage:option``. They have the
    inputs and the settings of the stage, and of its plan what their option does not say otherwise.
    """
    chosen = {name: stage.route for name, stage in plan.stages.items() if stage.route is not None}
    if not chosen:
        return graph, plan
    stages: dict[str, Stage] = {}
    planned = dict(plan.stages)
    for name, stage in graph.stages.items():
        route = chosen.get(name)
        if route is None:
            stages[name] = stage
            continue
        _check(stage, route)
        base = planned[name]
        for option in route.options:
            way = f"{name}{MARK}{option.name}"
            stages[way] = Stage(
                way, stage.kind, stage.inputs, stage.params, stage.output, stage.place, stage.control
            )
            planned[way] = overlaid(replace(base, route=None, beside=(), why=""), option.stage)
        stages[name] = _choice(stage, route)
        planned[name] = StagePlan(beside=base.beside, channel=base.channel, locked=True, why=base.why)
    changed = Graph(
        stages, graph.inputs, graph.result, graph.output, graph.session, graph.notes, drawn=graph.hash
    )
    return changed, replace(plan, stages=planned)


def _choice(stage: Stage, route: RoutePlan) -> Stage:
    """What stands in place of a stage: a choose among its ways, under the policy of the plan."""
    inputs: dict[str, Source] = {
        f"value{at}": FromStage(f"{stage.name}{MARK}{option.name}") for at, option in enumerate(route.options)
    }
    prices = {
        str(at): option.cents_per_token
        for at, option in enumerate(route.options)
        if option.cents_per_token is not None
    }
    settings = dict(route.settings)
    if stage.kind.pure:  # running it twice is harmless: a failure costs its time alone
        settings.setdefault("falls_back", True)
    params: dict[str, Any] = {
        "gates": {},
        "policy": route.policy,
        "options": settings,
        "prices": prices,
        "planned": True,  # no code says what its answers are worth
    }
    return Stage(stage.name, choice_kind(), inputs, params, stage.output, stage.place, "choose")


def _check(stage: Stage, route: RoutePlan) -> None:
    names = [option.name for option in route.options]
    if stage.control not in ("", "map"):
        raise _refused(stage, "it is control flow, which runs no model", "name the stage that does")
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise _refused(stage, f"its options are {names}", "give two or more, each with a name of its own")
    for option in route.options:
        _check_option(stage, option)
    if route.settings.get("falls_back") and not stage.kind.pure:
        raise _refused(
            stage,
            "it has effects, and falls_back would run it again",
            "drop falls_back, or mark the stage pure=True where running it twice is harmless",
        )


def _check_option(stage: Stage, option: RouteOption) -> None:
    price = option.cents_per_token
    if price is not None and not 0.0 <= price < float("inf"):
        raise _refused(
            stage, f"cents_per_token = {price!r}", "give cents, 0 or more; leave out what is unknown"
        )
    if MARK in option.name or "." in option.name or "[" in option.name:
        raise _refused(stage, f"an option is called {option.name!r}", "use letters, digits, - and _")


def _refused(stage: Stage, what: str, help: str) -> PlanError:
    return PlanError(f"the route of stage '{stage.name}': {what}", help=help, code="E141")


def overlaid(base: StagePlan, over: StagePlan) -> StagePlan:
    """A stage's plan with what an option says otherwise; settings and roles are laid one over the other."""
    roles = {
        name: _over(base.roles.get(name, ModelChoice()), over.roles.get(name, ModelChoice()))
        for name in {**base.roles, **over.roles}
    }
    found: StagePlan = _over(base, over)
    return replace(found, roles=roles, settings={**base.settings, **over.settings})


def _over(base: Any, over: Choices) -> Any:
    """`base` with the fields of `over` that are not the default."""
    plain = asdict(type(over)())
    said = {name: value for name, value in asdict(over).items() if value != plain[name]}
    if isinstance(over, ModelChoice):
        said["options"] = {**base.options, **over.options}
    return replace(base, **said)
