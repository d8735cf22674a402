"""The page of the comparison: one HTML file with its plots drawn as SVG, nothing fetched from anywhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from bench.ground import figures, machine
from bench.ground.check import Line
from bench.ground.drawing import bars, curves, number
from bench.serve.table import OURS, open_name

MARKED = {OURS: "ours", "mosec": "best"}  # the pair that the comparison is about; the others stay grey


def _cell(row: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    cell = row["cells"].get(column["key"])
    if cell is None:
        outrun = column["key"].removesuffix("_p99_ms") in row["saturated"]
        return f"<td>{'saturated' if outrun else '–'}</td>"
    place = row["ranks"].get(column["key"])
    low, middle, high = (number(cell[key], column["unit"]) for key in ("low", "median", "high"))
    between = f"<small>{low} … {high}</small>" if cell["rounds"] > 1 else ""
    return f"<td{' class=first' if place == 1 else ''}>{middle}{between}</td>"


def _table(document: Mapping[str, Any], model: str) -> str:
    columns = [column for column in document["columns"] if model in column["models"]]
    head = "".join(
        f"<th>{escape(c['title'])}<br><small>{'' if c['unit'] == 'share' else c['unit']}</small></th>"
        for c in columns
    )
    lines = []
    for row in [row for row in document["rows"] if row["model"] == model]:
        name = f"<td>{escape(row['label'])}<small>{escape(row['precision'])}</small></td>"
        if row["reason"]:
            cells = (
                f'<td class="reason" colspan="{len(columns) + 2}">did not run: {escape(row["reason"])}</td>'
            )
        else:
            said = "".join(f"<small>{escape(words)}</small>" for words in _troubles(row))
            name = name.replace("</td>", f"{said}</td>")
            others = "".join(f"<td>{_share(row[key])}</td>" for key in ("foreign_share", "steal_share"))
            cells = others + "".join(_cell(row, column) for column in columns)
        ours = ' class="ours-row"' if row["server"] == OURS else ""
        lines.append(f"<tr{ours}>{name}{cells}</tr>")
    body = "".join(lines)
    names = "<th>server</th><th>foreign CPU</th><th>stolen by the host</th>"
    return f'<div class="wide"><table><tr>{names}{head}</tr>{body}</table></div>'


def _troubles(row: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a row before its figures: how many rounds, and what went wrong in them."""
    rounds = row["rounds"]
    counted = {
        "failed starts": row["failed_starts"],
        "requests without a good answer": row["errors"],
        "open-loop points with a late client": row["late_points"],
    }
    said = [f"{rounds} round{'s' if rounds != 1 else ''}"]
    said += [f"{count} {words}" for words, count in counted.items() if count]
    return [*said, *row["failed_points"]]


def _share(spread: Mapping[str, Any] | None) -> str:
    return "–" if spread is None else f"{spread['median']:.1%}<small>to {spread['high']:.1%}</small>"


def _class(server: str) -> str:
    return MARKED.get(server, "grey")


def _values(document: Mapping[str, Any], model: str, key: str, higher: bool) -> list[tuple[str, str, float]]:
    found = [
        (row["label"], _class(row["server"]), figures.median(row["cells"], key))
        for row in document["rows"]
        if row["model"] == model
    ]
    known = [(label, colour, value) for label, colour, value in found if value is not None]
    return sorted(known, key=lambda one: one[2], reverse=higher)


def _plots(document: Mapping[str, Any], model: str) -> str:
    drawn = [
        bars(
            f"{model}: {column['title']}",
            _values(document, model, column["key"], column["higher_is_better"]),
            column["unit"],
        )
        for column in document["columns"]
        if model in column["models"] and not column["key"].startswith("open")
    ]
    base, levels = document["open_loop_capacity_rps"].get(model), document["settings"]["levels"]
    if base and model != "wide":
        lines = []
        for row in (row for row in document["rows"] if row["model"] == model):
            points = [
                (base * level, figures.median(row["cells"], f"{open_name(level)}_p99_ms")) for level in levels
            ]
            line = Line(row["label"], [(x, y) for x, y in points if y])
            lines.append((row["label"], _class(row["server"]), line))
        drawn.insert(0, curves(f"{model}: open loop, p99 over offered rate", lines))
    return f'<div class="plots">{"".join(drawn)}</div>'


def _targets(document: Mapping[str, Any]) -> str:
    words = {True: "met", False: "missed", None: "no figure"}
    lines = []
    for one in document["targets"]:
        sign = "≥" if one["at_least"] else "≤"
        more = "; ".join([*one["lost"], *filter(None, [one.get("note")])])
        lines.append(
            f"<tr><td>{escape(one['target'])}</td><td>{number(one['seen'])}</td>"
            f"<td>{sign} {number(one['bound'])}</td><td>{words[one['met']]}</td>"
            f'<td class="reason">{escape(more)}</td></tr>'
        )
    return f"<table><tr><th>target</th><th>seen</th><th>bound</th><th></th><th></th></tr>{''.join(lines)}</table>"


def _bare(document: Mapping[str, Any], model: str) -> str:
    found = document["bare"].get(model) or {}

    def show(key: str) -> str:
        return number(figures.median(found, key))

    rates = ", ".join(
        f"{words} {' / '.join(show(f'{kind}_b{batch}_items_s') for batch in (1, 8, 32))}"
        for kind, words in (("t2", "two threads"), ("p2", "two processes"))
    )
    return (
        f"<p>Bare engine, rows a second at batch 1 / 8 / 32: {rates}; the best of them {show('best_items_s')}. "
        f"One row alone, p50: {show('one_p50_ms')} ms. "
        f"Open-loop capacity used: {number(document['open_loop_capacity_rps'].get(model))} req/s.</p>"
    )


def _notes(document: Mapping[str, Any]) -> str:
    own = "the client of this repository"
    client = (
        "wrk, which adds the waits that a stalled server hid"
        if document["closed_loop_client"] == "wrk"
        else own
    )
    late = sum(row["late_points"] for row in document["rows"])
    notes = [
        "Every round starts each server anew, in random order, the bare engine among them; a cell is the median of "
        "the rounds with the lowest and the highest below it. Bold: first of its column (the reference is not ranked).",
        f"Closed loop: {client}; a closed loop waits for the server, so its percentiles are no latency claim. "
        "Open loop: Poisson arrivals computed beforehand, latency from the scheduled arrival, failures counted as "
        "latencies without end; “saturated” where the median passes 500 ms or over 1 % have no answer.",
        "Open-loop rates are shares of the bare two-process rate at batch 32, or of "
        f"{document['settings']['open_cap']:,.0f} req/s where that is less: beyond it the client would need the cores "
        "that it shares with the server.",
        f"Points whose client was late by more than 1 % of the median: {late} (their latency includes that lateness).",
        "Share of bare: of the rate of two processes of the engine alone at batch 32, measured right before the row.",
        "All requests carry the same row, and each is computed: models that take tensors share and keep nothing "
        "(what sharing gains elsewhere is the scenario of identical requests).",
        "Same ONNX file for all, max batch 32; one thread for small and wide, all cores for heavy, spinning off. "
        "Client and server share the cores. Foreign CPU: share of the machine used by neither of them. "
        "Memory: proportional set size of the server's tree after the load. Cold start: process start to first right answer.",
    ]
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def comparison(document: Mapping[str, Any]) -> str:
    """The first half of the page: all servers side by side."""
    about, chosen = document["machine"], document["settings"]
    facts = (
        f"{about['cpu']}, {about['cores']} cores, {about['system']}; began {document['began']}, "
        f"{document['minutes']} minutes; asked for: {chosen['rounds']} × {chosen['seconds']:g} s a point; "
        f"{machine.words(about)}."
    )
    sections = "".join(
        f"<h2>{escape(name)}: {escape(facts_of['purpose'])}</h2>{_bare(document, name)}"
        f"{_table(document, name)}{_plots(document, name)}"
        for name, facts_of in document["models"].items()
    )
    return (
        f"<h1>Model servers side by side</h1><p class=soft>{escape(facts)}</p>"
        f"<h2>What was to be shown</h2>{_targets(document)}{sections}<h2>How to read it</h2>{_notes(document)}"
    )


def text(document: Mapping[str, Any]) -> str:
    """A few columns for the terminal."""
    keys = [
        "over_bare_ms",
        "c32_rps",
        "c32_p99_ms",
        "c32_share",
        "c128_share",
        "body_rps",
        "body_p99_ms",
        "cold_s",
    ]
    lines = [" ".join([f"{'server':<34}", f"{'model':<6}", *(f"{key:>12}" for key in keys)])]
    for row in document["rows"]:
        start = f"{row['label']:<34} {row['model']:<6}"
        if row["reason"]:
            lines.append(f"{start} did not run: {row['reason'][:100]}")
            continue
        units = {column["key"]: column["unit"] for column in document["columns"]}
        shown = (number(figures.median(row["cells"], key), units.get(key, "")) for key in keys)
        lines.append(" ".join([start, *(f"{value:>12}" for value in shown)]))
    return "\n".join(lines)
