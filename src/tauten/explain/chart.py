"""Charts as SVG: scales, axes, lines, dots and their names. No script; colours come from the classes in `STYLE`."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

from tauten.explain.figures import figure

HUES: Final = 4  # lines beyond take their colours again; names stand at their ends
NAME: Final = 120  # px that a name of 18 characters takes
WIDE: Final = 600  # a picture of more px keeps its size on a narrow screen, and is scrolled


SECONDS_MS: Final = 10_000  # from here on a time in ms takes longer to read than it lasts


def duration(ms: float) -> str:
    """Milliseconds, or seconds where that is shorter.

    >>> duration(742.4), duration(0.25), duration(795_761)
    ('742 ms', '0.25 ms', '796 s')
    """
    return f"{figure(ms)} ms" if abs(ms) < SECONDS_MS else f"{figure(ms / 1e3)} s"


class Frame(NamedTuple):
    """A picture and the edges around what is drawn, in px."""

    width: int = 980
    height: int = 320
    left: int = 70
    right: int = 130  # room for a name of 18 characters
    top: int = 10
    bottom: int = 34


class Scale(NamedTuple):
    """Values to px, from `low` at `start` to `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * share

    def ticks(self) -> list[float]:
        """Round values within, 1-2-5 a decade; evenly spaced where that would be fewer than three."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            values = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) >= 3:
                return inside
        step = _round_step((self.high - self.low) / 4)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))


def across(frame: Frame, low: float, high: float, *, log: bool = False) -> Scale:
    """From left to right."""
    return Scale(*_apart(low, high), frame.left, frame.width - frame.right, log)


def upwards(frame: Frame, low: float, high: float, *, log: bool = False) -> Scale:
    """From bottom to top."""
    return Scale(*_apart(low, high), frame.height - frame.bottom, frame.top, log)


def _apart(low: float, high: float) -> tuple[float, float]:
    """A scale of one value is given room on both sides."""
    return (low, high) if high > low else (low * 0.9, low * 1.1) if low else (0.0, 1.0)


class Line(NamedTuple):
    """Points of one line, (x, y) ascending in x; what never ended is not among them.

    `hollow`: not measured; `named`: its name stands at its end.
    """

    name: str
    kind: str
    points: list[tuple[float, float]]
    hue: int = 0
    hollow: bool = False
    named: bool = True


def lines(
    title: str,
    drawn: Sequence[Line],
    x: Scale,
    x_ticks: Sequence[tuple[float, str]],
    limits: dict[str, float],
    frame: Frame = Frame(),
    *,
    under: Sequence[str] = (),
) -> str:
    """Milliseconds over something else, on a logarithmic scale; a level for each limit. `under` is drawn first."""
    ys = [value for line in drawn for _, value in line.points if value > 0] + list(limits.values())
    y = upwards(frame, min(ys) * 0.8, max(ys) * 1.25, log=True)
    parts = [*under, *(level(frame, y(value), duration(value)) for value in y.ticks())]
    parts += [tick(frame, x(value), text) for value, text in x_ticks]
    parts += [limit(frame, y(value), f"{name} {duration(value)}") for name, value in limits.items()]
    parts += [_line(line, x, y) for line in drawn]
    ends = [
        (y(line.points[-1][1]), x(line.points[-1][0]), line.name)
        for line in drawn
        if line.points and line.named
    ]
    return picture(frame, title, [*parts, *_names(ends)])


def picture(frame: Frame, title: str, parts: Iterable[str]) -> str:
    """The whole picture; its title is what a screen reader says of it."""
    kind = "tau-chart roomy" if frame.width > WIDE else "tau-chart"
    label = escape(title, quote=True)
    start = f'<svg class="{kind}" viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{label}">'
    return "".join([start, *parts, "</svg>"])


def level(frame: Frame, y: float, text: str) -> str:
    """A value of the upright axis, with its line."""
    return (
        f'<path class="grid" d="M{frame.left} {y:.1f}H{frame.width - frame.right}"/>'
        f'<text class="tick" x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def tick(frame: Frame, x: float, text: str) -> str:
    """A value of the lower axis, with its line."""
    bottom = frame.height - frame.bottom
    return (
        f'<path class="grid" d="M{x:.1f} {frame.top}V{bottom}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(text)}</text>'
    )


def limit(frame: Frame, y: float, text: str) -> str:
    """A level that should not be exceeded."""
    return (
        f'<path class="slo" d="M{frame.left} {y:.1f}H{frame.width - frame.right}"/>'
        f'<text class="tick limit" x="{frame.left + 6}" y="{y - 4:.1f}">{escape(text)}</text>'
    )


def title_y(frame: Frame, text: str) -> str:
    """What the upright axis shows, above it."""
    return f'<text class="tick axis" x="{frame.left - 6}" y="{frame.top - 10}" text-anchor="start">{escape(text)}</text>'


def title_x(frame: Frame, text: str) -> str:
    """What the lower axis shows, at its right end."""
    x, y = frame.width - frame.right, frame.height - frame.bottom + 34
    return f'<text class="tick axis" x="{x}" y="{y}" text-anchor="end">{escape(text)}</text>'


def dot(x: float, y: float, kind: str, about: str, radius: float = 3) -> str:
    """A point, which says what it is to whoever rests on it."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"><title>{escape(about)}</title></circle>'


def _line(line: Line, x: Scale, y: Scale) -> str:
    places = [(x(one), y(other)) for one, other in line.points]
    if not places:
        return ""
    hue = line.hue % HUES
    path = "L".join(f"{one:.1f} {other:.1f}" for one, other in places)
    kind = f"dot{hue} hollow" if line.hollow else f"dot{hue}"
    dots = [
        dot(*place, kind, f"{line.name}: {duration(value)}")
        for place, (_, value) in zip(places, line.points, strict=True)
    ]
    return f'<path class="line{hue} {line.kind}" d="M{path}"/>{"".join(dots)}'


def _names(ends: Sequence[tuple[float, float, str]]) -> list[str]:
    """Names at the ends of the lines, moved down where they would lie on one another."""
    shown: list[str] = []
    placed: list[tuple[float, float]] = []
    for y, x, name in sorted(ends):
        beside = [lower for other, lower in placed if abs(other - x) < NAME]
        at = max([y - 4, *(lower + 12 for lower in beside)])  # a line of text at 11 px
        placed.append((x, at))
        shown.append(f'<text class="tick" x="{x + 6:.1f}" y="{at + 8:.1f}">{escape(name)}</text>')
    return shown


STYLE: Final = """
.tau .tau-chart{width:100%;height:auto;display:block;margin:8px 0}.tau .limit{fill:var(--bad)}
.tau .line0,.tau .line1,.tau .line2,.tau .line3{fill:none;stroke-width:2}
.tau .line0{stroke:var(--model)}.tau .line1{stroke:var(--contention)}.tau .line2{stroke:var(--preparation)}.tau .line3{stroke:var(--io)}
.tau .dot0{fill:var(--model);stroke:var(--model)}.tau .dot1{fill:var(--contention);stroke:var(--contention)}
.tau .dot2{fill:var(--preparation);stroke:var(--preparation)}.tau .dot3{fill:var(--io);stroke:var(--io)}
.tau .hollow{fill:var(--paper);stroke-width:1.5}
.tau .q50{stroke-dasharray:2 3}.tau .q99{stroke-dasharray:7 3}.tau .slo{stroke:var(--bad);stroke-width:1;fill:none}
.tau .tau-chart:not(.roomy){max-width:560px}
@media(max-width:700px){.tau .roomy{min-width:720px}}
"""
"""Used together with the style of the waterfall, which defines the colours."""
