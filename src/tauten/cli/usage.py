"""`tauten usage`: what was taken of whom and what it cost, added up by what one wants to know."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tauten.cli.output import check_outputs, write_output
from tauten.errors import InputError

if TYPE_CHECKING:
    from tauten.run.usage.database import Database
    from tauten.run.usage.report import Report, Usage

app = typer.Typer(add_completion=False)

_SPANS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_SHOWN = ("input_tokens", "cached_tokens", "output_tokens", "audio_seconds", "core_seconds", "energy_j")

Place = Annotated[
    str, typer.Option("--usage", help="A book: a file or a postgresql:// address; the store's.")
]
Since = Annotated[str, typer.Option(help="From then on: 2026-03-01, 2026-03-01T14:00, or 7d, 12h, 2w ago.")]
Until = Annotated[str, typer.Option(help="Up to then, in the same words.")]


@app.command()
def usage(
    by: Annotated[
        str, typer.Option(help="model tenant workflow key tag day ..., or some: day,model.")
    ] = "model",
    since: Since = "",
    until: Until = "",
    only: Annotated[list[str] | None, typer.Option(help="Of these alone: tenant=desk.")] = None,
    place: Place = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
) -> int:
    """Requests, calls, tokens and money, from the book that servers and runs write."""
    from tauten.run.usage.report import report

    check_outputs(html)
    words = [word.strip() for word in by.split(",") if word.strip()]
    database = open_book(place)
    try:
        found = report(
            database, words, instant(since, "--since"), instant(until, "--until"), pairs(only or ())
        )
    finally:
        database.close()
    if html is not None:
        from tauten.explain.usage_page import usage_page

        write_output(html, usage_page(found))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    elif as_csv:
        print(_csv(found), end="")
    elif html is None:
        print("\n".join(_table(found)))
    return 0


def open_book(place: str) -> Database:
    """The book at a place, or the store's; raises NotFound where none was ever written."""
    from tauten.run.usage.book import default_place
    from tauten.run.usage.database import open_database
    from tauten.run.usage.report import no_book

    place = place or default_place()
    if "://" not in place and not Path(place).is_file():
        raise no_book(place)
    return open_database(place)


def instant(text: str, flag: str) -> datetime | None:
    """A day, an instant (UTC where it names no zone), or so long ago; None where nothing is said."""
    if not text:
        return None
    if ago := re.fullmatch(r"(\d{1,5})([hdw])", text):
        return datetime.now(UTC) - int(ago[1]) * _SPANS[ago[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{flag} {text!r}",
            help="give a day or an instant, as 2026-03-01 or 2026-03-01T14:00, or 7d",
            code="E260",
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def pairs(given: Sequence[str]) -> Mapping[str, str]:
    """`name=value` of a flag that may be given several times, once a name."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise InputError(f"--only {each!r}", help="write it as tenant=desk", code="E260")
        if found.setdefault(name, value) != value:
            raise InputError(
                f"--only {each}: {name} is said to be {found[name]!r}, too",
                help=f"ask for one {name} at a time; `--by {name}` shows them side by side",
                code="E260",
            )
    return found


def _csv(found: Report) -> str:
    out = io.StringIO()
    units = _all_units(found)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*found.by, "requests", "calls", "dollars", "unpriced", *units])
    for line in found.lines:
        amounts = [line.units.get(unit, "") for unit in units]
        writer.writerow(
            [*line.by.values(), line.requests, line.calls, line.cost.dollars, line.unpriced, *amounts]
        )
    return out.getvalue()


def _all_units(found: Report) -> list[str]:
    from tauten.run.usage.row import COUNTED_UNITS

    return [unit for unit in COUNTED_UNITS if unit in found.total.units]


def _table(found: Report) -> list[str]:
    """Columns as wide as what stands in them; a unit that nobody counted has none."""
    units = [unit for unit in _SHOWN if found.total.units.get(unit)]
    heads = [*found.by, "requests", "calls", "cost", *(unit.replace("_", " ") for unit in units)]
    rows = [[*(name or "-" for name in line.by.values()), *_figures(line, units)] for line in found.lines]
    last = [*("total" if not place else "" for place in range(len(found.by))), *_figures(found.total, units)]
    lines = [heads, *rows, last] if found.by else [heads, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    shown = [_padded(line, widths, len(found.by)) for line in lines]
    if found.total.unpriced:
        shown.append("")
        shown.append(
            f"{found.total.unpriced:,} without a known price: `tauten usage --by provider,model` shows which"
        )
    return shown


def _figures(line: Usage, units: Sequence[str]) -> list[str]:
    amounts = [f"{line.units.get(unit, 0):,.{0 if unit.endswith('_tokens') else 2}f}" for unit in units]
    return [f"{line.requests:,}", f"{line.calls:,}", str(line.cost), *amounts]


def _padded(line: Sequence[str], widths: Sequence[int], names: int) -> str:
    cells = [
        text.ljust(width) if place < names else text.rjust(width)
        for place, (text, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "   ".join(cells).rstrip()
