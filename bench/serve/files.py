"""The one JSON file of `make bench-serve` and the page beside it: each half of the run writes its part into both.

python -m bench.serve.files [FILE.json]    draws the page again, for instance after an edit of reasons.toml
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.ground import drawing
from bench.ground.command import drawn
from bench.ground.missed import table
from bench.serve import missed, report
from bench.serve.scenarios import section

OUT = Path("out/bench-serve.json")
FORMAT = "tauten-bench-serve/3"
FORMER = "tauten-bench-serve/2"  # whose scenarios do not say when they ran
STRESS = "stress"  # the key of the second half; the keys of the first are those of the document


def read(file: Path) -> dict[str, Any]:
    """What was written before; nothing where there is no file, or one of another format."""
    if not file.exists():
        return {}
    found = dict(json.loads(file.read_text()))
    if found.get("format") == FORMER:
        found.pop(STRESS, None)
    return found if found.get("format") in (FORMAT, FORMER) else {}


def write_comparison(file: Path, found: Mapping[str, Any]) -> None:
    """The first half; the second one that is there stays, with the time of its own run."""
    kept = {key: value for key, value in read(file).items() if key == STRESS}
    _write(file, {**found, **kept})


def write_stress(file: Path, found: Mapping[str, Any]) -> None:
    """The second half, in place of an older one."""
    _write(file, {**read(file), STRESS: found})


def _write(file: Path, document: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**document, "format": FORMAT}, indent=1) + "\n")
    draw(file)


def draw(file: Path) -> Path:
    """The page of a file, beside it."""
    page = file.with_suffix(".html")
    page.write_text(whole(read(file), missed.read_reasons()))
    return page


def whole(document: Mapping[str, Any], reasons: missed.Reasons) -> str:
    """Both halves, or the one that is there, below the figures that were missed."""
    head = table(missed.missed(document, reasons))
    comparison = report.comparison(document) if "rows" in document else ""
    stress = section.section(document[STRESS]) if STRESS in document else ""
    return drawing.page("make bench-serve", f"{head}{comparison}{stress}")


def main() -> int:
    return drawn("make bench-serve", OUT, read, lambda file, found: draw(file))


if __name__ == "__main__":
    sys.exit(main())
