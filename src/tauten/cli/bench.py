"""`tauten bench`: open-loop load on a workflow or any URL, and what may be said of the answer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.load_target import UrlOptions, check_scheme, is_url, read_payloads, url_target
from tauten.cli.output import check_outputs, write_output
from tauten.cli.progress import teller
from tauten.cli.target import load_workflow, read_inputs
from tauten.describe.payload import Payload
from tauten.describe.slo import Slo, parse_slo
from tauten.errors import InputError
from tauten.explain.figures import figure
from tauten.improve.load.arrivals import Arrivals, parse_arrivals
from tauten.improve.load.bench import Bencher, Side, compared
from tauten.improve.load.page import to_html
from tauten.improve.load.result import Bench, worst
from tauten.improve.load.schedule import Load
from tauten.improve.load.screen import to_text
from tauten.improve.load.search import Found
from tauten.improve.load.target import Target
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.improve.load.verdict import Answer
from tauten.improve.recording import Recording
from tauten.plan.hardware import hardware
from tauten.plan.plan import Plan, load_plan
from tauten.run.ambient import run_async
from tauten.run.engine import Engine

app = typer.Typer(add_completion=False)

DURATION_S = 30.0  # the slopes of a run, and a p95 at 5 requests a second, need no more
ROUNDS = 5  # of two plans: the fewest whose t-interval is under three standard errors


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The command line, read and checked."""

    target: str
    inputs: list[str]
    plans: list[Path]
    load: Load
    rates: list[float]
    search: bool
    rounds: int
    slo: Slo | None
    recording: Path | None
    timeout_s: float
    deadline_ms: float
    url: UrlOptions
    pid: int
    max_errors: float


Rate = Annotated[float, typer.Option(help="Requests a second.", show_default=False)]
Clients = Annotated[
    int, typer.Option(help="A closed loop of so many clients; no latency claim.", show_default=False)
]
Count = Annotated[
    int | None, typer.Option(help="Requests to measure, in place of a duration.", show_default=False)
]
Duration = Annotated[
    float | None, typer.Option(help="Seconds to measure, 30 when absent.", show_default=False)
]
WarmUp = Annotated[
    float | None, typer.Option(help="Seconds before; a tenth of the run when absent.", show_default=False)
]
Rounds = Annotated[int, typer.Option(help="Split the run into so many; 5 for two plans.", show_default=False)]
DeadlineMs = Annotated[
    float, typer.Option(help="Each request's deadline, told to the target.", show_default=False)
]
SloText = Annotated[
    str, typer.Option(help="As p95<800ms,first<400ms; else the workflow's own, which a URL does not tell.")
]
Pid = Annotated[
    int, typer.Option(help="The server's process: its CPU and memory are shown.", show_default=False)
]


@app.command()
def bench(
    target: Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW|URL", show_default=False)],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE|NAME=@FILE]...")] = None,
    rate: Rate = 0.0,
    rates: Annotated[str, typer.Option(help="Several rates, as 1,2,5,10: the latency-rate curve.")] = "",
    max_rate: Annotated[bool, typer.Option("--max-rate", help="Find the highest rate that holds.")] = False,
    clients: Clients = 0,
    arrivals: Annotated[str, typer.Option(help="poisson, gamma:4, constant, recorded, bursts:10x5/30.")] = "",
    duration: Duration = None,
    requests: Count = None,
    warm_up: WarmUp = None,
    slo: SloText = "",
    recording: Annotated[Path | None, typer.Option(help="Send the requests of this recording.")] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A plan file; give two to compare.")] = None,
    rounds: Rounds = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same schedule.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds until a request is given up.")] = 60.0,
    deadline_ms: DeadlineMs = 0.0,
    api: Annotated[str, typer.Option(help="native, openai, oip or raw; else as the URL's path says.")] = "",
    stream: Annotated[bool, typer.Option(help="Ask a URL for a streamed answer.")] = True,
    binary: Annotated[bool, typer.Option(help="Send tensors as binary, not as JSON.")] = True,
    header: Annotated[list[str] | None, typer.Option(help="'Name: value', sent with each request.")] = None,
    pid: Pid = 0,
    max_errors: Annotated[float, typer.Option(help="Share of failures allowed without an SLO.")] = 0.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page.")] = None,
) -> int:
    """Send requests on a schedule made beforehand; each is timed from when it was due.

    With --stages every model of a workflow is measured by itself instead: tauten bench --stages --help.
    With --prompt two templates are compared on a recording instead: tauten bench --prompt X --help.
    Published figures are measured on this machine by: tauten bench headlines --help.

    Exit codes: 0 the SLO holds (99 % confidence), 1 it does not, 2 the call or the requests are wrong in
    themselves, 3 this machine could not generate the load, 4 too few requests to say, 5 requests failed
    and there is no SLO.
    """
    _check_at_least_0({"--clients": clients, "--rounds": rounds, "--deadline-ms": deadline_ms})
    _check_length(requests, warm_up, duration)
    _check(timeout, max_errors, pid)
    lengths = {"--rounds": rounds, "--duration": duration, "--requests": requests}
    _check_together({**lengths, "--arrivals": arrivals, "--max-rate": max_rate, "--clients": clients})
    kind = _arrivals(arrivals, recording, rate or rates or max_rate)
    listed = _rates(rates)
    _one_load(bool(rate), bool(listed), max_rate, bool(clients), kind.kind == "recorded")
    count = len(plan or [])
    if count > 2 or (count == 2 and max_rate):
        raise InputError(
            f"{count} plans were given", help="give one, or two to compare at a rate", code="E260"
        )
    turns = rounds or (ROUNDS if count == 2 else 1)
    load = Load(arrivals=kind, rate_per_s=rate, seed=seed, clients=clients)
    asked = Asked(
        target=target,
        inputs=inputs or [],
        plans=plan or [],
        load=_split(load, turns, DURATION_S if duration is None else duration, requests, warm_up),
        rates=listed,
        search=max_rate,
        rounds=turns,
        slo=parse_slo(slo) if slo else None,
        recording=recording,
        timeout_s=timeout,
        deadline_ms=deadline_ms or math.inf,
        url=UrlOptions(api=api, stream=stream, binary=binary, headers=tuple(header or ())),
        pid=pid,
        max_errors=max_errors,
    )
    return _answer(asked, json_file, html)


def _check_at_least_0(given: Mapping[str, float]) -> None:
    """0 stands for a flag that was not given."""
    for flag, value in given.items():
        if not value >= 0:
            raise InputError(f"{flag} {value:g}", help="give more than 0", code="E260")


def _check_together(given: Mapping[str, Any]) -> None:
    """What another flag would silently leave unused is refused."""
    longer = "leave it out, or give --requests: what proves an SLO is a number of them"
    refused = [
        ("--max-rate", "--rounds", "leave it out: each trial is one run, with a seed of its own"),
        ("--max-rate", "--duration", longer),
        ("--clients", "--arrivals", "leave it out: a client sends when its answer has come"),
        ("--requests", "--duration", "give one of the two"),
    ]
    for flag, other, help in refused:
        if given[flag] and given[other]:
            raise InputError(f"{flag} and {other}", help=help, code="E260")


def _check_length(requests: int | None, warm_up_s: float | None, duration_s: float | None) -> None:
    """A flag that is absent takes its default; a number that cannot be is no way to ask for that."""
    if requests is not None and requests < 1:
        help = "give 1 or more, or leave it out to measure for a --duration"
        raise InputError(f"--requests {requests}", help=help, code="E260")
    if duration_s is not None and not 0 < duration_s < math.inf:
        help = "give seconds, or leave it out for 30 of them"
        raise InputError(f"--duration {duration_s:g}", help=help, code="E260")
    if warm_up_s is not None and not 0 <= warm_up_s < math.inf:
        help = "give seconds, 0 for none, or leave it out for a tenth of the run"
        raise InputError(f"--warm-up {warm_up_s:g}", help=help, code="E260")


def _check(timeout_s: float, max_errors: float, pid: int) -> None:
    if not timeout_s > 0:
        raise InputError(f"--timeout {timeout_s:g}", help="give more than 0 seconds", code="E260")
    if not 0 <= max_errors <= 1:
        raise InputError(f"--max-errors {max_errors:g}", help="give a share, from 0 to 1", code="E260")
    if pid and not Path(f"/proc/{pid}").is_dir():
        raise InputError(f"--pid {pid}: no such process", help="give the server's process id", code="E260")


def _split(load: Load, turns: int, duration_s: float, requests: int | None, warm_up_s: float | None) -> Load:
    """One round of so many: the whole run is as long as was asked for."""
    return msgspec.structs.replace(
        load,
        duration_s=duration_s / turns,
        requests=math.ceil((requests or 0) / turns),
        warm_up_s=-1.0 if warm_up_s is None else warm_up_s / turns,
    )


def _answer(asked: Asked, json_file: Path | None, html: Path | None) -> int:
    check_outputs(json_file, html)
    found: Bench = run_async(_bench(asked))
    typer.echo(to_text(found), nl=False)
    if json_file is not None:
        write_output(json_file, msgspec.json.encode(found.document()))
    if html is not None:
        write_output(html, to_html(found))
    return found.exit_code


def _arrivals(text: str, recording: Path | None, rated: Any) -> Arrivals:
    """As asked for; a recording without a rate keeps its own times."""
    if text:
        return parse_arrivals(text)
    return Arrivals(kind="recorded" if recording is not None and not rated else "poisson")


def _rates(text: str) -> list[float]:
    try:
        found = sorted({float(each) for each in text.split(",")} if text else ())
    except ValueError as error:
        raise InputError(
            f"cannot read the rates {text!r}", help="write --rates 1,2,5,10", code="E260"
        ) from error
    if found and not found[0] > 0:
        raise InputError(f"a rate of {found[0]:g} requests a second", help="give more than 0", code="E246")
    return found


def _one_load(rate: bool, rates: bool, search: bool, clients: bool, recorded: bool) -> None:
    given = sum((rate, rates, search, clients))
    if given > 1 or (given == 0 and not recorded):
        raise InputError(
            "no load was asked for" if given == 0 else "several loads were asked for",
            help="give one of --rate 5, --rates 1,2,5,10, --max-rate, --clients 8, or a --recording",
            code="E260",
        )


# -- running -------------------------------------------------------------------------------------------------


async def _bench(asked: Asked) -> Bench:
    kept = Recording.load(asked.recording) if asked.recording is not None else None
    if kept is not None and not len(kept):
        raise InputError(f"{str(asked.recording)!r} holds no request", help="record some", code="E245")
    if kept is not None and asked.inputs and not is_url(asked.target):  # to a URL they go with each request
        raise InputError("inputs and a recording were given", help="give one of them", code="E260")
    say = teller()
    async with _sides(asked, kept) as (sides, name, api, slo):
        targets = {side.name: side.target for side in sides}
        bencher = Bencher(
            sides,
            slo=slo,
            recorded=[item.at_s for item in kept] if kept is not None else (),
            timeout_s=asked.timeout_s,
            deadline_s=asked.deadline_ms / 1e3,
            pid=asked.pid,
            max_errors=asked.max_errors,
            say=say,
        )
        found = Bench(target=name, api=api, machine=str(hardware()), load=asked.load, slo=slo, runs=[])
        if asked.search:
            await _search(bencher, asked, found)
        else:
            await _measure(bencher, asked, found)
            if kept is not None and asked.load.arrivals.kind == "poisson":
                _score(found, targets, kept.name)
    say("")
    return found


def _score(found: Bench, targets: Mapping[str, Target], recording: str) -> None:
    """Predictions that were made of these plans at these rates are scored by what has just been measured."""
    from tauten.improve.whatif.scored import settle_runs  # all of the simulator and the optimizer
    from tauten.models.store import Store

    for run in found.runs:
        target = targets.get(run.plan)
        if isinstance(target, WorkflowTarget):
            measured = [(target.plan or Plan(), run)]
            settle_runs(Store().root, hardware(), target.workflow, recording, measured)


Opened = tuple[list[Side], str, str, Slo]


@asynccontextmanager
async def _sides(asked: Asked, kept: Recording | None) -> AsyncIterator[Opened]:
    """The targets, opened, with their requests encoded; all is given back at the end."""
    if not is_url(asked.target):
        check_scheme(asked.target)
        if asked.url != UrlOptions():
            raise InputError(
                "--api, --header, --no-stream and --no-binary speak to a server",
                help="give a URL, or leave them out: a workflow is called as it is",
                code="E260",
            )
        async with _workflow(asked, kept) as opened:
            yield opened
        return
    if asked.plans:
        raise InputError("a plan for a URL", help="give the plan to the server", code="E260")
    target, api = url_target(asked.target, asked.url)
    fixed = read_payloads(asked.inputs)
    requests = [fixed] if kept is None else [{**item.inputs, **fixed} for item in kept]
    try:
        await target.open()
        items = [target.prepare(each) for each in requests]
        yield [Side(target.name, target, items)], asked.target, api, asked.slo or Slo()
    finally:
        await target.close()


@asynccontextmanager
async def _workflow(asked: Asked, kept: Recording | None) -> AsyncIterator[Opened]:
    workflow = load_workflow(asked.target)
    requests: Sequence[Mapping[str, Payload]]
    fixed = read_inputs(workflow, asked.inputs) if kept is None else {}
    requests = [fixed] if kept is None else [item.inputs for item in kept]
    plans: list[Plan | None] = [load_plan(path) for path in asked.plans] or [None]
    async with Engine() as engine:
        slo = asked.slo or workflow.slo
        targets = [WorkflowTarget(engine, workflow, plan, slo) for plan in plans]
        twins = len({target.name for target in targets}) < len(targets)
        sides = []
        for number, target in enumerate(targets):
            await target.open()
            name = f"{target.name} {number + 1}" if twins else target.name
            sides.append(Side(name, target, [target.prepare(each) for each in requests]))
        yield sides, workflow.name, "workflow", slo


async def _measure(bencher: Bencher, asked: Asked, found: Bench) -> None:
    runs = await bencher.runs(asked.load, asked.rates, asked.rounds)
    found.runs = [run for at_rate in runs for run in at_rate]
    if len(bencher.sides) == 2 and len(runs) == 1:
        found.comparison = compared(*bencher.rounds[0])
    judged = [run for run in found.runs if run.answer == "void" or run.plan == bencher.sides[-1].name]
    decisive = worst(judged)  # of two plans the second is the candidate
    where = f"at {figure(decisive.rate_per_s)}/s: " if len(runs) > 1 else ""
    found.answer, found.why = decisive.answer, [f"{where}{why}" for why in decisive.why]


async def _search(bencher: Bencher, asked: Asked, found: Bench) -> None:
    search, run = await bencher.max_rate(asked.load)
    found.search, found.runs = search, [run] if run is not None else []
    found.answer, found.why = _conclusion(search)


def _conclusion(search: Found) -> tuple[Answer, list[str]]:
    above = f"; at {figure(search.above_per_s)}/s it was not shown to" if search.above_per_s else ""
    if search.rate_per_s is not None:
        held = f"the SLO holds at {figure(search.rate_per_s)} requests a second with 99 % confidence{above}"
        if search.stopped == "generator":
            return "met", [held, "the bound is this generator's: the target may hold more"]
        return "met", [held]
    if search.stopped == "generator":
        return "void", ["this machine could not generate the load at any rate that was tried"]
    if search.stopped == "trials":
        return "cannot conclude", [f"not settled after {len(search.trials)} trials"]
    lowest = min(trial.rate_per_s for trial in search.trials)
    return "missed", [f"the SLO was not shown to hold even at {figure(lowest)} requests a second"]
