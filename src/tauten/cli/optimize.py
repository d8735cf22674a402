"""`tauten optimize`: a workflow, a recording and an SLO in; a plan that holds it out, with the evidence."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from tauten.cli.explain import naive
from tauten.cli.output import check_outputs, write_output
from tauten.cli.target import load_workflow
from tauten.describe.slo import Slo, parse_slo
from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.explain.account import Account
from tauten.improve.compress.forms import StoredForms
from tauten.improve.drawn import drawn
from tauten.improve.labelled import clusters, labelled, metric_of, open_recording
from tauten.improve.measuring.stages import PEAKS_FILE, machine_peaks
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.optimizer.optimizer import MINUTES, Asked, Optimizer, Result
from tauten.improve.optimizer.order import ordered
from tauten.improve.optimizer.outcome import to_json
from tauten.improve.optimizer.record import Record
from tauten.improve.quality import evidence_path
from tauten.improve.recording import Item, Recording
from tauten.improve.report.progress import Progress
from tauten.improve.report.screen import to_text
from tauten.improve.simulate.machine import shared_of
from tauten.models.store import Store
from tauten.plan.hardware import hardware
from tauten.plan.plan import Plan, check_fit, format_plan, load_plan
from tauten.run.ambient import run_async
from tauten.version import __version__

app = typer.Typer(add_completion=False)

ITEMS: Final = 12  # requests that are run under each new setting: one of each kind that most recordings have
EXIT_CODES: Final = {"met": 0, "missed": 1, "cannot conclude": 4}

Target = Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)]


@app.command()
def optimize(
    target: Target,
    slo: Annotated[
        str,
        typer.Option(
            help='As "p95<800ms, first<400ms, quality_loss<1pt".', show_default="the workflow's own"
        ),
    ] = "",
    rate: Annotated[float, typer.Option(help="Requests a second that it must hold at.")] = 1.0,
    recording: Annotated[
        str,
        typer.Option(help="A folder, or a split of the workflow's own recording.", show_default="its own"),
    ] = "",
    plan: Annotated[
        Path | None, typer.Option(help="Begin with this plan.", show_default="all defaults")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The plan file.", show_default="NAME.plan.toml")] = None,
    minutes: Annotated[float, typer.Option(help="For all of it: search, proof and measuring.")] = MINUTES,
    items: Annotated[int, typer.Option(help="Requests that are run under each new setting.")] = ITEMS,
    until: Annotated[str, typer.Option(help="The last strategy to try.", show_default=False)] = "",
    without: Annotated[list[str] | None, typer.Option(help="A strategy to leave out; repeat it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Simulate only; measure no finalist.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget an earlier search that was interrupted.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of arrivals and draws.")] = 0,
    all_rows: Annotated[bool, typer.Option("--all", help="Show every change that was looked at.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one page.")] = None,
) -> int:
    """Tighten a workflow's plan until it holds an SLO, spending no more quality than that allows.

    Ctrl-C loses nothing: the same command goes on where it was. Exit code 0 when the SLO is met, 1 when the best plan
    misses it, 4 when too few requests or labels were there to tell.
    """
    workflow = load_workflow(target)
    _check(rate, minutes, items)
    path = out or Path(f"{workflow.name}.plan.toml")
    check_outputs(path, html)
    begin, strategies = _begin(workflow, plan), ordered(until=until, without=without or ())
    asked = Asked(
        slo=parse_slo(slo) if slo else workflow.slo,
        rate=rate,
        budget_s=minutes * 60.0,
        seed=seed,
        dry_run=dry_run,
        target=target,
    )
    kept = open_recording(workflow, recording)
    progress = Progress(asked.budget_s, sys.stderr)
    testbed = LiveTestbed(workflow, list(kept), metric_of(workflow), say=progress.tell)
    try:
        optimizer = _optimizer(testbed, kept, asked, strategies, items, fresh, progress)
        _tell_labels(optimizer, asked.slo)
        result = optimizer.run(begin)
        shown = testbed.accounts(begin, result.plan, optimizer.items) if html and not dry_run else None
    finally:
        progress.close()
    _keep(result, path, html, shown)
    optimizer.record.keep(result.outcome.forecasts)
    if as_json:
        typer.echo(to_json(result.outcome).decode())
    else:
        typer.echo(f"{to_text(result.outcome, all_rows=all_rows)}\n {path}")
    return EXIT_CODES[result.outcome.answer]


def _check(rate: float, minutes: float, items: int) -> None:
    for name, value in (("--rate", rate), ("--minutes", minutes), ("--items", items)):
        if not value > 0:
            raise InputError(f"{name} {value:g}", help="give more than 0", code="E260")


def _begin(workflow: Workflow[..., Any], path: Path | None) -> Plan:
    if path is None:
        return naive(workflow)
    plan = load_plan(path)
    if workflow.graph is not None:
        check_fit(plan, workflow.graph, path.name)
    return plan


def _optimizer(
    testbed: LiveTestbed,
    kept: Recording,
    asked: Asked,
    strategies: Sequence[Any],
    count: int,
    fresh: bool,
    progress: Progress,
) -> Optimizer:
    workflow = testbed.workflow
    judged = labelled(kept) if testbed.metric is not None else []
    chosen = evenly(list(kept), count)
    journal = journal_of(workflow, kept, chosen, fresh=fresh)
    return Optimizer(
        workflow,
        [(item.id, workflow.bind(**item.inputs)) for item in chosen],
        Remembered(testbed, journal, testbed.graph),
        strategies,
        asked,
        labelled=[item.id for item in judged],
        clusters=clusters(judged),
        recording=kept.name,
        forms=StoredForms(Store()),
        record=Record.load(Store().root, hardware()),
        shared=shared_of(run_async(machine_peaks(Store().root / PEAKS_FILE, progress=progress.tell))),
        say=progress.tell,
        best=progress.best,
    )


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """So many of them, evenly over their kinds, as far as tags tell, and then over time; all where there are no
    more."""
    ordered = sorted(items, key=lambda item: item.tags)
    count = min(count, len(ordered))
    return [ordered[place * len(ordered) // count] for place in range(count)]


def journal_of(
    workflow: Workflow[..., Any], kept: Recording, chosen: Sequence[Item], *, fresh: bool = False
) -> Journal:
    """What an earlier search for the same workflow, requests and machine has measured."""
    identity = [
        drawn(workflow).hash,
        kept.name,
        [item.id for item in chosen],
        msgspec.to_builtins(hardware()),
        __version__,
    ]
    name = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:12]
    path = Store().root / "searches" / f"{workflow.name}-{name}.jsonl"
    if fresh:
        path.unlink(missing_ok=True)
    return Journal(path)


def _tell_labels(optimizer: Optimizer, slo: Slo) -> None:
    """Before anything is searched: what these labels can prove at all."""
    if not slo.quality_loss:
        return
    if not optimizer.gate.items:
        print(
            "no labels, or no metric: changes that may alter answers cannot be proven harmless, and are left out",
            file=sys.stderr,
        )
    elif reason := optimizer.gate.hopeless():
        print(f"changes that may alter answers are left out: {reason}", file=sys.stderr)


def _keep(result: Result, path: Path, html: Path | None, shown: tuple[Account, Account] | None) -> None:
    write_output(path, format_plan(result.plan))
    if result.evidence is not None:
        result.evidence.save(evidence_path(path))
    if html is not None:
        from tauten.improve.report.page import to_html

        write_output(html, to_html(result.outcome, shown))
