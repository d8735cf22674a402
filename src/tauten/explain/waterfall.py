"""The waterfall: one bar a stage over the time of the request, as characters or as SVG."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from tauten.explain.account import Account, Span
from tauten.explain.figures import figure
from tauten.run.trace import SOURCES
from tauten.run.visits import UNATTRIBUTED, rank

WORKING, WAITING, HIDDEN, NOBODY = "█", "░", "·", "?"

LABEL_PX: Final = 168  # a name of 24 characters at 12 px
PLOT_PX: Final = 760
ROW_PX: Final = 22
MOST_BARS: Final = 420  # 130 bytes each: a chart stays under 60 kB

_TEXTURES: Final[dict[str, str]] = {
    "compute": "",
    "prefill": "M0 0V6",
    "tokens": "M0 3H6",
    "decode": "",
    "user": "M0 6L6 0",
    "transfer": "",
    "remote": "M0 3H6",
    "limit": "M0 0L6 6",
    "admission": "M0 6L6 0M0 0L6 6",
    "queue": "M0 6L6 0",
    "batch_wait": "M0 0L6 6",
    "loop": "M0 0V6",
    "route": "",
    "assemble": "M0 3H6",
    "lookup": "",
    "embed": "M0 6L6 0",
    "load": "M0 3H6",
    "turn": "M0 6L6 0",
    "client": "M0 0L6 6",
    "slowed": "M0 3H6",
    UNATTRIBUTED: "M0 6L6 0",
}
"""A line drawn over the hue of the source, so that causes differ without colour."""


class Bar(NamedTuple):
    """One run of equal columns: [first, last)."""

    first: int
    last: int
    cause: str
    on_path: bool


def columns(spans: Sequence[Span], wall_ms: float, count: int) -> list[tuple[str, bool] | None]:
    """What each of `count` columns shows: whoever has most of it, if the row has at least half of it.

    A row with any time shows at least the column in which it has most.
    """
    shares: list[dict[tuple[str, bool], float]] = [{} for _ in range(count)]
    width = wall_ms / count if wall_ms > 0 else 1.0
    for span in spans:
        first = min(count - 1, int(span.start_ms / width))
        for column in range(first, count):
            low, high = column * width, (column + 1) * width
            part = min(span.end_ms, high) - max(span.start_ms, low)
            if part > 0:
                key = (span.cause, span.on_path)
                shares[column][key] = shares[column].get(key, 0.0) + part
            if high >= span.end_ms:
                break
    full = [sum(share.values()) for share in shares]
    fullest = max(range(count), key=full.__getitem__) if count else 0
    return [
        max(share, key=share.__getitem__) if share and (full[i] >= width / 2 or i == fullest) else None
        for i, share in enumerate(shares)
    ]


def text_bar(spans: Sequence[Span], wall_ms: float, width: int) -> str:
    """One bar as characters: █ working, ░ waiting, · hidden, ? nobody's."""
    return "".join(_mark(cell) for cell in columns(spans, wall_ms, width)).rstrip()


def _mark(cell: tuple[str, bool] | None) -> str:
    if cell is None:
        return " "
    cause, on_path = cell
    if not on_path:
        return HIDDEN
    return (WORKING, WAITING, NOBODY)[rank(cause)]


def bars(spans: Sequence[Span], wall_ms: float, count: int) -> list[Bar]:
    """Runs of equal columns."""
    runs: list[Bar] = []
    cells = enumerate(columns(spans, wall_ms, count))
    for cell, group in groupby(cells, key=lambda item: item[1]):
        places = [place for place, _ in group]
        if cell is not None:
            runs.append(Bar(places[0], places[-1] + 1, *cell))
    return runs


def patterns() -> str:
    """The SVG that defines one texture a cause; once a page. The hue comes from the classes in `STYLE`."""
    return (
        f'<svg width="0" height="0" aria-hidden="true"><defs>{"".join(map(_pattern, _TEXTURES))}</defs></svg>'
    )


def _pattern(cause: str) -> str:
    line = f'<path class="ink" d="{_TEXTURES[cause]}"/>' if _TEXTURES[cause] else ""
    return (
        f'<pattern id="tau-{cause}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect class="hue-{SOURCES[cause]}" width="6" height="6"/>{line}</pattern>'
    )


def swatch(cause: str) -> str:
    """A small sample of a cause's texture, for tables and legends."""
    return f'<svg class="swatch" width="14" height="10" aria-hidden="true"><rect width="14" height="10" fill="url(#{_fill(cause)})"/></svg>'


def _fill(cause: str) -> str:
    return f"tau-{cause if cause in _TEXTURES else UNATTRIBUTED}"


def svg(
    account: Account,
    *,
    scale_ms: float = 0.0,
    title: str = "",
    most_bars: int = MOST_BARS,
    count: int = PLOT_PX,
) -> str:
    """The waterfall of one account; `scale_ms` makes two of them comparable.

    A chart of more than `most_bars` is drawn in coarser columns, `count` of them.
    """
    scale = max(scale_ms, account.wall_ms)
    lanes = [(row.title, row.spans) for row in account.stages]
    if account.unattributed_spans:
        lanes.append((UNATTRIBUTED, account.unattributed_spans))
    drawn = [(name, bars(spans, scale, count)) for name, spans in lanes]
    if sum(len(runs) for _, runs in drawn) > most_bars and count > 12:
        return svg(account, scale_ms=scale_ms, title=title, most_bars=most_bars, count=count // 2)
    height = ROW_PX * len(lanes) + 26
    unit = PLOT_PX / count
    label = html.escape(title or f"Waterfall of {account.wall_ms:.1f} ms", quote=True)
    parts = [
        f'<svg class="tau-fall" viewBox="0 0 {LABEL_PX + PLOT_PX + 10} {height}" role="img" aria-label="{label}">',
        _axis(scale, height),
    ]
    for place, (name, runs) in enumerate(drawn):
        parts.append(_lane(name, runs, 24 + place * ROW_PX, unit, scale / count))
    parts.append(_path(drawn, unit))
    parts.append("</svg>")
    return "".join(parts)


def _axis(scale: float, height: int) -> str:
    ticks = []
    for quarter in range(5):
        x = LABEL_PX + PLOT_PX * quarter / 4
        anchor = "start" if quarter == 0 else "end" if quarter == 4 else "middle"
        ticks.append(f'<path class="grid" d="M{x:.0f} 18V{height}"/>')
        ticks.append(
            f'<text class="tick" x="{x:.0f}" y="13" text-anchor="{anchor}">{figure(scale * quarter / 4)} ms</text>'
        )
    return "".join(ticks)


def _lane(name: str, runs: Iterable[Bar], y: int, unit: float, column_ms: float) -> str:
    shown = name if len(name) <= 24 else f"{name[:23]}…"
    parts = [
        f'<text class="lane" x="{LABEL_PX - 8}" y="{y + 13}" text-anchor="end">{html.escape(shown)}</text>'
    ]
    for run in runs:
        x, width = LABEL_PX + run.first * unit, (run.last - run.first) * unit
        beside = "" if run.on_path else " off"
        about = f"{name}: {run.cause}, about {figure((run.last - run.first) * column_ms)} ms"
        about += "" if run.on_path else ", hidden behind the path"
        parts.append(
            f'<rect class="bar{beside}" x="{x:g}" y="{y if run.on_path else y + 4}" width="{width:g}" '
            f'height="{17 if run.on_path else 9}" fill="url(#{_fill(run.cause)})"><title>{html.escape(about)}</title></rect>'
        )
    return "".join(parts)


def _path(drawn: Sequence[tuple[str, Sequence[Bar]]], unit: float) -> str:
    """The critical path: a line under the bars that own time, stepping from stage to stage."""
    owned = [
        (run.first, run.last, place) for place, (_, runs) in enumerate(drawn) for run in runs if run.on_path
    ]
    points: list[str] = []
    for first, last, place in sorted(owned):
        y = 24 + place * ROW_PX + 18.5
        points += [f"{LABEL_PX + first * unit:g} {y:g}", f"{LABEL_PX + last * unit:g} {y:g}"]
    return f'<path class="path" d="M{"L".join(points)}"/>' if points else ""


STYLE: Final = """
.tau{--ink:#1b1f24;--dim:#5b6570;--line:#d5dae0;--paper:#fff;--path:#b3261e;--bad:#b3261e;--good:#1a6b3c;
--model:#3b6fd4;--preparation:#2c9a8a;--contention:#e0902f;--io:#8b62c9;--network:#3aa0c8;--outside:#9aa3ad;--unattributed:#f2c9c6;
color:var(--ink);background:var(--paper);font:14px/1.45 system-ui,sans-serif;max-width:1040px;padding:8px 12px}
@media(prefers-color-scheme:dark){.tau{--ink:#e8eaed;--dim:#a3adb8;--line:#3a424c;--paper:#14181d;--path:#ff8a80;--bad:#ff8a80;--good:#7fd8a0;
--model:#6f9bf0;--preparation:#4cc0ad;--contention:#f0ab55;--io:#b08fe8;--network:#62c1e5;--outside:#78828d;--unattributed:#6b3431}}
.tau .hue-model{fill:var(--model)}.tau .hue-preparation{fill:var(--preparation)}.tau .hue-contention{fill:var(--contention)}
.tau .hue-io{fill:var(--io)}.tau .hue-network{fill:var(--network)}.tau .hue-outside{fill:var(--outside)}
.tau .hue-unattributed{fill:var(--unattributed)}.tau .ink{stroke:var(--paper);stroke-width:1.5;fill:none;opacity:.8}
.tau #tau-unattributed .ink{stroke:var(--bad);opacity:1}
.tau svg{vertical-align:middle}.tau .tau-fall{width:100%;height:auto;display:block;margin:8px 0}
.tau .lane,.tau .tick{fill:var(--ink);font:12px system-ui,sans-serif}.tau .tick{fill:var(--dim);font-size:11px}
.tau .grid{stroke:var(--line);stroke-width:1;fill:none}.tau .bar.off{opacity:.45}
.tau .path{stroke:var(--path);stroke-width:1.5;fill:none}.tau .swatch{margin-right:3px}
.tau table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums}
.tau th,.tau td{padding:2px 10px 2px 0;text-align:left;vertical-align:top;font-weight:400;border:0;background:none;color:inherit}
.tau th{color:var(--dim);border-bottom:1px solid var(--line)}.tau .n{text-align:right}
.tau tr.total td{border-top:1px solid var(--line);font-weight:600}
.tau .dim{color:var(--dim)}.tau .bad{color:var(--bad);font-weight:600}.tau .good{color:var(--good)}
.tau h1{font-size:18px;margin:6px 0}.tau h2{font-size:15px;margin:18px 0 4px}.tau .cause{white-space:nowrap;margin-right:10px}
.tau .wide{overflow-x:auto}
@media(max-width:700px){.tau .tau-fall{min-width:720px}}
"""
"""Everything is scoped to `.tau`, so that a notebook keeps its own looks."""
