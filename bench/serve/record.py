"""The figures of `make bench-serve` as a page of the documentation: written by this command, never by hand.

python -m bench.serve.record [FILE.json]
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.ground import markdown
from bench.ground.command import drawn
from bench.ground.drawing import number, value
from bench.serve import files, missed
from bench.serve.table import REFERENCES

PAGE = Path("docs/comparison.md")
MODELS = {
    "small": "A small model (tens of µs)",
    "heavy": "A heavy model (60 MB of weights)",
    "wide": "Bodies of 100 KB",
}
HEAD = """# Beside other servers

Drawn by `python -m bench.serve.record` from what `make bench-serve` measured, never by hand. The same ONNX model behind each server, all in one interleaved run on one machine; each figure
is the median over rounds, **bold** where it is the first of its column. `diy` and `floor` are references of a few lines and no products. "Bare" is the engine alone: two
processes at the best batch. Rates of the open loop are shares of that. What misses its bound stands at the end with the reason.
"""


def page(document: Mapping[str, Any], reasons: missed.Reasons) -> str:
    """All of it as Markdown."""
    parts = [HEAD, *_comparison(document)] if "rows" in document else [HEAD]
    if files.STRESS in document:
        parts += _scenarios(document[files.STRESS])
    return "\n".join([*parts, *markdown.missed(missed.missed(document, reasons))]).rstrip() + "\n"


def _comparison(document: Mapping[str, Any]) -> Iterator[str]:
    yield markdown.conditions(
        document, f"{document['minutes']:.0f} minutes, closed loop by {document['closed_loop_client']}"
    )
    for model, title in MODELS.items():
        rows = [row for row in document["rows"] if row["model"] == model]
        if rows:
            yield f"## {title}\n"
            yield from _table(rows, [column for column in document["columns"] if model in column["models"]])


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    titles = [f"{each['title']}{'' if each['unit'] == 'share' else ', ' + each['unit']}" for each in columns]
    yield from markdown.head(["server", "rounds", "CPU of others", *titles], 1)
    for row in rows:
        yield markdown.line([row["label"], str(row["rounds"]), *_cells(row, columns)])
    yield ""


def _cells(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if row["reason"]:
        yield f"did not run: {row['reason']}"
        return
    taken = [row[key]["median"] for key in ("foreign_share", "steal_share") if row[key] is not None]
    yield number(sum(taken), "share") if taken else "–"
    for column in columns:
        cell = row["cells"].get(column["key"])
        if cell is None:
            yield "saturated" if column["key"].removesuffix("_p99_ms") in row["saturated"] else "–"
            continue
        shown = number(cell["median"], column["unit"])
        first = row["ranks"].get(column["key"]) == 1 and row["server"] not in REFERENCES
        yield f"**{shown}**" if first else shown


def _scenarios(stress: Mapping[str, Any]) -> Iterator[str]:
    yield "## Under stress\n"
    yield markdown.conditions(stress, "each scenario once", stress["scenarios"])
    yield from markdown.head(["scenario", "what", "seen", "bound"], 2)
    for one in stress["scenarios"]:
        for check in one["checks"]:
            seen = value(check["seen"], check["unit"])
            yield markdown.line([one["title"], check["name"], seen, markdown.bound(check)])
    yield ""


def written(file: Path, document: Mapping[str, Any]) -> Path:
    """The page of the documentation."""
    PAGE.write_text(page(document, missed.read_reasons()))
    return PAGE


def main() -> int:
    return drawn("make bench-serve", files.OUT, files.read, written)


if __name__ == "__main__":
    sys.exit(main())
