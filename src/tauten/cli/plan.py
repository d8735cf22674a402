"""`tauten plan`: show, compare, check and mend plan files."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.output import write_output
from tauten.cli.target import load_workflow
from tauten.describe.workflow import Workflow
from tauten.errors import PlanError
from tauten.models.store import Store
from tauten.models.variants import is_built
from tauten.plan.hardware import hardware
from tauten.plan.lower import default_plan, lower
from tauten.plan.plan import ModelChoice, Plan, diff_plans, format_plan, load_plan, rebase
from tauten.run.contracts import find
from tauten.run.steps import check_settings

app = typer.Typer(help="Show, diff, lint and rebase plans.", no_args_is_help=True, add_completion=False)

Target = Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN.toml", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with a schema name.")]


@app.command()
def show(
    target: Target,
    plan: Annotated[Path | None, typer.Option(help="A plan file; the naive plan without one.")] = None,
    full: Annotated[bool, typer.Option(help="Print the defaults too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a plan, or with --full everything that is in force."""
    workflow = load_workflow(target)
    chosen = load_plan(plan) if plan else _naive(workflow, target)
    if as_json:
        _print_json("show", plan=chosen.id, stages=_in_force(workflow, chosen) if full else chosen.stages)
    elif full:
        for step, keys in _in_force(workflow, chosen).items():
            typer.echo(f"[stage.{step}]" if "." not in step else f'[stage."{step}"]')
            for key, value in keys.items():
                typer.echo(f"{key} = {msgspec.json.encode(value).decode()}")
    else:
        typer.echo(format_plan(chosen), nl=False)


def _naive(workflow: Workflow[..., Any], target: str) -> Plan:
    if workflow.graph is None:
        return Plan(workflow=target, made_on=str(hardware()))
    return default_plan(workflow.graph, target, str(hardware()))


def _in_force(workflow: Workflow[..., Any], plan: Plan) -> dict[str, dict[str, Any]]:
    """Every step with its models, settings and order: what lowering makes of the plan."""
    if workflow.graph is None:
        raise PlanError(
            f"{workflow.name} is `async def`: its steps are known once it runs",
            code="E113",
            help="run it once: `tauten explain --analyze` shows what it did",
        )
    shown = {}
    for step in lower(workflow.graph, plan).steps:
        keys: dict[str, Any] = {"after": list(step.upstream)} if step.upstream else {}
        kept = step.plan.cache if step.view is None else step.plan.cache_view
        if kept:
            keys["cache" if step.view is None else "cache_view"] = msgspec.to_builtins(kept)
        if step.view is not None:
            keys |= {"decode": step.plan.decode, "view": step.view.name}
        for role, choice in step.models.items():
            keys[role] = _choice(choice)
        if not step.control:
            keys |= {key: value for key, value in step.params.items() if _plain(value)}
        shown[step.name] = keys
    return shown


def _choice(choice: ModelChoice) -> dict[str, Any]:
    """How a model runs; its limits of batches are left out where there are none, or an engine's own."""
    keys = {key: value for key, value in msgspec.structs.asdict(choice).items() if key != "options"}
    if choice.backend and not hasattr(find("backends", choice.backend), "start"):
        keys["batch"] = msgspec.structs.asdict(choice.batch)
    else:
        del keys["batch"]
    return keys | {key: value for key, value in choice.options.items() if _plain(value)}


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | tuple | type(None))


@app.command()
def diff(old: PlanFile, new: PlanFile, as_json: AsJson = False) -> int:
    """Print what differs between two plans, each with its reason; exit code 1 when something does."""
    one, other = load_plan(old), load_plan(new)
    rows = diff_plans(one, other)
    if as_json:
        keys = ("stage", "key", "old", "new", "why")
        _print_json(
            "diff", changes=[dict(zip(keys, (*row, _why(one, other, row[0])), strict=True)) for row in rows]
        )
    for stage, key, before, after in [] if as_json else rows:
        why = _why(one, other, stage)
        typer.echo(f"{stage}.{key}: {_word(before)} -> {_word(after)}" + (f"    {why}" if why else ""))
    return 1 if rows else 0


def _why(old: Plan, new: Plan, stage: str) -> str:
    """The reason that the newer plan gives for a stage; where it gives none, what the older one gave for its own."""
    why, before = new.stage(stage).why, old.stage(stage).why
    return why or (f"before: {before}" if before else "")


def _word(value: Any) -> str:
    return "default" if value is None else msgspec.json.encode(value).decode()


@app.command()
def lint(target: Target, plan: PlanFile) -> None:
    """Check a plan against its workflow, its models and its backends, without loading any."""
    workflow = load_workflow(target)
    chosen = load_plan(plan)
    if workflow.graph is not None:
        for step in lower(workflow.graph, chosen).steps:
            if step.kind is not None:
                policy = str(step.params.get("policy") or "")
                check_settings(step.name, step.kind, step.plan, step.models, policy)
                _check_models(step.models)
    if workflow.graph is not None:
        typer.echo(f"{plan.name}: fits {workflow.name}")
    else:
        typer.echo(f"{plan.name}: is a plan; {workflow.name} is `async def`, and binds it as it runs")
    if chosen.made_on and chosen.made_on != str(hardware()):
        typer.echo(
            f"made on {chosen.made_on}; this is {hardware()}: measure again before you rely on it", err=True
        )


def _check_models(models: Mapping[str, ModelChoice]) -> None:
    """Raise for a model or variant that is not known, or was not built here; those of backends that need no files may have any name."""
    store = Store()
    for choice in models.values():
        if choice.backend and getattr(find("backends", choice.backend), "needs_files", True):
            model, variant = store.find(choice.model, choice.variant or None)
            if is_built(variant):
                store.variants.require(model, variant)


@app.command("rebase")
def rebase_plan(target: Target, plan: PlanFile, as_json: AsJson = False) -> int:
    """Fit a plan to its changed workflow, in place; prints what was dropped."""
    workflow = load_workflow(target)
    if workflow.graph is None:
        raise PlanError(
            f"{workflow.name} is `async def`: its plan is bound as it runs",
            code="E113",
            help="run it with the plan: `tauten explain --analyze --plan FILE` binds it step by step",
        )
    old = load_plan(plan)
    mended, dropped = rebase(old, workflow.graph)
    if old.result:
        dropped.append("its result, which was measured on another workflow")
    lines = plan.read_text(encoding="utf-8-sig").splitlines()
    if any(line.lstrip().startswith("#") for line in lines):
        dropped.append("its comments")
    write_output(plan, format_plan(mended))
    if as_json:
        _print_json("rebase", plan=mended.id, dropped=dropped)
    for line in [] if as_json else dropped:
        typer.echo(f"dropped: {line}")
    return 0


def _print_json(command: str, **content: Any) -> None:
    record = {"schema": f"tauten.plan.{command}/1", **content}
    typer.echo(msgspec.json.format(msgspec.json.encode(record)).decode())
