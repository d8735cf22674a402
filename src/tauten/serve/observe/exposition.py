"""Prometheus' text formats, the plain one and OpenMetrics: whole series by one formatting, some microseconds each."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tauten.serve.observe.histogram import Histogram

Labels = tuple[str, ...]

AT_A_TIME = 32  # histograms between two looks at the loop: about half a millisecond
KNOWN = 2048  # histograms whose lines are remembered, 3 KB each; servers have some hundred
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Exposition:
    """Families as text; every method gives pieces, between which others may have their turn."""

    def __init__(self, *, openmetrics: bool) -> None:
        self.openmetrics = openmetrics

    def counter(
        self, name: str, text: str, labels: Labels, series: Iterable[tuple[Labels, float]]
    ) -> Iterator[str]:
        total = f"{name}_total"
        yield self._head(name if self.openmetrics else total, "counter", text)
        yield _samples(total, labels, series)

    def gauge(
        self, name: str, text: str, labels: Labels, series: Iterable[tuple[Labels, float]]
    ) -> Iterator[str]:
        yield self._head(name, "gauge", text)
        yield _samples(name, labels, series)

    def info(self, name: str, text: str, facts: dict[str, str]) -> Iterator[str]:
        shown = f"{name}_info"
        yield self._head(*((name, "info") if self.openmetrics else (shown, "gauge")), text)
        yield _samples(shown, tuple(facts), [(tuple(facts.values()), 1)])

    def histogram(
        self,
        name: str,
        text: str,
        labels: Labels,
        bounds: tuple[float, ...],
        series: Iterable[tuple[Labels, Histogram]],
    ) -> Iterator[str]:
        yield self._head(name, "histogram", text)
        rows = iter(series)
        while some := list(islice(rows, AT_A_TIME)):
            yield "".join(_histogram(_form(name, bounds, labels, at), histogram) for at, histogram in some)

    def _head(self, name: str, kind: str, text: str) -> str:
        return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


@functools.lru_cache(maxsize=KNOWN)
def _form(name: str, bounds: tuple[float, ...], labels: Labels, values: Labels) -> str:
    """The lines of a histogram with gaps for its numbers: they differ from one scrape to the next, nothing else."""
    named = _named(labels, values).replace("%", "%%")
    before = f"{named}," if named else ""
    limits = [*map(str, bounds), "+Inf"]
    buckets = "".join(f'{name}_bucket{{{before}le="{limit}"}} %d\n' for limit in limits)
    return f"{buckets}{name}_count{_braced(named)} %d\n{name}_sum{_braced(named)} %s\n"


def _histogram(form: str, histogram: Histogram) -> str:
    running = histogram.cumulated()
    return form % (*running, running[-1], number(histogram.total))


def _samples(name: str, labels: Labels, series: Iterable[tuple[Labels, float]]) -> str:
    return "".join(f"{name}{_braced(_named(labels, values))} {number(value)}\n" for values, value in series)


def _named(labels: Labels, values: Labels) -> str:
    pairs = zip(labels, values, strict=True)
    return ",".join([f'{label}="{value.translate(_ESCAPED)}"' for label, value in pairs])


def _braced(named: str) -> str:
    return f"{{{named}}}" if named else ""


def number(value: float) -> str:
    """A value as both formats spell it."""
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
