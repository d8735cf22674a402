"""`tauten store`: backup and restore of what cannot be fetched again."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tauten.cli.output import check_outputs

if TYPE_CHECKING:
    from tauten.run.backup import Manifest

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Back up and restore indexes and the book of usage."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object with a schema name.")]


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", show_default=False)], as_json: AsJson = False
) -> int:
    """Write indexes and the book of usage into one file; while a server runs, too."""
    from tauten.models.store import default_root
    from tauten.run.backup import back_up

    check_outputs(file)
    _say("backup", file, back_up(default_root(), file), as_json)
    return 0


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", show_default=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of what is there.")] = False,
    as_json: AsJson = False,
) -> int:
    """Check a backup whole, then put it into the store; stop servers first."""
    from tauten.models.store import default_root
    from tauten.run.backup import restore as put_back

    _say("restore", file, put_back(default_root(), file, replace=replace), as_json)
    return 0


def _say(what: str, file: Path, manifest: Manifest, as_json: bool) -> None:
    size = sum(member.size_bytes for member in manifest.members)
    if as_json:
        record = {
            "schema": f"tauten.store.{what}/1",
            "file": str(file),
            "indexes": manifest.indexes,
            "books": manifest.books,
            "files": len(manifest.members),
            "size_bytes": size,
        }
        print(msgspec.json.format(msgspec.json.encode(record)).decode())
        return
    held = [f"index {name}" for name in manifest.indexes] + ["the book of usage" for _ in manifest.books]
    print(f"{file}: {', '.join(held) or 'nothing: there is no index and no book'}, {size / 1e6:.1f} MB")
