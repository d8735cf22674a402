"""What the command writes into pages: the kept figures as JSON, and the tables drawn from them between two marks."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tauten.errors import InputError
from tauten.improve.headlines.row import Headlines
from tauten.improve.headlines.table import details, summary

START: Final = "<!-- headlines: written by `tauten bench headlines --write`, never by hand -->"
END: Final = "<!-- end of headlines -->"
KEPT: Final = Path("docs/headlines.json")
PAGES: Final[Mapping[Path, Callable[[Headlines], str]]] = {
    Path("README.md"): summary,
    Path("docs/headlines.md"): details,
}


def load(path: Path) -> Headlines:
    """The kept figures; none where there is no file. Raises InputError E294."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Headlines)
    except FileNotFoundError:
        return Headlines()
    except (OSError, msgspec.MsgspecError) as error:
        raise _refused(path, str(error), "restore it, or remove it and measure all rows") from error


def filled(text: str, drawn: str) -> str:
    """The page with `drawn` between its marks; ValueError without them."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError("it lacks the marks of the table")
    return f"{before}{START}\n{drawn}\n{END}{after}"


def pages(root: Path, newer: Headlines) -> dict[Path, str]:
    """The files with these rows among those kept before, as they are to be written. Raises InputError E294.

    Called before the measuring, too, so that what cannot be written is known an hour earlier.
    """
    every = load(root / KEPT).merged(newer)
    found = {root / path: _page(root / path, draw(every)) for path, draw in PAGES.items()}
    kept = msgspec.json.format(msgspec.json.encode(every), indent=1).decode()
    return found | {root / KEPT: f"{kept}\n"}


def _page(path: Path, drawn: str) -> str:
    try:
        return filled(path.read_text(), drawn)
    except (OSError, ValueError) as error:
        raise _refused(path, str(error), "call it in the root of a checkout of Tauten") from error


def _refused(path: Path, reason: str, help: str) -> InputError:
    return InputError(f"the headlines cannot be kept in {path.name}: {reason}", help=help, code="E294")
