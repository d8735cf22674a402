"""How good predictions were: each beside what came, as a chart with its diagonal and as one sentence."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Final, NamedTuple

from tauten.explain import chart
from tauten.explain.figures import figure

FRAME: Final = chart.Frame(width=400, height=330, left=64, right=16, top=24, bottom=44)
LEAST_MS: Final = 1e-3  # where a logarithmic scale begins; nothing here is measured finer


class Prediction(NamedTuple):
    """Of one figure, in ms, with its 90 % interval and what was measured; `hue` says of what kind it is."""

    name: str
    predicted: float
    low: float
    high: float
    measured: float
    hue: int = 0

    @property
    def covered(self) -> bool:
        return self.low <= self.measured <= self.high

    @property
    def error(self) -> float:
        """As a share of what was measured."""
        return abs(self.predicted - self.measured) / max(self.measured, LEAST_MS)


def sentence(told: Sequence[Prediction]) -> str:
    """The record in one sentence; how many there are is part of it."""
    if not told:
        return "nothing was predicted and then measured"
    covered = sum(each.covered for each in told)
    half = median(each.error for each in told)
    return (
        f"{len(told)} predictions were measured: half of them missed by less than {half * 100:.1f} %, "
        f"and {covered} ({covered / len(told) * 100:.0f} %) lay within their 90 % intervals"
    )


def section(told: Sequence[Prediction]) -> str:
    """The chart and the sentence as a part of a page; nothing where no prediction was measured yet."""
    if not told:
        return ""
    return f"<h2>How good predictions were</h2><p>{escape(sentence(told))}.</p>{svg(told)}"


def svg(told: Sequence[Prediction]) -> str:
    """Predicted over measured; a prediction that came true touches the diagonal with its interval."""
    if not told:
        return ""
    values = [value for each in told for value in (each.predicted, each.measured, each.low, each.high)]
    above = [value for value in values if value > 0.0]  # an interval may begin at 0, which no such scale has
    low = max(min(above, default=LEAST_MS), LEAST_MS) * 0.8
    high = max(*values, low) * 1.25
    x, y = (make(FRAME, low, high, log=True) for make in (chart.across, chart.upwards))
    parts = [chart.level(FRAME, y(value), figure(value)) for value in y.ticks()]
    parts += [chart.tick(FRAME, x(value), figure(value)) for value in x.ticks()]
    parts.append(f'<path class="ideal" d="M{x(low):.1f} {y(low):.1f}L{x(high):.1f} {y(high):.1f}"/>')
    parts += [_mark(each, x, y) for each in told]
    parts += [chart.title_y(FRAME, "predicted, ms"), chart.title_x(FRAME, "measured, ms")]
    return chart.picture(FRAME, f"Predicted over measured: {sentence(told)}", parts)


def _mark(each: Prediction, x: chart.Scale, y: chart.Scale) -> str:
    at = x(each.measured)
    hue = each.hue % chart.HUES
    kind = f"dot{hue}" if each.covered else f"dot{hue} hollow"
    predicted, low, high, measured = map(figure, (each.predicted, each.low, each.high, each.measured))
    about = f"{each.name}: {predicted} ({low} to {high}) ms predicted, {measured} measured"
    spread = f'<path class="spread line{hue}" d="M{at:.1f} {y(each.low):.1f}V{y(each.high):.1f}"/>'
    return spread + chart.dot(at, y(each.predicted), kind, about, 3.5)


STYLE: Final = ".tau .ideal{stroke:var(--dim);stroke-dasharray:4 4;fill:none}.tau .spread{stroke-width:1.5;opacity:.55}\n"
"""Used together with the styles of the waterfall and of charts."""
