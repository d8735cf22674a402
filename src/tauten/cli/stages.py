"""`tauten bench --stages`: every model of a workflow's plan by itself, on what requests really give it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.explain import measurements_path
from tauten.cli.output import check_outputs, write_output
from tauten.cli.progress import teller
from tauten.cli.target import load_workflow, read_inputs
from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.improve.measuring.overheard import overhear
from tauten.improve.measuring.profile import BUDGET_S
from tauten.improve.measuring.report import Stages, models_of, stage_model
from tauten.improve.measuring.runs import BATCHES
from tauten.improve.measuring.screen import to_text
from tauten.improve.measuring.stages import measure_stages
from tauten.improve.recording import Recording
from tauten.plan.hardware import hardware
from tauten.plan.plan import Plan, load_plan
from tauten.run.ambient import run_async

app = typer.Typer(add_completion=False)

REQUESTS = 32  # of a recording, evenly: each gives every model one item at least
ITEMS = 32  # of a model: the sizes of its inputs show in that many, and they go to a process for each thread count
NOT_MEASURED = 3  # the machine, as everywhere


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The command line, read and checked."""

    target: str
    inputs: list[str]
    recording: Path | None
    plan: Path | None
    batches: list[int]
    threads: list[int]
    budget_s: float
    seed: int


@app.command()
def stages(
    target: Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE|NAME=@FILE]...")] = None,
    recording: Annotated[
        Path | None, typer.Option(help="Overhear requests of this recording, at most 32 of them.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan file; else the naive plan.")] = None,
    batches: Annotated[str, typer.Option(help="Items, or streams, at a time.")] = ",".join(map(str, BATCHES)),
    threads: Annotated[str, typer.Option(help="1 and all cores when absent.", show_default=False)] = "",
    budget_s: Annotated[
        float, typer.Option(help="Seconds for each model; a first round is always run.")
    ] = BUDGET_S,
    seed: Annotated[int, typer.Option(help="The same seed gives the same order of runs.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> int:
    """Measure every model of a plan by itself: time by batch, threads and size of item, memory, load time, tokens.

    Requests are run under the plan first, and what they give each model is what it is measured with, in a process of
    its own. The machine's peaks are measured once, in about a minute. All figures go to the store's measurements.

    Exit codes: 0 each model that requests came to was measured, 2 the call or the requests are wrong in themselves,
    3 one could not be measured on this machine.
    """
    if not budget_s > 0:
        raise InputError(f"--budget-s {budget_s:g}", help="give more than 0 seconds", code="E260")
    asked = Asked(
        target=target,
        inputs=inputs or [],
        recording=recording,
        plan=plan,
        batches=_numbers("--batches", batches, 1),
        threads=_numbers("--threads", threads, 0),
        budget_s=budget_s,
        seed=seed,
    )
    check_outputs(json_file)
    found: Stages = run_async(_measured(asked))
    typer.echo(to_text(found), nl=False)
    if json_file is not None:
        write_output(json_file, msgspec.json.encode(found))
    return 0 if all(each.measured for each in found.models) else NOT_MEASURED


def _numbers(flag: str, text: str, least: int) -> list[int]:
    try:
        found = sorted({int(each) for each in text.split(",")} if text else ())
    except ValueError as error:
        raise InputError(f"cannot read {flag} {text!r}", help=f"write {flag} 1,2,4", code="E260") from error
    if found and found[0] < least:
        raise InputError(f"{flag} {text}", help=f"give {least} or more", code="E260")
    return found


async def _measured(asked: Asked) -> Stages:
    workflow = load_workflow(asked.target)
    plan = load_plan(asked.plan) if asked.plan is not None else None
    count, requests = _requests(workflow, asked)
    say = teller()

    def overheard(number: int) -> None:
        say(f"request {number} of {count}, to hear what models are given")

    heard = await overhear(workflow, plan, requests, most=ITEMS, seed=asked.seed, progress=overheard)
    models, unheard = models_of(heard, ITEMS)
    if not models:
        raise InputError(
            f"no request of {workflow.name} came to a model", help="give inputs that reach one", code="E255"
        )
    done = await measure_stages(
        [each.wanted for each in models],
        measurements_path(),
        batches=asked.batches,
        threads=asked.threads,
        budget_s=asked.budget_s,
        seed=asked.seed,
        progress=say,
    )
    say("")
    pairs = zip(models, done.profiles, strict=True)
    return Stages(
        workflow=workflow.name,
        plan=_name(workflow, plan),
        machine=str(hardware()),
        requests=count,
        models=[stage_model(*pair) for pair in pairs],
        unheard=unheard,
        peaks=done.peaks,
    )


def _name(workflow: Workflow[..., Any], plan: Plan | None) -> str:
    """As an engine that runs it calls it."""
    return (plan or Plan(graph=workflow.graph.hash if workflow.graph is not None else "")).id


def _requests(workflow: Workflow[..., Any], asked: Asked) -> tuple[int, Iterator[Mapping[str, Any]]]:
    """How many requests there are, and their inputs, each rendered when its turn comes."""
    if asked.recording is None:
        return 1, iter([read_inputs(workflow, asked.inputs)])
    if asked.inputs:
        raise InputError("inputs and a recording were given", help="give one of them", code="E260")
    kept = Recording.load(asked.recording)
    if not len(kept):
        raise InputError(f"{str(asked.recording)!r} holds no request", help="record some", code="E245")
    chosen = kept.items[:: -(-len(kept) // REQUESTS)]

    def each() -> Iterator[Mapping[str, Any]]:
        for item in chosen:
            yield workflow.bind(**item.inputs)
            item.forget()

    return len(chosen), each()
