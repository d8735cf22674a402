"""The page of the comparison: one HTML file with its plots drawn as SVG, nothing fetched from anywhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench.serve import figures, machine
from bench.serve.missed import Missed
from bench.serve.table import OURS, open_name

BAR_HEIGHT, LABEL_WIDTH, BARS_WIDTH = 20, 210, 260
PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 620, 300, 54
MARKED = {OURS: "ours", "mosec": "best"}  # the pair that the comparison is about; the others stay grey
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5d6670;--line:#d9dde2;--ground:#fff;--grey:#aab2bb;
--ours:#0b6bcb;--best:#c2571a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa4ae;--line:#343b43;--ground:#15181c;
--grey:#5c6670;--ours:#5aa9f5;--best:#f0935a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);margin:2rem auto;
max-width:72rem;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}p,li{max-width:46rem}small,.soft{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{font-weight:600;vertical-align:bottom;white-space:normal;min-width:4.2rem}
th:first-child,td:first-child{text-align:left;white-space:nowrap}td.first{font-weight:700}
td.reason{text-align:left;white-space:normal;color:var(--soft)}tr.ours-row td:first-child{color:var(--ours);font-weight:700}
td small{display:block}figure{margin:1.2rem 0}figcaption{font-weight:600;margin-bottom:.3rem}

.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(30rem,1fr));gap:0 2rem}
.plots figure.curves{grid-column:1/-1}svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .soft{fill:var(--soft)}
.grey{fill:var(--grey);stroke:var(--grey)}.ours{fill:var(--ours);stroke:var(--ours)}
.best{fill:var(--best);stroke:var(--best)}polyline{fill:none!important;stroke-width:2}
.axis{stroke:var(--line);stroke-width:1}
"""


def number(value: float | None, unit: str = "") -> str:
    """A figure as a person reads it: three digits, shares in percent."""
    if value is None:
        return "–"
    if unit == "share":
        return f"{value:.1%}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _class(server: str) -> str:
    return MARKED.get(server, "grey")


def bars(title: str, values: Sequence[tuple[str, str, float]], unit: str) -> str:
    """Horizontal bars from zero, in the order given: (label, server, value)."""
    if not values:
        return ""
    top = max(value for *_, value in values)
    lines = []
    for index, (label, server, value) in enumerate(values):
        y = index * BAR_HEIGHT
        width = max(1.0, BARS_WIDTH * value / top) if top > 0 else 1.0
        lines.append(
            f'<text x="{LABEL_WIDTH - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="{_class(server)}" x="{LABEL_WIDTH}" y="{y + 3}" width="{width:.1f}" height="13"/>'
            f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{y + 14}">{number(value, unit)}</text>'
        )
    size = f"{LABEL_WIDTH + BARS_WIDTH + 60} {len(values) * BAR_HEIGHT + 4}"
    head = (
        f"<figure><figcaption>{escape(title)} <small>{'' if unit == 'share' else unit}</small></figcaption>"
    )
    return f'{head}<svg viewBox="0 0 {size}" width="{size.split()[0]}" role="img">{"".join(lines)}</svg></figure>'


def curves(title: str, series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> str:
    """Latency over rate, logarithmic in latency: (label, server, points)."""
    points = [point for *_, line in series for point in line]
    if not points:
        return ""
    right = max(x for x, _ in points) * 1.05
    bottom, top = min(y for _, y in points) / 1.3, max(y for _, y in points) * 1.3

    def place(x: float, y: float) -> tuple[float, float]:
        across = MARGIN + (PLOT_WIDTH - MARGIN) * x / right
        return across, PLOT_HEIGHT * (1 - math.log(y / bottom) / math.log(top / bottom))

    drawn = [_grid(bottom, top, right, place)]
    ends: list[float] = []
    for label, server, line in sorted(series, key=lambda one: one[1] in MARKED):
        if not line:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        x, y = place(*line[-1])
        while any(abs(y - other) < 12 for other in ends):
            y += 4
        ends.append(y)
        dots = "".join(f'<circle r="3" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}"/>' for p in path.split())
        drawn.append(
            f'<g class="{_class(server)}"><polyline points="{path}"/>{dots}</g>'
            f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{escape(label)}</text>'
        )
    size = f"0 -10 {PLOT_WIDTH + 200} {PLOT_HEIGHT + 50}"
    return (
        f'<figure class="curves"><figcaption>{escape(title)} <small>logarithmic</small></figcaption>'
        f'<svg viewBox="{size}" width="{PLOT_WIDTH + 200}" role="img">{"".join(drawn)}</svg></figure>'
    )


def _grid(bottom: float, top: float, right: float, place: Any) -> str:
    """Lines at 1, 2 and 5 of each decade; five marks along the rate."""
    lines = []
    decades = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
    for value in (digit * 10.0**decade for decade in decades for digit in (1, 2, 5)):
        if bottom <= value <= top:
            _, y = place(0, value)
            lines.append(
                f'<line class="axis" x1="{MARGIN}" x2="{PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="soft" x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g} ms</text>'
            )
    for fifth in range(1, 6):
        x, _ = place(right * fifth / 5, bottom)
        lines.append(
            f'<text class="soft" x="{x:.1f}" y="{PLOT_HEIGHT + 18}" text-anchor="middle">{right * fifth / 5:,.0f}/s</text>'
        )
    return "".join(lines)


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


def _values(document: Mapping[str, Any], model: str, key: str, higher: bool) -> list[tuple[str, str, float]]:
    found = [
        (row["label"], row["server"], figures.median(row["cells"], key))
        for row in document["rows"]
        if row["model"] == model
    ]
    known = [(label, server, value) for label, server, value in found if value is not None]
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
            lines.append((row["label"], row["server"], [(x, y) for x, y in points if y]))
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


def missed_table(found: Sequence[Missed]) -> str:
    """Every figure that is not met, of both halves, each with its reason."""
    if not found:
        return "<h2>Figures missed</h2><p>None.</p>"
    lines = "".join(
        f"<tr><td>{escape(one.where)}</td><td class=reason>{escape(one.name)}</td>"
        f"<td>{value(one.seen, one.unit)}</td><td>{_bound(one)}</td>"
        f"<td class=reason>{escape(one.reason)}</td></tr>"
        for one in found
    )
    head = "<tr><th></th><th>figure</th><th>seen</th><th>bound</th><th>reason</th></tr>"
    return f'<h2>Figures missed</h2><div class="wide"><table>{head}{lines}</table></div>'


def missed_text(found: Sequence[Missed]) -> str:
    """The same for the terminal."""
    lines = [
        f"   {one.where}: {one.name}: {value(one.seen, one.unit)}, {_bound(one)}: {one.reason}"
        for one in found
    ]
    return "\n".join([f"figures missed: {len(found) or 'none'}", *lines])


def _bound(one: Missed) -> str:
    return "–" if one.bound is None else f"{'≥' if one.at_least else '≤'} {value(one.bound, one.unit)}"


def value(value: float | None, unit: str) -> str:
    if value is None or unit == "share":
        return number(value, unit)
    shown = f"{value:.0f}" if float(value).is_integer() else number(value)
    return f"{shown} {unit}".strip()


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


def page(body: str) -> str:
    """A whole page around what it holds."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>make bench-serve</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>{body}</html>\n'
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
