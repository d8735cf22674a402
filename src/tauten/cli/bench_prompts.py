"""`tauten bench --prompt A --prompt B`: one recording under two templates in turns, with a verdict where labels are."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.output import check_outputs, write_output
from tauten.cli.progress import teller
from tauten.cli.target import load_workflow
from tauten.describe.template import Template, parse
from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.improve.compress.forms import StoredForms
from tauten.improve.drawn import drawn
from tauten.improve.labelled import DEV, clusters, labelled, metric_of, open_recording
from tauten.improve.prompts.comparison import Comparison, arm, document, figures, verdict
from tauten.improve.prompts.folder import read
from tauten.improve.prompts.screen import comparison_text
from tauten.improve.prompts.swap import with_template
from tauten.improve.prompts.trial import Arm, Price, Took, trial
from tauten.improve.prompts.values import Asking, pick
from tauten.improve.quality import Metric, check_margin
from tauten.improve.recording import Item, Recording
from tauten.models.store import Store
from tauten.plan.hardware import hardware
from tauten.plan.plan import ModelChoice, Plan, load_plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine
from tauten.run.usage.call import Call
from tauten.run.usage.cost import NANO
from tauten.run.usage.prices import Prices

app = typer.Typer(add_completion=False)

MARGIN = 0.01  # a point: what a workflow without a `quality_loss` of its own may lose
ITEMS = (
    300  # where no answer gets worse, 299 labels prove a loss under a point; a p95 has an interval from 72 on
)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The command line, read and checked."""

    target: str
    prompts: list[Path]
    stage: str
    recording: str
    plan: Path | None
    requests: int
    rounds: int
    margin: float | None
    seed: int
    prices: list[Path]


@app.command()
def bench_prompts(
    target: Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)],
    prompt: Annotated[
        list[Path], typer.Option(help="A template; give two, or one against the workflow's own.")
    ],
    stage: Annotated[str, typer.Option(help="The step that asks by it, where there are several.")] = "",
    recording: Annotated[
        str,
        typer.Option(
            help="A folder, or a split of the workflow's own recording; all of it: all.", show_default="dev"
        ),
    ] = "",
    plan: Annotated[Path | None, typer.Option(help="A plan file; else the naive plan.")] = None,
    requests: Annotated[int, typer.Option(help="At most so many, evenly from the recording.")] = ITEMS,
    rounds: Annotated[int, typer.Option(help="Run the requests so many times.")] = 1,
    loss: Annotated[
        float | None,
        typer.Option(help="What the second may lose; else the workflow's, or 0.01.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same order.")] = 0,
    prices: Annotated[list[Path] | None, typer.Option(help="A file of prices of your own.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> int:
    """Run the same recording under two templates in turns: tokens, latency, cost, score, and whether the second is worse.

    One request at a time. Differences are paired by request, with 95 % intervals; what was counted of the templates
    before stands beside the tokens that were booked.

    Exit codes: 0 the second is no worse by more than the margin, or nothing is labelled; 1 it is worse; 2 the call is
    wrong in itself; 4 too few labelled requests to say; 5 nothing is labelled and the second failed more often.
    """
    if len(prompt) > 2 or requests < 1 or rounds < 1:
        raise InputError(
            f"{len(prompt)} templates, --requests {requests}, --rounds {rounds}",
            help="give one or two templates, and 1 or more of the others",
            code="E260",
        )
    if loss is not None:
        check_margin(loss)
    check_outputs(json_file)
    asked = Asked(
        target=target,
        prompts=prompt,
        stage=stage,
        recording=recording,
        plan=plan,
        requests=requests,
        rounds=rounds,
        margin=loss,
        seed=seed,
        prices=prices or [],
    )
    found: Comparison = run_async(_compared(asked))
    typer.echo(comparison_text(found), nl=False)
    if json_file is not None:
        write_output(json_file, msgspec.json.encode(document(found)))
    return found.exit_code


async def _compared(asked: Asked) -> Comparison:
    workflow = load_workflow(asked.target)
    base = load_plan(asked.plan) if asked.plan is not None else Plan()
    step = pick(workflow, asked.stage, base)
    templates = _templates(asked, step)
    arms = [_arm(workflow, step, each, base) for each in templates]
    kept = open_recording(workflow, asked.recording, usual=DEV)  # who compares templates is tuning one
    items, metric = _chosen(kept, asked.requests), metric_of(workflow)
    say = teller()
    async with Engine() as engine:
        before, after = await trial(
            engine,
            arms,
            items,
            rounds=asked.rounds,
            seed=asked.seed,
            metric=metric,
            price=_price(Prices(asked.prices)),
            say=say,
        )
    say("")
    margin = asked.margin or workflow.slo.quality_loss or MARGIN
    return Comparison(
        workflow=workflow.name,
        stage=step.step.name,
        recording=kept.name,
        machine=str(hardware()),
        rounds=asked.rounds,
        seed=asked.seed,
        arms=[
            arm(a.name, t.version, each) for a, t, each in zip(arms, templates, (before, after), strict=True)
        ],
        figures=figures(before, after, foretold_in=_foretold(step, templates)),
        verdict=verdict(before, after, margin, clusters(items), asked.seed),
        notes=_notes((before, after), items, metric),
    )


def _price(prices: Prices) -> Price:
    """Cents of a call by one's own prices, else by those that come along."""

    def cents(call: Call) -> float | None:
        nano = prices.call(call.provider, call.model, call.units, datetime.now(UTC)).nano
        return None if nano is None else nano * 100 / NANO

    return cents


def _templates(asked: Asked, step: Asking) -> list[Template]:
    """The two of them, the second the candidate; raises InputError E260 where they are the same."""
    found = [read(path) for path in asked.prompts]
    own = parse(
        step.template.source, step.template.name
    )  # as it was written: settings of the step come later
    pair = found if len(found) == 2 else [own, *found]
    if pair[0].version == pair[1].version:
        raise InputError(
            f"{pair[0].name} and {pair[1].name} are the same version, {pair[0].version}",
            help="give two templates that differ; a name alone is no difference",
            code="E260",
        )
    return pair


def _arm(workflow: Workflow[..., Any], step: Asking, template: Template, plan: Plan) -> Arm:
    """The workflow with that template, under the same plan, made to fit its graph."""
    changed = with_template(workflow, step.step.name, template)
    fitting = msgspec.structs.replace(plan, graph=drawn(changed).hash)
    return Arm(template.name, changed, fitting, step.step.name)


def _chosen(kept: Recording, most: int) -> list[Item]:
    """So many at most, evenly; those with a label alone, where there are any: only they can be judged."""
    if not len(kept):
        raise InputError(f"{kept.name} holds no request", help="record some", code="E245")
    every = labelled(kept) or list(kept)
    return every[:: -(-len(every) // most)]


def _foretold(step: Asking, templates: Sequence[Template]) -> float | None:
    """How many more tokens the second asks, counted of what every request says; None where nothing can count."""
    backend, model, variant = step.model
    forms, choice = StoredForms(Store()), ModelChoice(model=model, variant=variant, backend=backend)
    counts = [forms.counted(choice, each.fixed) for each in templates]
    return None if counts[0] is None or counts[1] is None else float(counts[1] - counts[0])


def _notes(took: Sequence[Sequence[Took]], items: Sequence[Item], metric: Metric | None) -> list[str]:
    """What is missing, and why."""
    notes = []
    if metric is None:
        notes.append("no metric stands beside the workflow: answers were not scored")
    elif not labelled(items):
        notes.append("no request of the recording has a label: answers were not scored")
    failed = {each.item for side in took for each in side if each.error}
    if failed:
        notes.append(
            f"{len(failed)} requests failed under one of the two, and are in no mean; a failed one scores 0"
        )
    if all(each.cents is None for side in took for each in side):
        notes.append(
            "cost: no call to a provider has a known price; what this machine costs says `tauten usage`"
        )
    return notes
