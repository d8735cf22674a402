"""`tauten cache prove`: certifies the gate of a cache by likeness on labelled pairs of questions."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tauten.errors import InputError

if TYPE_CHECKING:
    from tauten.improve.proving import Pair, Proved
    from tauten.plan.plan import Plan, SemanticPlan

EXAMPLE = "paraphrases"  # the pairs that Tauten was written with, by their name


def prove(
    target: Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)],
    plan: Annotated[Path, typer.Option(help="The plan; one of its caches has the tier `semantic`.")],
    pairs: Annotated[
        str, typer.Option(help=f"Labelled pairs, TOML or JSON lines; `{EXAMPLE}` are the example's.")
    ],
    stage: Annotated[str, typer.Option(help="The stage.", show_default="the only one")] = "",
    tenant: Annotated[
        str,
        typer.Option(help="Whose questions they are, where a pair says nothing.", show_default="nobody's"),
    ] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Forget what was proved before: these are other pairs.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with a schema name.")
    ] = False,
) -> int:
    """Prove on labelled pairs that few of the hits are wrong, and open the gate. Exits with 4 where nothing opens."""
    from tauten.cli.target import load_workflow
    from tauten.plan.plan import load_plan
    from tauten.run.ambient import run_async
    from tauten.run.caching.semantic.opening import gate_of

    workflow, read = load_workflow(target), load_plan(plan)
    name, rules = _rules(read, stage, plan)
    labelled = _of_tenant(_pairs(pairs), tenant)
    gate = gate_of(workflow.name, name, rules)
    proved = run_async(_proved(gate, rules, labelled, again=again))
    gate.flush()
    if as_json:
        _print({"schema": "tauten.cache.prove/1", "gate": gate.path.stem, "stage": name, "proved": proved})
    else:
        _show(gate.path.stem, proved)
    return 0 if proved.open else 4


def _rules(plan: Plan, stage: str, path: Path) -> tuple[str, SemanticPlan]:
    """The stage whose cache takes likeness for equality, and how."""
    from tauten.plan.caching import cache_rules, check_rules
    from tauten.plan.likeness import likeness_rules

    found = {}
    for name, each in plan.stages.items():
        check_rules(each.cache, f"stage '{name}'")
        rules = likeness_rules(cache_rules(each.cache))
        if rules is not None and stage in ("", name):
            found[name] = rules
    if len(found) != 1:
        seen = f"{len(found)} stages of {path.name} have" if found else f"no stage of {path.name} has"
        raise InputError(
            f'{seen} the tier "semantic"{f": {stage}" if stage and not found else ""}',
            help='name one with --stage; a stage has it by cache = { tiers = ["memory", "semantic"] }',
            code="E260",
        )
    return next(iter(found.items()))


def _pairs(named: str) -> list[Pair]:
    from tauten.improve.proving import Pair, read_pairs

    if named != EXAMPLE:
        return read_pairs(Path(named))
    from tauten.examples.paraphrases import pairs

    return [Pair(each.kept, each.asked, each.same, each.split) for each in pairs()]


def _of_tenant(pairs: list[Pair], tenant: str) -> list[Pair]:
    from msgspec.structs import replace

    return [each if each.tenant or not tenant else replace(each, tenant=tenant) for each in pairs]


async def _proved(gate: Any, rules: SemanticPlan, pairs: list[Pair], *, again: bool) -> Proved:
    from tauten.improve.proving import prove as certify
    from tauten.run.caching.semantic.embedding import Embedding, choice_of
    from tauten.run.engine import Engine

    async with Engine() as engine:
        embed = Embedding(engine.deployments, engine.clock, choice_of(rules))
        try:
            return await certify(gate, embed, pairs, again=again)
        finally:
            await embed.close()


def _show(gate: str, proved: Proved) -> None:
    typer.echo(
        f"{proved.pairs} pairs, {proved.held_out} held out: {proved.hits} of these would be hits, {proved.wrong} wrong; "
        f"{proved.found:.0%} of the questions that one answer serves were found"
    )
    for verdict in proved.verdicts:
        typer.echo(f"{gate:<20} {verdict.scope:<20} {verdict.why}")


def _print(content: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(content)).decode())
