"""`tauten usage reconcile`: the book against a provider's own count, unit by unit."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tauten.cli.usage import Place, Since, Until, instant, open_book

app = typer.Typer(add_completion=False)


@app.command()
def reconcile(
    file: Annotated[Path, typer.Argument(metavar="EXPORT.csv", show_default=False)],
    provider: Annotated[
        str, typer.Option(help="Whose export it is, as the book calls it; all without one.")
    ] = "",
    since: Since = "",
    until: Until = "",
    place: Place = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Say what a provider counts and the book does not; exit 0 where they agree, 1 where they differ."""
    from tauten.run.usage.reconcile import SCHEMA, compare, read_export
    from tauten.run.usage.report import report

    theirs = read_export(file)
    by = ["model", "day"] if any(line.day for line in theirs) else ["model"]
    database = open_book(place)
    try:
        only = {"provider": provider} if provider else {}
        books = report(database, by, instant(since, "--since"), instant(until, "--until"), only)
    finally:
        database.close()
    found = compare(theirs, [line for line in books.lines if line.calls])
    differ = [each for each in found if each.missing]
    if as_json:
        record = {"schema": SCHEMA, "agree": not differ, "lines": found}
        print(msgspec.json.format(msgspec.json.encode(record)).decode())
        return 1 if differ else 0
    for each in differ:
        where = f"{each.model}  {each.day}".strip()
        print(
            f"{where}  {each.unit}: provider {each.theirs:,.10g}, book {each.ours:,.10g}, {each.missing:+,.10g}"
        )
    print(f"{len(found) - len(differ)} of {len(found)} figures agree")
    return 1 if differ else 0
