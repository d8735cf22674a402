"""`tauten demo assistant`: an assistant over a slow service, layer by layer, at the API of a real server."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tauten.cli.output import check_outputs, write_output
from tauten.cli.progress import teller
from tauten.errors import MachineError

if TYPE_CHECKING:
    from tauten.examples.assistant.sweep import Swept
    from tauten.examples.assistant.tour import Layer, Moment, Tour

app = typer.Typer(add_completion=False)

_SHOWN = 72  # characters of an answer: a line of a terminal


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Orders only: no models, half a minute.")] = False,
    redis: Annotated[
        str, typer.Option(help="A Redis server that two servers share.", show_default="$TAUTEN_REDIS")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> int:
    """Ask an assistant over a service that takes 400 ms: without layers, then with each of them."""
    check_outputs(json_file)
    try:
        from tauten.examples.assistant import plans, sweep, tour
    except ImportError as error:
        raise MachineError(
            f"the demo needs {error.name}, which is not installed",
            help="pip install 'tauten[local,serve]'",
            code="E315",
        ) from error

    say = teller()
    if not quick:
        _prepare(say)
    size = tour.QUICK if quick else tour.FULL
    found = tour.tour(size, redis=redis or tour.redis_of_this_machine(), say=say)
    say("repeats, on a virtual clock")
    swept = {
        "as planned": sweep.sweep(plans.of_orders(plans.layered())),
        "told of each change": sweep.sweep(plans.ruled(plans.of_orders(plans.layered()), **_NEVER_OLD)),
    }
    say("")
    _print(found, swept)
    if json_file is not None:
        content = {"schema": "tauten.demo.assistant/1", "tour": found, "repeats": swept}
        write_output(json_file, msgspec.json.format(msgspec.json.encode(content)))
    return 0


_NEVER_OLD: dict[str, Any] = {"ttl_s": 0.0, "refresh": 0.0, "stale_s": 0.0}


def _prepare(say: Any) -> None:
    """The models of the assistant; each is fetched once."""
    from tauten.models import Progress, Store

    def fetched(progress: Progress) -> None:
        say(f"{progress.phase} {progress.model} {progress.done_bytes / 1e6:.0f} MB")

    Store().pull(progress=fetched)


def _print(found: Tour, swept: dict[str, list[Swept]]) -> None:
    print(" layer                                  asked  lookups    p50 ms    p99 ms  worst ms")
    for layer in found.layers:
        print(_layer(layer))
    without, hit = found.layer("none"), found.layer("memory, same words")
    print(f"\n a hit in memory is {without.p50_ms / hit.p50_ms:.0f} times faster than a lookup, at the API")
    for name, moments in found.scenes.items():
        print(f"\n {name}")
        for moment in moments:
            print(_moment(moment))
    _print_held(found)
    _print_swept(swept)
    for each in found.left_out:
        print(f" left out: {each}")


def _layer(layer: Layer) -> str:
    times = "".join(f"{value:>10.2f}" for value in (layer.p50_ms, layer.p99_ms, layer.worst_ms))
    return f" {layer.name:<38} {layer.asked:>5} {layer.lookups:>8}{times}"


def _moment(moment: Moment) -> str:
    said = " ".join(moment.answer.split())
    shown = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
    return f"  {moment.at_s:>5.1f} s  {moment.what:<40} {moment.ms:>8.2f} ms  {moment.status}  {shown}"


def _print_held(found: Tour) -> None:
    print("\n what the server counted, before results were let grow old faster")
    print("  step           hits by tier                 misses   saved s   saved cents")
    for each in found.held:
        tiers = ", ".join(f"{name} {hits}" for name, hits in each.tier_hits.items())
        print(
            f"  {each.step:<14} {tiers:<28} {each.misses:>6} {each.saved_s:>9.1f} {each.saved_cents:>13.2f}"
        )


def _print_swept(swept: dict[str, list[Swept]]) -> None:
    print("\n repeats, on a virtual clock: a lookup takes 400 ms, all else no time")
    print("  cache                 share  requests  lookups   saved   mean ms   cents saved")
    for name, rows in swept.items():
        for row in rows:
            print(
                f"  {name:<20} {row.repeats:>5.0%} {row.requests:>9} {row.lookups:>8} {row.saved:>7.0%}"
                f" {row.mean_ms:>9.0f} {row.saved_cents:>13.2f}"
            )
    print()
