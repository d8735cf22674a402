"""The page of `make bench-shortcuts`: what was missed first, then every section with its checks, table and plots.

python -m bench.shortcuts.page [FILE.json]    draws the page again, for instance after an edit of reasons.toml
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.ground import drawing, machine, missed
from bench.ground.check import Line
from bench.ground.command import drawn
from bench.ground.verdict import WORDS, verdict
from bench.shortcuts.section import FAILED

OUT = Path("out/bench-shortcuts.json")
FORMAT = "tauten-bench-shortcuts/1"
REASONS = Path(__file__).parent / "reasons.toml"
OURS = "ours"


def read(file: Path) -> dict[str, Any]:
    """What was written before; nothing where there is no file, or one of another format."""
    found = json.loads(file.read_text()) if file.exists() else {}
    return dict(found) if found.get("format") == FORMAT else {}


def read_reasons(path: Path = REASONS) -> missed.Reasons:
    return missed.read_reasons(path)


def missed_of(document: Mapping[str, Any], reasons: missed.Reasons) -> list[missed.Missed]:
    """All that are not met, in the order of the page; a section that did not run is one, too."""
    return list(missed.of_parts(document["sections"], reasons))


def draw(file: Path, reasons: missed.Reasons | None = None) -> Path:
    """The page of a file, beside it."""
    page = file.with_suffix(".html")
    page.write_text(whole(read(file), read_reasons() if reasons is None else reasons))
    return page


def whole(document: Mapping[str, Any], reasons: missed.Reasons) -> str:
    """The page: one file, nothing fetched from anywhere."""
    head = missed.table(missed_of(document, reasons))
    parts = "".join(_section(one) for one in document["sections"])
    body = f"<h1>Shortcuts side by side</h1>{_facts(document)}{head}{_overview(document['sections'])}{parts}"
    return drawing.page("make bench-shortcuts", body)


def _facts(document: Mapping[str, Any]) -> str:
    about, chosen = document["machine"], document["settings"]
    said = "a quick look: no figure of record" if chosen["quick"] else f"{chosen['rounds']} rounds"
    words = (
        f"{about['cpu']}, {about['cores']} cores, {about['system']}; began {document['began']}, "
        f"{document['minutes']} minutes; {said}; {machine.words(about)}."
    )
    return (
        f"<p class=soft>{escape(words)}</p><p>In each round every row is measured once, in an order of that round's "
        "own. A cell is the median of the rounds with the lowest and the highest below it; blue rows are ours.</p>"
    )


def _overview(sections: Sequence[Mapping[str, Any]]) -> str:
    names = ("section", "", "foreign CPU", "stolen by the host", "began", "commit")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(one['title'])}</td><td>{verdict(one['error'], [check['met'] for check in one['checks']])}</td>"
        f"<td>{drawing.number(one['foreign_share'], 'share')}</td>"
        f"<td>{drawing.number(one['steal_share'], 'share')}</td>"
        f"<td>{escape(one['began'])}</td><td>{escape(one['commit'])}</td></tr>"
        for one in sections
    )
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _section(one: Mapping[str, Any]) -> str:
    error = f'<p class="reason">did not run: {escape(one["error"])}</p>' if one["error"] else ""
    notes = "".join(f"<p class=soft>{escape(note)}</p>" for note in one["notes"])
    return (
        f"<h2>{escape(one['title'])}</h2><p>{escape(one['claim'])}</p><p class=soft>{escape(one['how'])}</p>{error}"
        f'{_checks(one["checks"])}{_table(one)}{notes}<div class="plots">{_plots(one)}</div>{_conditions(one)}'
    )


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each['name'])}</td><td>{drawing.value(each['seen'], each['unit'])}</td>"
        f"<td>{'≥' if each['at_least'] else '≤'} {drawing.value(each['bound'], each['unit'])}</td>"
        f"<td>{WORDS[each['met']]}</td></tr>"
        for each in checks
    )
    return f"<table><tr><th></th><th>seen</th><th>target</th><th></th></tr>{rows}</table>" if rows else ""


def _table(one: Mapping[str, Any]) -> str:
    names = ("<th></th>", "<th>foreign CPU</th>")
    units = ("" if each["unit"] == "share" else each["unit"] for each in one["columns"])
    titles = (f"<th>{escape(each['title'])}" for each in one["columns"])
    head = "".join(
        f"{title}<br><small>{escape(unit)}</small></th>" for title, unit in zip(titles, units, strict=True)
    )
    rows = "".join(_row(row, one["columns"]) for row in one["rows"])
    return f'<div class="wide"><table><tr>{"".join(names)}{head}</tr>{rows}</table></div>' if rows else ""


def _row(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> str:
    note = f"<small>{escape(row['note'])}</small>" if row["note"] else ""
    ours = ' class="ours-row"' if row["ours"] else ""
    if row["reason"]:
        cells = f'<td class="reason" colspan="{len(columns) + 1}">did not run: {escape(row["reason"])}</td>'
    else:
        share = _cell(row["figures"].get("foreign_share"), "share")
        cells = share + "".join(_cell(row["figures"].get(each["key"]), each["unit"]) for each in columns)
    failed = sum(FAILED in each for each in row["rounds"])
    lost = f"<small>{failed} rounds failed</small>" if failed and not row["reason"] else ""
    return f"<tr{ours}><td>{escape(row['name'])}{note}{lost}</td>{cells}</tr>"


def _cell(found: Any, unit: str) -> str:
    if isinstance(found, str):
        return f'<td class="reason">{escape(found)}</td>'
    if not isinstance(found, Mapping):
        return f"<td>{_figure(found, unit)}</td>"
    low, middle, high = (_figure(found[key], unit) for key in ("low", "median", "high"))
    return (
        f"<td>{middle}{f'<small>{low} … {high}</small>' if found['rounds'] > 1 and low != high else ''}</td>"
    )


def _figure(value: float | None, unit: str) -> str:
    """Counts are shown whole; the unit stands in the head of the column."""
    return drawing.value(value, "share" if unit == "share" else "")


def _plots(one: Mapping[str, Any]) -> str:
    ours = {row["name"] for row in one["rows"] if row["ours"]}
    curves = [
        drawing.curves(
            title,
            [
                (each["name"], OURS if each.get("ours") or each["name"] in ours else "", Line(**each))
                for each in lines
            ],
        )
        for title, lines in one["curves"].items()
    ]
    return "".join([*curves, *(_bars(one["rows"], each) for each in one["columns"])])


def _bars(rows: Sequence[Mapping[str, Any]], column: Mapping[str, Any]) -> str:
    """A column as bars, where at least two rows have a figure in it, and not all of them nothing."""
    found = [
        (row["name"], OURS if row["ours"] else "", row["figures"][column["key"]]["median"])
        for row in rows
        if isinstance(row["figures"].get(column["key"]), Mapping)
    ]
    drawn = len(found) > 1 and any(value for *_, value in found)
    return drawing.bars(column["title"], found, column["unit"]) if drawn else ""


def _conditions(one: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=reason>{escape(_plain(value))}</td></tr>"
        for name, value in one["conditions"].items()
    )
    return f"<details><summary>conditions</summary><table>{rows}</table></details>" if rows else ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value)
    return drawing.number(value) if isinstance(value, float) else str(value)


def main() -> int:
    return drawn("make bench-shortcuts", OUT, read, lambda file, found: draw(file))


if __name__ == "__main__":
    sys.exit(main())
