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
from tauten.improve.labelled import (
    WHOLE,
    beside,
    clusters,
    labelled,
    marks_of,
    metric_of,
    open_recording,
    splits_of,
)
from tauten.improve.labels.keeper import MOST_BYTES, Keeper, folder_of
from tauten.improve.measuring.pace import Pace, opened, reference_of
from tauten.improve.measuring.prober import Slice
from tauten.improve.measuring.stages import PEAKS_FILE, machine_peaks
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.live import LiveTestbed
from tauten.improve.optimizer.optimizer import MINUTES, Asked, Optimizer, Result
from tauten.improve.optimizer.order import ordered
from tauten.improve.optimizer.outcome import to_json
from tauten.improve.optimizer.record import Record
from tauten.improve.quality import evidence_path
from tauten.improve.recording import Item, Recording, sample
from tauten.improve.report.progress import Progress
from tauten.improve.report.screen import to_text
from tauten.improve.simulate.machine import shared_of
from tauten.improve.whatif.scored import settle_outcome
from tauten.models.store import Store
from tauten.plan.hardware import hardware
from tauten.plan.peaks import Peaks
from tauten.plan.plan import Plan, check_fit, format_plan, load_plan
from tauten.run.ambient import run_async
from tauten.version import __version__

app = typer.Typer(add_completion=False)

ITEMS: Final = 12  # requests that are run under each new setting: one of each kind that most recordings have
NAIVE: Final = "naive.toml"  # the plan of a plain program, as the examples have one
EXIT_CODES: Final = {"met": 0, "missed": 1, "cannot conclude": 4}

Target = Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)]
SloText = Annotated[
    str,
    typer.Option(help='As "p95<800ms, first<400ms, quality_loss<1pt".', show_default="the workflow's own"),
]
Recorded = Annotated[
    str,
    typer.Option(help="A folder, or a split of the workflow's own recording.", show_default="all of its own"),
]
Begin = Annotated[
    Path | None,
    typer.Option(
        help="Begin with this plan.", show_default="naive.toml beside the workflow, else all defaults"
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget an earlier search that was interrupted.")]
KeepAnswers = Annotated[
    bool,
    typer.Option(
        "--keep-answers",
        help="Keep the judged answers of both plans beside the evidence, for tauten label: they are user data.",
    ),
]


@app.command()
def optimize(
    target: Target,
    slo: SloText = "",
    rate: Annotated[float, typer.Option(help="Requests a second that it must hold at.")] = 1.0,
    recording: Recorded = "",
    plan: Begin = None,
    out: Annotated[Path | None, typer.Option(help="The plan file.", show_default="NAME.plan.toml")] = None,
    minutes: Annotated[float, typer.Option(help="For all of it: search, proof and measuring.")] = MINUTES,
    items: Annotated[int, typer.Option(help="Requests that are run under each new setting.")] = ITEMS,
    until: Annotated[str, typer.Option(help="The last strategy to try.", show_default=False)] = "",
    without: Annotated[list[str] | None, typer.Option(help="A strategy to leave out; repeat it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Simulate only; measure no finalist.")] = False,
    fresh: Fresh = False,
    seed: Annotated[int, typer.Option(help="Of arrivals and draws.")] = 0,
    all_rows: Annotated[bool, typer.Option("--all", help="Show every change that was looked at.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one page.")] = None,
    keep_answers: KeepAnswers = False,
) -> int:
    """Tighten a workflow's plan until it holds an SLO, spending no more quality than that allows.

    Ctrl-C loses nothing: the same command goes on where it was. Exit code 0 when the SLO is met, 1 when the best plan
    misses it, 4 when too few requests or labels were there to tell.
    """
    workflow = load_workflow(target)
    _check(rate, minutes, items)
    path = out or Path(f"{workflow.name}.plan.toml")
    check_outputs(path, html)
    (begin, began), strategies = _begin(workflow, plan), ordered(until=until, without=without or ())
    asked = Asked(
        slo=parse_slo(slo) if slo else workflow.slo,
        rate=rate,
        budget_s=minutes * 60.0,
        seed=seed,
        dry_run=dry_run,
        target=target,
        began=began,
    )
    # All of it: what a change is chosen on is never what confirms it, the gate itself sees to that.
    kept = open_recording(workflow, recording, usual=WHOLE)
    progress = Progress(asked.budget_s, sys.stderr)
    keeper = Keeper(folder_of(path)) if keep_answers else None
    metric = metric_of(workflow)
    testbed = LiveTestbed(workflow, list(kept), metric, keeper=keeper, say=progress.detail)
    try:
        optimizer = _optimizer(testbed, kept, asked, strategies, items, fresh, progress)
        _tell_labels(optimizer, asked.slo)
        result = optimizer.run(begin)
        shown = testbed.accounts(begin, result.plan, optimizer.items) if html and not dry_run else None
    finally:
        progress.close()
        testbed.close()
    _keep(_with_answers(result, keeper, path, kept.name), path, html, shown)
    optimizer.record.keep(result.outcome.forecasts)
    settle_outcome(Store().root, optimizer.here, optimizer.graph.hash, kept.name, result.outcome)
    if as_json:
        typer.echo(to_json(result.outcome).decode())
    else:
        typer.echo(f"{to_text(result.outcome, all_rows=all_rows)}\n {path}")
    return EXIT_CODES[result.outcome.answer]


def _check(rate: float, minutes: float, items: int) -> None:
    for name, value in (("--rate", rate), ("--minutes", minutes), ("--items", items)):
        if not value > 0:
            raise InputError(f"{name} {value:g}", help="give more than 0", code="E260")


def _begin(workflow: Workflow[..., Any], path: Path | None) -> tuple[Plan, str]:
    """The plan to begin with, and what it is called on the screen: all defaults have no name."""
    if path is not None:
        plan = load_plan(path)
        if workflow.graph is not None:
            check_fit(plan, workflow.graph, path.name)
        return plan, path.name
    found = naive_beside(workflow)
    if found is None:
        return naive(workflow), ""
    print(f"begins with {NAIVE} beside the workflow; --plan names another", file=sys.stderr)
    return found, f"{NAIVE} beside it"


def naive_beside(workflow: Workflow[..., Any]) -> Plan | None:
    """The plan of a plain program that a workflow brings along; None where it brings none, or another's."""
    place = beside(workflow, NAIVE)
    if place is None:
        return None
    plan = load_plan(place)
    if plan.workflow and plan.workflow.rpartition(":")[2] != workflow.name:
        return None
    if workflow.graph is not None:
        check_fit(plan, workflow.graph, f"{NAIVE} beside the workflow")
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
    chosen = sample(list(kept), count)
    journal = journal_of(workflow, kept, chosen, fresh=fresh)
    peaks: Peaks = run_async(machine_peaks(Store().root / PEAKS_FILE, progress=progress.tell))
    testbed.peaks = peaks
    testbed.pace = pace_of(journal)
    answers = str(testbed.keeper.folder.resolve()) if testbed.keeper is not None else ""
    return Optimizer(
        workflow,
        [(item.id, workflow.bind(**item.inputs)) for item in chosen],
        Remembered(testbed, journal, testbed.graph, answers, marks=marks_of(kept, testbed.metric)),
        strategies,
        asked,
        labelled=[item.id for item in judged],
        clusters=clusters(judged),
        recording=_told(kept),
        forms=StoredForms(Store()),
        record=Record.load(Store().root, hardware()),
        shared=shared_of(peaks),
        say=progress.tell,
        best=progress.best,
    )


def _told(kept: Recording) -> str:
    """A recording by its name, and by its splits where it has several.

    >>> _told(Recording("desk", [Item(id="a", render=dict), Item(id="b", render=dict, split="held_out")]))
    'desk (dev, held_out)'
    """
    splits = splits_of(kept)
    return f"{kept.name} ({', '.join(splits)})" if len(splits) > 1 else kept.name


def journal_of(
    workflow: Workflow[..., Any], kept: Recording, chosen: Sequence[Item], *, fresh: bool = False
) -> Journal:
    """What an earlier search for the same workflow, requests and machine has measured."""
    graph = drawn(workflow)
    maps = any(stage.control == "map" for stage in graph.stages.values())
    identity = [
        graph.hash,
        kept.name,
        [[item.id, item.revision] for item in chosen],
        msgspec.to_builtins(hardware()),
        __version__,
        "at one pace",
        *(["members whole"] if maps else []),  # tapes of before lack what was decoded for members
    ]
    name = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:12]
    path = Store().root / "searches" / f"{workflow.name}-{name}.jsonl"
    if fresh:
        path.unlink(missing_ok=True)
    return Journal(path)


def pace_of(journal: Journal) -> Pace:
    """The machine's pace beside what it was when the first was measured that the journal knows. Raises MachineError."""
    measurer = opened()
    began = journal.ask("pace", lambda: msgspec.structs.astuple(reference_of(measurer)))
    return Pace(measurer, Slice(*began))


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


def _with_answers(result: Result, keeper: Keeper | None, path: Path, recording: str) -> Result:
    """The result whose evidence names the answers that it is about, where they were to be kept."""
    if keeper is None:
        return result
    if result.evidence is None:
        keeper.forget()
        print("no answers are kept: no change that may alter them was taken", file=sys.stderr)
        return result
    evidence = keeper.beside(result.evidence, evidence_path(path), result.told, recording)
    if not evidence.answers_after:
        print(f"no answers are kept: they are more than {MOST_BYTES / 1e6:.0f} MB", file=sys.stderr)
    return result._replace(evidence=evidence)


def _keep(result: Result, path: Path, html: Path | None, shown: tuple[Account, Account] | None) -> None:
    write_output(path, format_plan(result.plan))
    if result.evidence is not None:
        result.evidence.save(evidence_path(path))
    else:
        evidence_path(path).unlink(missing_ok=True)  # of an earlier plan of that name
    if html is not None:
        from tauten.improve.report.page import to_html

        write_output(html, to_html(result.outcome, shown))
