"""`tauten explain`: a plan with its estimates; with --analyze one real request, every millisecond owned."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.output import check_outputs, write_output
from tauten.cli.target import load_workflow, read_inputs
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, PlanError
from tauten.explain.account import Account, Comparison, Estimate, account, compare
from tauten.explain.document import to_json
from tauten.explain.exports.perfetto import export
from tauten.explain.html import to_html
from tauten.explain.planned import SCHEMA as PLANNED_SCHEMA
from tauten.explain.planned import in_force_text, planned_document, planned_text
from tauten.explain.text import compare_text, to_text
from tauten.improve.analyze import header
from tauten.improve.recording import Recording
from tauten.improve.replay import (
    Replay,
    Served,
    estimates,
    keep_measurements,
    learn,
    load_measurements,
    parse_rank,
    replay,
)
from tauten.models.store import Store
from tauten.plan.hardware import hardware
from tauten.plan.lower import lower
from tauten.plan.plan import Plan, load_plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine

app = typer.Typer(add_completion=False)

Estimates = dict[str, Estimate]
REPEATS = 5  # requests of one input: the median of five is not the first, cold one


@app.command()
def explain(
    target: Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE|NAME=@FILE]...")] = None,
    plan: Annotated[
        list[Path] | None, typer.Option(help="A plan file; give two to see them side by side.")
    ] = None,
    analyze: Annotated[bool, typer.Option("--analyze", help="Run it, and show one real request.")] = False,
    recording: Annotated[Path | None, typer.Option(help="Run the requests of this recording.")] = None,
    repeat: Annotated[int, typer.Option(help="Run the given inputs this often.")] = REPEATS,
    at: Annotated[str, typer.Option(help="Which request to show: p50, p95, #7.")] = "p50",
    all_rows: Annotated[bool, typer.Option("--all", help="Unfold rows under 1 %.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page.")] = None,
    perfetto: Annotated[Path | None, typer.Option(help="Write a trace for ui.perfetto.dev.")] = None,
) -> int:
    """Show how a workflow would run; with --analyze, where the time of a real request went."""
    workflow = load_workflow(target)
    plans = [load_plan(path) for path in plan or []] or [naive(workflow)]
    if len(plans) > 2:
        raise InputError(f"{len(plans)} plans were given", help="give one, or two to compare", code="E260")
    if not analyze:
        if html is not None or perfetto is not None or recording is not None:
            raise InputError(
                "a page, a trace and a recording show requests that ran", help="add --analyze", code="E260"
            )
        _planned(workflow, plans, as_json)
        return 0
    parse_rank(at)
    check_outputs(html, perfetto)
    requests = list(_requests(workflow, inputs or [], recording, repeat))
    replays, known = run_async(_run(workflow, plans, requests))
    shown = _shown(workflow, plans, replays, known, at)
    _print(shown, replays, as_json, all_rows)
    if html is not None:
        write_output(html, to_html(shown))
    if perfetto is not None:
        picked = {done.plan: done.at(at).trace for done in replays}
        write_output(perfetto, export(picked, workflow=workflow.name))
    return 5 if any(served.error for done in replays for served in done.served) else 0


def naive(workflow: Workflow[..., Any]) -> Plan:
    """The plan of all defaults."""
    return Plan(graph=workflow.graph.hash if workflow.graph else "")


def _planned(workflow: Workflow[..., Any], plans: list[Plan], as_json: bool) -> None:
    if workflow.graph is None:
        raise PlanError(
            f"{workflow.name} is `async def`: its graph is observed as it runs",
            help="add --analyze and its inputs",
            code="E113",
        )
    known = load_measurements(measurements_path())
    planned = [(lowered, estimates(known, lowered)) for lowered in (lower(workflow.graph, p) for p in plans)]
    if as_json:
        documents = [planned_document(workflow.name, *each) for each in planned]
        document = documents[0] if len(documents) == 1 else {"schema": PLANNED_SCHEMA, "plans": documents}
        typer.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
        return
    for lowered, found in planned:
        typer.echo(planned_text(workflow.name, lowered, found, str(hardware())))


def measurements_path() -> Path:
    """Where this machine keeps what it measured: beside the models."""
    return Store().root / "measurements.json"


def _requests(
    workflow: Workflow[..., Any], pairs: list[str], recording: Path | None, repeat: int
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if recording is not None:
        kept = Recording.load(recording)
        if not len(kept):
            raise InputError(f"{str(recording)!r} holds no request", help="record some", code="E245")
        for item in kept:
            yield item.id, workflow.bind(**item.inputs)
            item.forget()
        return
    values = read_inputs(workflow, pairs)
    for number in range(max(1, repeat)):
        yield f"#{number + 1}", values


async def _run(
    workflow: Workflow[..., Any], plans: list[Plan], requests: list[tuple[str, Mapping[str, Any]]]
) -> tuple[list[Replay], list[Estimates]]:
    """Each plan alone, so that two sets of models do not share the cores; measurements are kept.

    The estimates are those of before: this run teaches the next one.
    """
    path = measurements_path()
    known = load_measurements(path)
    before = [estimates(known, lower(workflow.graph, each)) if workflow.graph else {} for each in plans]
    done = []
    for each in plans:
        async with Engine() as engine:
            name = await engine.open(workflow, each)
            replayed = await replay(engine, name, requests, progress=_progress(each.name, len(requests)))
            lowered = engine.plans[name].lowered
        if lowered is not None:
            learn(known, lowered, replayed.good[1:] or replayed.good)  # the first one warms caches up
        done.append(replayed)
    keep_measurements(known, path)
    return done, before


def _progress(plan: str, count: int) -> Any:
    seen = 0

    def tell(served: Served) -> None:
        nonlocal seen
        seen += 1
        if sys.stderr.isatty():
            print(
                f"\r{plan}: {seen} of {count}", end="\n" if seen == count else "", file=sys.stderr, flush=True
            )

    return tell


def _shown(
    workflow: Workflow[..., Any], plans: list[Plan], replays: list[Replay], known: list[Estimates], at: str
) -> Account | Comparison:
    accounts = [
        account(done.at(at).trace, estimates=found, header=header(workflow, done, at))
        for done, found in zip(replays, known, strict=True)
    ]
    if len(accounts) == 1:
        return accounts[0]
    return compare(accounts[0], accounts[1], name_a=plans[0].name, name_b=plans[1].name)


def _print(shown: Account | Comparison, replays: list[Replay], as_json: bool, all_rows: bool) -> None:
    if as_json:
        typer.echo(to_json(shown))
    elif isinstance(shown, Comparison):
        typer.echo(compare_text(shown, all_rows=all_rows), nl=False)
    else:
        typer.echo(to_text(shown, all_rows=all_rows), nl=False)
    for done in [] if as_json else replays:
        typer.echo(in_force_text(done.in_force), nl=False)
