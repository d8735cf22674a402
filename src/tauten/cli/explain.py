"""`tauten explain`: a plan with its estimates; with --analyze one real request, every millisecond owned."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import Mapping
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
from tauten.explain.planned import in_force_text, planned_document, planned_html, planned_text
from tauten.explain.text import compare_text, to_text
from tauten.improve.analyze import header
from tauten.improve.optimizer.record import Record
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
from tauten.improve.whatif.scored import scored, settle
from tauten.models.store import Store
from tauten.plan.hardware import hardware
from tauten.plan.lower import lower
from tauten.plan.plan import Plan, load_plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine

app = typer.Typer(add_completion=False)

Estimates = dict[str, Estimate]
ITEMS = 12  # requests that are run under each new setting: one of each kind that most recordings have
MINUTES = 5.0  # that somebody waits for an explanation; a search takes thirty
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
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Simulate what would help; change nothing.")
    ] = False,
    probe: Annotated[bool, typer.Option("--probe", help="With --what-if: confirm by small delays.")] = False,
    slo: Annotated[str, typer.Option(help="With --what-if.", show_default="the workflow's own")] = "",
    rate: Annotated[float, typer.Option(help="With --what-if: requests a second; 0 is one at a time.")] = 0.0,
    items: Annotated[
        int, typer.Option(help="With --what-if: requests of the recording that are run.")
    ] = ITEMS,
    minutes: Annotated[
        float,
        typer.Option(help="With --what-if: for running what was never seen; later changes are not told."),
    ] = MINUTES,
) -> int:
    """Show how a workflow would run; with --analyze, where the time of a real request went; with --what-if, what
    would help."""
    workflow = load_workflow(target)
    plans = [load_plan(path) for path in plan or []] or [naive(workflow)]
    if perfetto is not None and not analyze:
        raise InputError("a trace shows a request that ran", help="add --analyze", code="E260")
    _check(plans, analyze, what_if, probe)
    check_outputs(html, perfetto)
    if what_if:
        from tauten.cli.whatif import Options  # all of the simulator and the optimizer
        from tauten.cli.whatif import what_if as asked

        given = inputs or ()
        kept = str(recording or "")
        options = Options(plans[0], given, kept, slo, rate, items, minutes, probe, all_rows, as_json, html)
        return asked(workflow, options)
    if not analyze:
        _check_unused(recording, inputs)
        _planned(workflow, plans, as_json, html)
        return 0
    parse_rank(at)
    _check_repeat(repeat)
    name, requests = _requests(workflow, inputs or [], recording, repeat)
    replays, known = run_async(_run(workflow, plans, requests))
    if recording is not None:
        settle(Store().root, hardware(), workflow, name, zip(plans, replays, strict=True))
    shown = _shown(workflow, plans, replays, known, at)
    _print(shown, replays, as_json, all_rows)
    if html is not None:
        write_output(html, to_html(shown, scored(Record.load(Store().root, hardware()))))
    if perfetto is not None:
        picked = {done.plan: done.at(at).trace for done in replays}
        write_output(perfetto, export(picked, workflow=workflow.name))
    return _told_failures(replays)


def _check(plans: list[Plan], analyze: bool, what_if: bool, probe: bool) -> None:
    if len(plans) > (1 if what_if else 2):
        most = "one" if what_if else "one, or two to compare"
        raise InputError(f"{len(plans)} plans were given", help=f"give {most}", code="E260")
    if analyze and what_if:
        raise InputError("--analyze and --what-if are two questions", help="ask one of them", code="E260")
    if probe and not what_if:
        raise InputError("--probe confirms what --what-if says", help="add --what-if", code="E260")


def _check_unused(recording: Path | None, inputs: list[str] | None) -> None:
    """Refuse what only requests would use, where none is run."""
    if recording is not None or inputs:
        what = "a recording is" if recording is not None else "inputs are"
        raise InputError(f"{what} for requests that run", help="add --analyze", code="E260")


def _check_repeat(repeat: int) -> None:
    if repeat < 1:
        raise InputError(f"--repeat {repeat}", help="give 1 or more", code="E260")


def naive(workflow: Workflow[..., Any]) -> Plan:
    """The plan of all defaults."""
    return Plan(graph=workflow.graph.hash if workflow.graph else "")


def _planned(workflow: Workflow[..., Any], plans: list[Plan], as_json: bool, html: Path | None) -> None:
    if workflow.graph is None:
        raise PlanError(
            f"{workflow.name} is `async def`: its graph is observed as it runs",
            help="add --analyze and its inputs",
            code="E113",
        )
    known = load_measurements(measurements_path())
    planned = [(lowered, estimates(known, lowered)) for lowered in (lower(workflow.graph, p) for p in plans)]
    if html is not None:
        write_output(html, planned_html(workflow.name, planned, str(hardware())))
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
) -> tuple[str, list[tuple[str, Mapping[str, Any]]]]:
    """The name of the recording, and (id, inputs) of each request."""
    if recording is None:
        values = read_inputs(workflow, pairs)
        return "", [(f"#{number + 1}", values) for number in range(repeat)]
    if pairs:
        raise InputError("inputs and a recording were given", help="give one of them", code="E260")
    kept = Recording.load(recording)
    if not len(kept):
        raise InputError(f"{str(recording)!r} holds no request", help="record some", code="E245")
    found: list[tuple[str, Mapping[str, Any]]] = []
    for item in kept:
        found.append((item.id, workflow.bind(**item.inputs)))
        item.forget()
    return kept.name, found


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


def _told_failures(replays: list[Replay]) -> int:
    """Say why requests failed, for the screen shows one that did not; the exit code."""
    for done in replays:
        first = next((each for each in done.served if each.error is not None), None)
        if first is not None:
            count = f"{done.failed} of {len(done.served)} requests under {done.plan} failed"
            print(f"tauten: {count}; the first, {first.id}: {first.error}", file=sys.stderr)
    return 5 if any(done.failed for done in replays) else 0


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
