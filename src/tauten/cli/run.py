"""`tauten run`: one request through a workflow; a streamed answer is printed as it comes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.output import check_outputs, write_output
from tauten.cli.target import load_workflow, read_inputs
from tauten.describe.payload import Payload, Text
from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.plan.plan import Plan, load_plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine
from tauten.run.request import Request
from tauten.run.usage.book import Book, default_place, new_book
from tauten.run.usage.payer import Payer, tags_of
from tauten.run.usage.prices import Prices

app = typer.Typer(add_completion=False)


@app.command()
def run(
    target: Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE|NAME=@FILE]...")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan file; the naive plan without one.")] = None,
    deadline_ms: Annotated[float, typer.Option(help="The request's one deadline.")] = math.inf,
    out: Annotated[Path | None, typer.Option(help="Write a media result to this file.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="What it is booked under, beside the rest.")] = None,
    usage: Annotated[str, typer.Option(help="The book of usage: a file, postgresql://..., or off.")] = "",
    prices: Annotated[list[Path] | None, typer.Option(help="A file of prices of your own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Run one request and print its answer."""
    workflow = load_workflow(target)
    values = read_inputs(workflow, inputs or [])
    check_outputs(out)
    payer, book = Payer(tags=tags_of(tag or ())), _book(usage, prices or [])
    try:
        chosen = load_plan(plan) if plan else None
        run_async(_run(workflow, chosen, values, deadline_ms, out, as_json, book, payer))
    finally:
        if book is not None:
            book.end()
    return 0


def _book(place: str, prices: list[Path]) -> Book | None:
    """The book, and whoever writes it."""
    place = place or default_place()
    if place == "off":
        return None
    book = new_book(place, Prices(prices), say=lambda said: print(said, file=sys.stderr))
    book.start()
    return book


async def _run(
    workflow: Workflow[..., Any],
    plan: Plan | None,
    values: dict[str, Any],
    deadline_ms: float,
    out: Path | None,
    as_json: bool,
    book: Book | None,
    payer: Payer,
) -> None:
    async with Engine(book=book) as engine:
        name = await engine.open(workflow, plan)
        request = engine.request(deadline_ms=deadline_ms)
        request.payer = payer
        given: list[Any] = []
        async for value in engine.stream(values, request=request):
            given.append(value)
            if not as_json and out is None:
                _show(value, workflow.streams)
        if out is not None:
            _write(given, out)
        if as_json:
            print(_json(given, request, name))
        elif out is None and workflow.streams:
            print()


def _show(value: Any, streamed: bool) -> None:
    if isinstance(value, Text | str):
        print(str(value), end="" if streamed else "\n", flush=True)
    elif not isinstance(value, Payload) and _has_words(value):
        print(str(value), flush=True)
    else:
        encoded = msgspec.json.encode(plain(value), enc_hook=_hook)
        print(msgspec.json.format(encoded).decode(), flush=True)


def _has_words(value: Any) -> bool:
    """Whether its class says how a person reads it: a ``__str__`` of its own."""
    return any("__str__" in vars(base) for base in type(value).__mro__[:-1])


def plain(value: Any) -> Any:
    """A value as JSON can hold it; media are described, not printed."""
    if isinstance(value, Payload):
        return value.as_json()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return value


def _write(given: list[Any], out: Path) -> None:
    media = [value for value in given if isinstance(value, Payload)]
    if not media:
        raise InputError("the result holds no media to write", help="leave --out away", code="E208")
    write_output(out, b"".join(value.data for value in media))
    print(f"{out}: {media[0].type}", file=sys.stderr)


def _json(given: list[Any], request: Request, plan: str) -> str:
    trace = request.trace
    first = None if trace.first_output is None else (trace.first_output - trace.start) * 1e3
    record = {
        "schema": "tauten.run/1",
        "plan": plan,
        "request": request.id,
        "wall_ms": round((trace.end - trace.start) * 1e3, 3),
        "first_output_ms": None if first is None else round(first, 3),
        "output": [plain(value) for value in given],
    }
    return msgspec.json.format(msgspec.json.encode(record, enc_hook=_hook)).decode()


def _hook(value: Any) -> Any:
    return plain(value) if isinstance(value, Payload) else str(value)
