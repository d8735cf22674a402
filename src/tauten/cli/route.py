"""`tauten route`: choices that policies made, under another one; gates before shortcuts, and how they stand."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tauten.errors import InputError

if TYPE_CHECKING:
    from tauten.improve.routing import Replayed, Side
    from tauten.run.gating.scope import Verdict

app = typer.Typer(
    help="Choices that policies made, and gates before shortcuts.", no_args_is_help=True, add_completion=False
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with a schema name.")]


@app.command()
def record(
    target: Annotated[str, typer.Argument(metavar="FILE.py[:WORKFLOW]", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where to write the decisions.", show_default=False)],
    recording: Annotated[
        str, typer.Option(help="A folder, or a split of the workflow's own recording; dev when left out.")
    ] = "",
    plan: Annotated[Path | None, typer.Option(help="The plan to run it under.")] = None,
) -> int:
    """Run a recording and keep what each policy decided, and what came of it."""
    from tauten.cli.output import check_outputs
    from tauten.cli.target import load_workflow
    from tauten.improve.labelled import DEV, open_recording
    from tauten.improve.routing import decisions_of, save
    from tauten.plan.plan import load_plan
    from tauten.run.ambient import run_async

    check_outputs(out)
    workflow = load_workflow(target)
    chosen = load_plan(plan) if plan is not None else None
    kept = open_recording(workflow, recording, usual=DEV)  # policies are tuned on what is recorded
    decisions = decisions_of(run_async(_traces(workflow, chosen, kept)))
    if not decisions:
        raise InputError(
            f"{workflow.name} made no choice under a policy",
            help="name one: tt.choose(a, b, policy=...), or `policy` in the plan",
            code="E293",
        )
    save(out, decisions)
    typer.echo(f"{out}: {len(decisions)} decisions of {len(kept)} requests")
    return 0


async def _traces(workflow: Any, plan: Any, recording: Any) -> list[Any]:
    from tauten.improve.replay import replay
    from tauten.run.engine import Engine

    async with Engine() as engine:
        opened = await engine.open(workflow, plan)
        requests = [(item.id, workflow.bind(**item.inputs)) for item in recording]
        return [served.trace for served in (await replay(engine, opened, requests)).served]


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="DECISIONS", show_default=False)],
    policy: Annotated[str, typer.Option(help="The policy to ask instead.", show_default=False)],
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of it: key=number, or key=true.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what it draws.")] = 0,
    threshold: Annotated[float | None, typer.Option(help="Scores that pass; for those that judge.")] = None,
    as_json: AsJson = False,
) -> int:
    """Ask another policy the recorded choices. Nothing is run."""
    from tauten.improve.routing import load, replayed

    found = replayed(load(file), policy, _settings(setting or []), seed=seed, threshold=threshold)
    if as_json:
        _print(found)
    else:
        _show(found)
    return 0


@app.command()
def gates(as_json: AsJson = False) -> int:
    """Every gate that is kept: what it claims, and how that stands."""
    from tauten.run.gating.gates import gate_names, open_gate

    found = {name: open_gate(name) for name in gate_names()}
    if as_json:
        _print({"schema": "tauten.gates/1", "gates": {name: gate.verdicts() for name, gate in found.items()}})
        return 0
    for name, gate in found.items():
        verdicts = gate.verdicts()
        for verdict in verdicts:
            typer.echo(_line(name, verdict))
        if not verdicts:
            typer.echo(f"{name:<20} closed: {gate.learned} labelled items of {gate.needed} or more")
    if not found:
        typer.echo("no gate yet: name one, tt.choose(..., policy='cascade', risk_gate='NAME')", err=True)
    return 0


@app.command()
def certify(
    name: Annotated[str, typer.Argument(metavar="GATE", show_default=False)], as_json: AsJson = False
) -> int:
    """Find a gate's thresholds on what it learned while it was closed. Exits with 4 where nothing opens."""
    from tauten.run.gating.gates import gate_names, open_gate

    if name not in gate_names():
        raise InputError(f"no gate is called {name!r}", help=f"known: {', '.join(gate_names()) or 'none'}")
    gate = open_gate(name)
    verdicts = gate.certify()
    gate.flush()
    if gate.refresh():
        raise InputError(
            f"the gate {name!r} was certified, closed or forgotten by another process meanwhile: that stands",
            help="see `tauten route gates`, and certify again what is closed there",
            code="E292",
        )
    if as_json:
        _print({"schema": "tauten.gate.certify/1", "gate": name, "verdicts": verdicts})
    else:
        for verdict in verdicts:
            typer.echo(_line(name, verdict))
    return 0 if any(verdict.open for verdict in verdicts) else 4


def _line(name: str, verdict: Verdict) -> str:
    return f"{name:<20} {verdict.scope:<20} {verdict.why}"


def _settings(given: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in given:
        key, _, value = each.partition("=")
        if value in ("true", "false"):
            found[key] = value == "true"
            continue
        try:
            found[key] = int(value) if value.isdecimal() else float(value)
        except ValueError:
            raise InputError(f"--set {each}", help="write key=number", code="E260") from None
    return found


def _show(found: Replayed) -> None:
    typer.echo(
        f"{found.decisions} decisions, {found.same} alike; {found.known} with known outcomes, "
        f"{found.foreseen} foreseen, {found.unknown} left out"
    )
    typer.echo(
        f"\n{'policy':<18} {'p50 ms':>8} {'p95 ms':>8} {'first p50':>10} {'failed':>7} {'cents':>9}  chosen"
    )
    for side in (found.recorded, found.replayed):
        typer.echo(_row(side))
    for note in found.notes:
        typer.echo(f" {note}")


def _row(side: Side) -> str:
    cents = "unknown" if side.cents is None else f"{side.cents:.4g}"
    chosen = ", ".join(f"{name} {count}" for name, count in side.chosen.items())
    times = f"{side.p50_ms:>8.0f} {side.p95_ms:>8.0f} {side.first_p50_ms:>10.0f}"
    return f"{side.policy:<18} {times} {side.failed:>7} {cents:>9}  {chosen}"


def _print(content: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(content)).decode())
