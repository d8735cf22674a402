"""`tauten prompt`: templates as they are, as a model reads them, and what differs between two of them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.target import load_workflow, read_inputs, text_of
from tauten.describe.template import Template
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, PlanError
from tauten.improve.labelled import WHOLE, open_recording
from tauten.improve.prompts.difference import difference
from tauten.improve.prompts.folder import Listed, in_folder, listed, read
from tauten.improve.prompts.parts import preview as previewed
from tauten.improve.prompts.screen import difference_text, list_text, preview_text, show_text
from tauten.improve.prompts.values import Asking, asking, chosen, given, pick
from tauten.improve.recording import Item, Recording
from tauten.models.store import Store
from tauten.plan.plan import Plan, load_plan
from tauten.run.ambient import run_async
from tauten.run.contracts import PromptReader
from tauten.run.reading import prompt_reader

app = typer.Typer(
    help="List, show, preview and compare prompt templates.", no_args_is_help=True, add_completion=False
)

BACKEND, MODEL = "llm", "smollm2-135m-instruct"  # what `generate` asks where nobody says otherwise

Target = Annotated[str, typer.Argument(metavar="TEMPLATE.md|FILE.py:WORKFLOW", show_default=False)]
Stage = Annotated[str, typer.Option(help="The step of a workflow that has several templates.")]
Model = Annotated[
    str, typer.Option(help="Whose tokenizer counts; else the step's own, or generate's default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with a schema name.")]


@app.command("list")
def list_all(
    place: Annotated[str, typer.Argument(metavar="[FOLDER|FILE.py:WORKFLOW]")] = ".", as_json: AsJson = False
) -> int:
    """The templates below a folder, or those of a workflow. Exit code 2 where one cannot be read."""
    found = _of_workflow(place) if _is_workflow(place) else in_folder(Path(place))
    if as_json:
        _print_json("list", templates=found)
    elif found:
        typer.echo(list_text(found))
    else:
        typer.echo(f"no template in {place}: files of .md with front matter or with sections are", err=True)
    return 2 if any(each.problem for each in found) else 0


def _of_workflow(target: str) -> list[Listed]:
    return [listed(step, each.template) for step, each in asking(load_workflow(target)).items()]


def _is_workflow(place: str) -> bool:
    """A file of Python, or a module with a name behind it; anything else is a path."""
    head, colon, _ = place.partition(":")
    return head.endswith(".py") or (bool(colon) and not Path(place).exists())


@app.command()
def show(target: Target, stage: Stage = "", as_json: AsJson = False) -> None:
    """Print a template with what it says of itself."""
    template = _template(target, stage)
    entry = listed(target, template)
    if as_json:
        _print_json("show", template=entry, source=template.source, messages=template.fixed)
    else:
        typer.echo(show_text(entry, template.source))


def _template(target: str, stage: str) -> Template:
    return pick(load_workflow(target), stage).template if _is_workflow(target) else read(Path(target))


@app.command()
def preview(
    target: Target,
    values: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE|NAME=@FILE]...")] = None,
    recording: Annotated[
        str, typer.Option(help="Take values of a request: a folder, or a split of the workflow's own.")
    ] = "",
    item: Annotated[str, typer.Option(help="Which request: its id, or #7; else the first.")] = "",
    stage: Stage = "",
    plan: Annotated[Path | None, typer.Option(help="Settings of the step, of a workflow.")] = None,
    format: Annotated[str, typer.Option(help="One of the template's formats.")] = "",
    without: Annotated[list[str] | None, typer.Option(help="Leave this example out.")] = None,
    model: Model = "",
    as_json: AsJson = False,
) -> None:
    """Print the exact text that the model gets, and its tokens by part, by the model's own tokenizer.

    Of a workflow, a request is run once to know what the step is given: its inputs are those of --recording, or the
    values of the command line. Of a template's file, values are those of the command line, then inputs of that name
    of the request, then the samples of the front matter.
    """
    written = values or []
    template, request, whose = _looked_at(target, written, recording, item, stage, plan)
    given_here = {} if _is_workflow(target) else _pairs(written)
    if format or without:
        template = template.choose(format or template.choice.format, without or template.choice.without)
    filled, sampled = chosen(template, given_here, request)
    reader, name = _reader(model, whose)
    found = previewed(template, filled, reader, name, sampled)
    if as_json:
        _print_json("preview", **msgspec.to_builtins(found))
    else:
        typer.echo(preview_text(found))


Looked = tuple[Template, dict[str, Any], tuple[str, str, str]]


def _looked_at(
    target: str, written: Sequence[str], recording: str, item: str, stage: str, plan: Path | None
) -> Looked:
    """The template, what a request gives it, and (backend, model, variant)."""
    if not _is_workflow(target):
        if plan is not None or stage:
            raise InputError(
                "--plan and --stage belong to a workflow", help="give FILE.py:WORKFLOW", code="E260"
            )
        if item and not recording:
            raise InputError(
                f"--item {item} of no recording", help="give the --recording that it is of", code="E260"
            )
        kept = _item(Recording.load(recording), item) if recording else None
        return read(Path(target)), dict(kept.inputs) if kept is not None else {}, ("", "", "")
    workflow, chosen_plan = load_workflow(target), load_plan(plan) if plan is not None else None
    found = pick(workflow, stage, chosen_plan)
    inputs = _inputs(workflow, written, recording, item)
    return found.template, _given(workflow, chosen_plan, found, inputs), found.model


def _given(
    workflow: Workflow[..., Any], plan: Plan | None, found: Asking, inputs: dict[str, Any]
) -> dict[str, Any]:
    values: dict[str, Any] = run_async(given(workflow, plan, found.step, inputs))
    if values and all(value is None for value in values.values()):
        raise PlanError(
            f"this request does not come to {found.step.name}",
            help="take another one: --item ID",
            code="E131",
        )
    return values


def _inputs(
    workflow: Workflow[..., Any], written: Sequence[str], recording: str, item: str
) -> dict[str, Any]:
    if written and (recording or item):
        raise InputError(
            "values and a --recording", help="give one of the two: both are a request", code="E260"
        )
    if written:
        return read_inputs(workflow, list(written))
    kept = open_recording(
        workflow, recording, usual=WHOLE
    )  # an id may be of any split, and is only looked at
    return workflow.bind(**_item(kept, item).inputs)


def _item(kept: Recording, wanted: str) -> Item:
    """The request of an id, or of a number from #1 on; raises InputError E209."""
    number = wanted.removeprefix("#")
    if wanted.startswith("#") and number.isdecimal() and 1 <= int(number) <= len(kept):
        return kept[int(number) - 1]
    found = [each for each in kept if each.id == wanted or not wanted]
    if not found:
        help = f"write #1 to #{len(kept)}, or an id such as {kept[0].id}" if len(kept) else "record some"
        raise InputError(f"no request {wanted!r} in {kept.name}", help=help, code="E209")
    return found[0]


def _pairs(written: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in written:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(
                f"cannot read the value {pair!r}", help="write NAME=VALUE or NAME=@FILE", code="E260"
            )
        found[name] = text_of(Path(text[1:])) if text.startswith("@") else text
    return found


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD.md", show_default=False)],
    new: Annotated[Path, typer.Argument(metavar="NEW.md", show_default=False)],
    model: Model = "",
    as_json: AsJson = False,
) -> int:
    """Print the lines that differ between two versions, and the tokens; exit code 1 when something does."""
    reader, name = _reader(model, ("", "", ""))
    found = difference(read(old), read(new), reader, name)
    if as_json:
        _print_json("diff", **msgspec.to_builtins(found))
    else:
        typer.echo(difference_text(found))
    return 0 if found.same else 1


def _reader(wanted: str, whose: tuple[str, str, str]) -> tuple[PromptReader, str]:
    """The tokenizer that counts, and its model's name; raises InputError E255 where there is none to open."""
    backend, model, variant = (BACKEND, wanted, "") if wanted else whose if whose[1] else (BACKEND, MODEL, "")
    reader = prompt_reader(Store(), backend, model, variant)
    if reader is None:
        raise InputError(
            f"the backend {backend} has no tokenizer that opens alone",
            help="count by another model's: --model NAME",
            code="E255",
        )
    return reader, model


def _print_json(command: str, **content: Any) -> None:
    record = {"schema": f"tauten.prompt.{command}/1", **content}
    typer.echo(msgspec.json.format(msgspec.json.encode(record)).decode())
