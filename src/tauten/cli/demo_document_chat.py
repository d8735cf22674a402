"""`tauten demo document-chat`: documents come in while questions are answered; what went to search, what to the model."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.output import check_outputs, write_output
from tauten.cli.progress import teller
from tauten.errors import InputError
from tauten.run.ambient import run_async

app = typer.Typer(add_completion=False)

MARGIN = 0.05  # the loss that some sixty answers without a bad flip can rule out

MS = "{:>7.0f}"


@app.command()
def demo(
    requests: Annotated[int, typer.Option(help="How many of the held-out questions; 0 takes all.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="The whole half, not the quick set.")] = False,
    grow: Annotated[bool, typer.Option(help="Let documents come in while others are asked about.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> int:
    """Let handbooks come in, certify the gate, then answer held-out questions under two plans and say why."""
    if requests < 0:
        raise InputError(f"--requests {requests}", help="give 0 or more", code="E260")
    check_outputs(json_file)
    say = teller()
    _prepare(say)
    from tauten.examples.live_chat import tour as tours
    from tauten.examples.live_chat.recording import recording

    dev = list(recording(split="dev"))
    held_out = list(recording(split="held_out", quick=not everything))[: requests or None]
    grown = run_async(tours.grow(dev, say)) if grow else None
    if grown is not None:
        _print_grown(grown)
    _, gate = run_async(tours.certify(dev, say))
    print(f"\nThe gate, on questions of the development half\n  {gate.why}\n")
    sides = run_async(tours.sides(held_out, say))
    said = tours.verdict(sides, MARGIN)
    say("")
    _print_sides(tours, sides)
    print(f"\n quality of tuned against naive: {said}")
    if json_file is not None:
        document = tours.as_document(grown, gate, sides, said)
        write_output(json_file, msgspec.json.format(msgspec.json.encode(document, enc_hook=str)))
    failed = any(len(side.replay.good) < len(side.replay.served) for side in sides)
    return 5 if failed or (grown is not None and grown.failed) else 0


def _prepare(say: Callable[[str], None]) -> None:
    """Models and the shipped handbooks; each made once."""
    from tauten.cli.demo import fetched
    from tauten.examples.live_chat.library import ensure_library
    from tauten.models import Store

    Store().pull(progress=fetched(say))
    ensure_library(say)


def _print_grown(grown: Any) -> None:
    print("Documents that came in while others were asked about")
    for each in grown.newcomers:
        added = each.added
        drawn = f", {added.drawn} read from pictures" if added.drawn else ""
        print(f"\n  {added.name}: {added.pages} pages{drawn}, {added.chunks} passages, {each.took_s:.1f} s")
        print(f"    {each.question}")
        print(f"    before  {_line(each.before)}")
        print(f"    after   {_line(each.after)}{'' if each.right else '   (not right)'}")
    print(f"\n  {grown.asked} questions were answered meanwhile, {len(grown.failed)} failed")
    for failure in grown.failed[:3]:
        print(f"    {failure}")


def _line(text: str) -> str:
    return " ".join(text.split())[:140]


def _print_sides(tours: Any, sides: Sequence[Any]) -> None:
    print(
        f" {'plan':<7}{'asked':>6}{'right':>7}{'model calls':>13}{'p50 ms':>9}{'p95 ms':>9}{'first p50':>11}"
    )
    for side in sides:
        times = side.replay.percentiles()
        wall, first = times["wall_ms"], times["first_output_ms"]
        print(
            f" {side.plan.name:<7}{len(side.routed):>6}{sum(side.right.values()):>7}{side.model_calls:>13}"
            f"{MS.format(wall['p50']):>9}{MS.format(wall['p95']):>9}{MS.format(first['p50']):>11}"
        )
    for side in sides:
        print(f"\n {side.plan.name}: who answered")
        for kind, counts in sorted(side.by_kind().items()):
            told = ", ".join(f"{count} by {name or 'nobody'}" for name, count in counts.most_common())
            print(f"   {kind:<8} {told}")
    print(f"\n why, one of each ({sides[-1].plan.name})")
    for each in tours.examples(sides[-1]):
        print(f"   {each.kind:<8} {each.wall_ms:6.0f} ms   {each.item}\n            {each.why}")
