"""The parts of a page: figures as a person reads them, bars and curves as SVG, nothing fetched from anywhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from bench.ground.check import Line

BAR_HEIGHT, LABEL_WIDTH, BARS_WIDTH = 20, 210, 260
PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 620, 300, 54
LETTER_WIDTH = 6.5  # of a label, about
COLOURS = ("ours", "best")  # the rows that a page is about; all others are grey
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


def value(value: float | None, unit: str) -> str:
    """A figure with its unit; whole numbers are shown whole."""
    if value is None or unit == "share":
        return number(value, unit)
    shown = f"{value:.0f}" if float(value).is_integer() else number(value)
    return f"{shown} {unit}".strip()


def _colour(name: str) -> str:
    return name if name in COLOURS else "grey"


def _width(labels: Iterable[str], least: float) -> float:
    """Room for the longest of some labels."""
    return max([least, *(LETTER_WIDTH * len(label) + 8 for label in labels)])


def bars(title: str, values: Sequence[tuple[str, str, float]], unit: str) -> str:
    """Horizontal bars from zero, in the order given: (label, colour, value)."""
    if not values:
        return ""
    top = max(value for *_, value in values)
    left = _width((label for label, *_ in values), LABEL_WIDTH)
    lines = []
    for index, (label, colour, value) in enumerate(values):
        y = index * BAR_HEIGHT
        width = max(1.0, BARS_WIDTH * value / top) if top > 0 else 1.0
        lines.append(
            f'<text x="{left - 8:g}" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="{_colour(colour)}" x="{left:g}" y="{y + 3}" width="{width:.1f}" height="13"/>'
            f'<text x="{left + width + 6:.1f}" y="{y + 14}">{number(value, unit)}</text>'
        )
    size = f"{left + BARS_WIDTH + 60:g} {len(values) * BAR_HEIGHT + 4}"
    head = (
        f"<figure><figcaption>{escape(title)} <small>{'' if unit == 'share' else unit}</small></figcaption>"
    )
    return f'{head}<svg viewBox="0 0 {size}" width="{size.split()[0]}" role="img">{"".join(lines)}</svg></figure>'


def curves(title: str, lines: Sequence[tuple[str, str, Line]]) -> str:
    """Lines of one plot with the units of the first: (label, colour, line)."""
    drawn = [one for one in lines if one[2].points]
    if not drawn:
        return ""
    scale = _scale([one[2] for one in drawn])
    parts, ends = [scale.grid()], list[float]()
    for label, colour, line in sorted(drawn, key=lambda one: one[1] in COLOURS):
        places = [scale.place(*point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = "".join(f'<circle r="3" cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in places)
        x, y = places[-1]
        while any(abs(y - other) < 12 for other in ends):
            y += 4
        ends.append(y)
        parts.append(
            f'<g class="{_colour(colour)}"><polyline points="{path}"/>{dots}</g>'
            f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{escape(label)}</text>'
        )
    whole = PLOT_WIDTH + _width((label for label, *_ in drawn), 200)
    size = f"0 -10 {whole:g} {PLOT_HEIGHT + 50}"
    said = "logarithmic" if scale.logarithmic else ""
    return (
        f'<figure class="curves"><figcaption>{escape(title)} <small>{said}</small></figcaption>'
        f'<svg viewBox="{size}" width="{whole:g}" role="img">{"".join(parts)}</svg></figure>'
    )


@dataclass(frozen=True)
class Scale:
    """Where a point lies in a plot: across from zero; up logarithmic, or from zero."""

    right: float
    bottom: float
    top: float
    logarithmic: bool
    across: str
    up: str

    def place(self, x: float, y: float) -> tuple[float, float]:
        if self.logarithmic:
            share = math.log(y / self.bottom) / math.log(self.top / self.bottom)
        else:
            share = (y - self.bottom) / (self.top - self.bottom)
        return MARGIN + (PLOT_WIDTH - MARGIN) * x / self.right, PLOT_HEIGHT * (1 - share)

    def grid(self) -> str:
        """Lines at the marks, each with its value; five marks along the foot."""
        lines = []
        for mark in self._marks():
            _, y = self.place(0, mark)
            lines.append(
                f'<line class="axis" x1="{MARGIN}" x2="{PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="soft" x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{_mark(mark, self.up)}</text>'
            )
        for fifth in range(1, 6):
            x, _ = self.place(self.right * fifth / 5, self.top)
            lines.append(
                f'<text class="soft" x="{x:.1f}" y="{PLOT_HEIGHT + 18}" text-anchor="middle">'
                f"{_mark(self.right * fifth / 5, self.across)}</text>"
            )
        return "".join(lines)

    def _marks(self) -> list[float]:
        """1, 2 and 5 of each decade, or fifths."""
        if not self.logarithmic:
            return [self.bottom + (self.top - self.bottom) * fifth / 5 for fifth in range(6)]
        decades = range(math.floor(math.log10(self.bottom)), math.ceil(math.log10(self.top)) + 1)
        marks = (digit * 10.0**decade for decade in decades for digit in (1, 2, 5))
        return [mark for mark in marks if self.bottom <= mark <= self.top]


def _scale(lines: Sequence[Line]) -> Scale:
    """Logarithmic where that can be; shares are not drawn so."""
    points = [point for line in lines for point in line.points]
    right = max(x for x, _ in points) * 1.05 or 1.0
    low, high = min(y for _, y in points), max(y for _, y in points)
    across, up = lines[0].across, lines[0].up
    if low > 0 and up != "share":
        return Scale(right, low / 1.3, high * 1.3, True, across, up)
    return Scale(right, min(0.0, low), high * 1.1 if high > 0 else 1.0, False, across, up)


def _mark(mark: float, unit: str) -> str:
    if unit == "share":
        return f"{mark:.0%}"
    if unit.startswith("/"):
        return f"{mark:,.0f}{unit}"
    return (f"{mark:,.0f} {unit}" if mark >= 1000 else f"{mark:.3g} {unit}").strip()


def page(title: str, body: str) -> str:
    """A whole page around what it holds."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>{body}</html>\n'
    )
