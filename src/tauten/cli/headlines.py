"""`tauten bench headlines`: published figures beside what is measured here of the same."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tauten.cli.output import check_outputs, write_output
from tauten.cli.progress import teller
from tauten.errors import InputError
from tauten.improve.headlines.how import How, Inputs
from tauten.improve.headlines.measured import chosen, measured
from tauten.improve.headlines.page import pages
from tauten.improve.headlines.row import Headlines, Stamp
from tauten.improve.headlines.table import details
from tauten.models import Store
from tauten.plan.hardware import hardware
from tauten.run.ambient import run_async
from tauten.version import __version__

if TYPE_CHECKING:
    from tauten.describe.payload import Image

app = typer.Typer(add_completion=False)

NOT_MEASURED = 3  # the machine, as everywhere
PLACES = 5  # squares along each side of a photograph
MANUAL = "docs/tutorial/datastructures.rst"  # long enough for every prompt


@app.command()
def headlines(
    rows: Annotated[str, typer.Option(help="Only these, as L1,L5.", show_default=False)] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="One round of each, to see that it works: no evidence.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Draw the tables in README.md and docs/headlines.md anew.")
    ] = False,
) -> int:
    """Measure published figures on this machine, against the naive and the best zero-effort setting.

    Seven rounds of all settings in turn, with 95 % intervals: plan for an hour or two. Exit codes: 0 measured,
    2 the call is wrong in itself, 3 a row could not be measured, and says why.
    """
    ids = chosen(rows)
    check_outputs(json_file)
    if write and quick:
        raise InputError("--write and --quick", help="leave one out: one round is no evidence", code="E260")
    if write:
        pages(Path(), Headlines())
    say = teller()
    how = How(inputs(), Store(), quick=quick, say=say)
    found: Headlines = run_async(_measured(ids, how, write))
    say("")
    if json_file is not None:
        write_output(json_file, msgspec.json.encode(found))
    return NOT_MEASURED if any(row.missing for row in found.rows) else 0


async def _measured(ids: Sequence[str], how: How, write: bool) -> Headlines:
    """Print each row, and write it into the pages, as soon as it is there: what follows may be interrupted."""
    rows = []
    async with aclosing(measured(ids, how, stamp())) as found:
        async for row in found:
            rows.append(row)
            how.say("")
            typer.echo(details(Headlines(rows=[row])) + "\n")
            for path, text in (pages(Path(), Headlines(rows=[row])) if write else {}).items():
                write_output(path, text)
    return Headlines(rows=rows)


def inputs() -> Inputs:
    """Squares out of the help desk's photographs, its questions, and a chapter of its manual."""
    from tauten.examples import help_desk
    from tauten.examples.help_desk.sites import HALVES, questions, sites

    folder = Path(help_desk.__file__).parent
    texts = [text for half in HALVES for text, _ in questions(half)]
    texts += [text for half in HALVES for site in sites(half) for text, _ in site.questions]
    images = [each for path in sorted((folder / "pictures").glob("*.jpg")) for each in _squares(path)]
    return Inputs(images, list(dict.fromkeys(texts)), (folder / MANUAL).read_text())


def _squares(path: Path) -> Iterator[Image]:
    """Squares of half the shorter side, evenly spread: other motifs, as sharp as the photograph."""
    from PIL import Image as Picture

    from tauten.describe.payload import Image

    with Picture.open(path) as picture:
        side = min(picture.size) // 2
        for row in range(PLACES):
            for column in range(PLACES):
                left = (picture.width - side) * column // (PLACES - 1)
                top = (picture.height - side) * row // (PLACES - 1)
                yield Image.from_pil(picture.crop((left, top, left + side, top + side)))


def stamp(git: Callable[[], str] | None = None) -> Stamp:
    """Here and now."""
    return Stamp(
        machine=str(hardware()),
        measured_at=datetime.now(UTC).date().isoformat(),
        commit=(git or _commit)(),
        tauten=__version__,
    )


def _commit() -> str:
    """The commit of the checkout that this file lies in, `-dirty` where its code is another; "" where it is installed.

    The pages that earlier rows were written into are no code.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    commit, changed = _git(root, "rev-parse", "--short", "HEAD"), _git(root, "status", "--porcelain", "src")
    return f"{commit}-dirty" if commit and changed else commit


def _git(root: Path, *words: str) -> str:
    """What it prints; "" where it cannot tell."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
