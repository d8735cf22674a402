"""`tauten demo`: the help desk on real input with real models, naive and tuned plan side by side."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tauten.cli.explain import measurements_path
from tauten.cli.output import check_outputs, write_output
from tauten.cli.progress import teller
from tauten.errors import InputError
from tauten.explain.html import to_html
from tauten.explain.planned import in_force_text
from tauten.explain.text import compare_text
from tauten.improve.replay import keep_measurements, load_measurements
from tauten.run.ambient import run_async

if TYPE_CHECKING:
    from tauten.models import Progress

app = typer.Typer(add_completion=False)

MARGIN = 0.05  # the loss that the quick set of 60 can just rule out (4.87 points with no answer turned wrong)


@app.command()
def demo(
    requests: Annotated[int, typer.Option(help="How many of the chosen requests; 0 takes all.")] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="The whole recording, not the quick set.")
    ] = False,
    split: Annotated[str, typer.Option(help="Only this half: dev or held_out.")] = "",
    ablation: Annotated[bool, typer.Option(help="Take the tuned plan apart.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page.")] = None,
    perfetto: Annotated[Path | None, typer.Option(help="Write a trace for ui.perfetto.dev.")] = None,
) -> int:
    """Answer one request, replay the recording under two plans, and show where the time went."""
    if split not in ("", "dev", "held_out"):
        raise InputError(f"no half {split!r}", help="write dev or held_out", code="E260")
    if requests < 0:
        raise InputError(f"--requests {requests}", help="give 0 or more", code="E260")
    check_outputs(json_file, html, perfetto)
    say = teller()
    began = time.monotonic()
    prepare(say)
    from tauten.examples.help_desk import tour as tours
    from tauten.examples.help_desk.desk import help_desk
    from tauten.examples.help_desk.recording import recording

    chosen = recording(split=split or None, quick=not everything)
    items = list(chosen)[: requests or None]
    _first(tours, help_desk, items, began, say)
    _render(items, say)
    path = measurements_path()
    known = load_measurements(path)
    work = tours.tour(help_desk, items, measurements=known, say=say, margin=MARGIN, ablate=ablation)
    found = run_async(work)
    keep_measurements(known, path)
    say("")
    _print(tours, found)
    _write(tours, found, json_file, html, perfetto)
    return 0 if not any(side.replay.served and not side.replay.good for side in found.sides) else 5


def prepare(say: Callable[[str], None]) -> None:
    """Models and the index of the bundled manual; each made once."""
    from tauten.examples.help_desk.manual import ensure_manual
    from tauten.models import Store

    Store().pull(progress=fetched(say))
    say("indexing the manual")
    ensure_manual()


def fetched(say: Callable[[str], None]) -> Callable[[Progress], None]:
    """Tells how far the models are."""

    def tell(progress: Progress) -> None:
        total = progress.total_bytes or 0
        of = f" of {total / 1e6:.0f}" if total else ""
        say(f"{progress.phase} {progress.model} {progress.done_bytes / 1e6:.0f}{of} MB")

    return tell


def _first(tours: Any, workflow: Any, items: list[Any], began: float, say: Callable[[str], None]) -> None:
    """The first answer, as soon as the models are loaded."""
    item = next((each for each in items if "screen typed" in each.tags), items[0])
    say("")
    asked = item.inputs.get("question")
    print(f"request   {item.id}\nquestion  {asked}\n")
    served = run_async(tours.first_answer(workflow, item, lambda part: print(part, flush=True)))
    waited = time.monotonic() - began
    print(f"\nanswered in {served.wall_ms:.0f} ms; {waited:.1f} s after the demo was started\n", flush=True)


def _render(items: list[Any], say: Callable[[str], None]) -> None:
    from tauten.examples.help_desk.recording import render

    render(items, lambda count: say(f"rendering screenshots and voices: {count} of {len(items)}"))


def _print(tours: Any, found: Any) -> None:
    print(compare_text(found.comparison))
    for side in found.sides:
        quality = side.quality
        print(f" {side.plan.name:<6} {_percentiles(side)}")
        print(f"        correct {quality.correct}   hit@1 {quality.hit_at_1}   hit@3 {quality.hit_at_3}")
        print(f"        refused right {quality.refused_right}   answered right {quality.answered_right}")
        print(in_force_text(side.properties), end="")
    loss = tours.smallest_provable_loss(len(found.sides[0].outcomes)) * 100
    print(f"\n quality of tuned against naive: {found.verdict}")
    print(f" {len(found.sides[0].outcomes)} requests can prove at best a loss below {loss:.1f} points.")
    naive, tuned = (side.replay.percentiles()["wall_ms"]["p50"] for side in found.sides)
    print(f" p50 {naive:.0f} -> {tuned:.0f} ms: {naive / tuned:.1f} times faster")


def _percentiles(side: Any) -> str:
    shown = side.replay.percentiles()
    parts = [
        f"{name.removesuffix('_ms').replace('_', ' ')} p50 {table['p50']:.0f} p95 {table['p95']:.0f} ms"
        for name, table in shown.items()
        if name != "unattributed_ms"
    ]
    return "   ".join([*parts, f"unattributed p95 {side.replay.unattributed_share_p95():.2%}"])


def _write(tours: Any, found: Any, json_file: Path | None, html: Path | None, perfetto: Path | None) -> None:
    if json_file is not None:
        encoded = msgspec.json.encode(tours.document(found), enc_hook=str)
        write_output(json_file, msgspec.json.format(encoded))
    if html is not None:
        write_output(html, to_html(found.comparison))
    if perfetto is not None:
        from tauten.explain.exports.perfetto import export

        picked = {side.replay.plan: side.replay.at("p50").trace for side in found.sides}
        write_output(perfetto, export(picked, workflow=found.workflow.name))
