"""The account of one request: the trace walked once, as plain data that text, HTML and JSON print.

Nothing downstream of this file computes a time. Milliseconds throughout.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from tauten.run.attribution import Attribution, Segment, attribute, attribute_first_output, totals
from tauten.run.trace import SOURCES, Trace
from tauten.run.visits import UNATTRIBUTED, base_name, rank

SOURCE_NAMES: Final = ("model", "preparation", "contention", "io", "network", "outside", "unattributed")
ENGINE: Final = "(engine)"
"""The row of what the engine itself did: admission, model load, lag that no step owns."""

FAR_OFF: Final = 2.0  # an estimate off by more than this factor is marked: below it, noise explains it
TOO_SHORT_MS: Final = 1.0  # ... unless both are under a millisecond, where a timer explains it


class Estimate(msgspec.Struct, frozen=True):
    """What a step was expected to work in one request, in ms, with an interval; all members of a map together."""

    mid_ms: float
    low_ms: float | None = None
    high_ms: float | None = None


class Span(msgspec.Struct, frozen=True):
    """One bar of the waterfall; `on_path` false is work hidden behind the path."""

    start_ms: float
    end_ms: float
    cause: str
    on_path: bool = True


class StageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step (or all members of one map).

    `causes` are exclusive ms on the critical path, the largest first, without what is unattributed;
    they add up to `exclusive_ms`. `work_ms` is all its work, shown or hidden: what an estimate means.
    """

    stage: str
    members: int = 1
    source: str
    causes: dict[str, float]
    exclusive_ms: float
    unattributed_ms: float = 0.0
    off_path: dict[str, float] = {}
    off_path_ms: float = 0.0
    work_ms: float = 0.0
    slack_ms: float = 0.0
    free_slack_ms: float = 0.0
    first_output_ms: float = 0.0
    estimate: Estimate | None = None
    spent: dict[str, float] = {}
    start_ms: float = 0.0
    end_ms: float = 0.0
    spans: list[Span] = []

    @property
    def title(self) -> str:
        return f"{self.stage} x{self.members}" if self.members > 1 else self.stage

    @property
    def far_off(self) -> bool:
        """Whether the estimate misses the work by more than `FAR_OFF` either way."""
        if self.estimate is None:
            return False
        low, high = sorted((self.estimate.mid_ms, self.work_ms))
        return high >= TOO_SHORT_MS and high > FAR_OFF * low


class SloLine(msgspec.Struct, frozen=True):
    """One line of the SLO table, already in words; `met` None where nothing was asked or shown."""

    name: str
    limit: str
    p50: str
    p95: str
    verdict: str = ""
    met: bool | None = None


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Which request of what run this is; every part may be absent."""

    workflow: str = ""
    plan: str = ""
    machine: str = ""
    requests: int = 0
    load: str = ""  # how they came, for example "open loop 1.0/s"
    request: str = ""  # which one, for example "the median (#37)"
    graph: str = ""  # for example "graph observed in 240 requests"
    slo: list[SloLine] = []


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Where one request's time, tokens and money went. The stages' exclusive ms plus `unattributed_ms` are
    `wall_ms`; so are the `sources`."""

    header: Header
    wall_ms: float
    first_output_ms: float | None
    unattributed_ms: float
    stages: list[StageRow]
    sources: dict[str, float]
    first_output_sources: dict[str, float] = {}
    unattributed_in: dict[str, float] = {}
    unattributed_spans: list[Span] = []
    path: list[str] = []
    edges: dict[str, list[str]] = {}
    spent: dict[str, float] = {}
    notes: dict[str, str] = {}

    def rows(self) -> list[dict[str, str | float | None]]:
        """One flat row per stage and cause; `exclusive_ms` and `unattributed_ms` add up to `wall_ms`.

        The estimate stands on the row of the stage's largest working cause.
        """
        return [row for stage in self.stages for row in _flat(stage)]


class ComparisonRow(msgspec.Struct, frozen=True):
    """One stage under two plans; None where a plan has no such stage. Hidden: work beside the path."""

    stage: str
    a_ms: float | None
    b_ms: float | None
    a_hidden_ms: float = 0.0
    b_hidden_ms: float = 0.0

    @property
    def diff_ms(self) -> float:
        return (self.b_ms or 0.0) - (self.a_ms or 0.0)


class Ablation(msgspec.Struct, frozen=True):
    """What one difference between two plans contributes; negative ms are a gain."""

    change: str
    p50_ms: float
    p95_ms: float | None = None
    note: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two accounts side by side; rows by size of the difference, `unattributed` among them."""

    a: Account
    b: Account
    name_a: str
    name_b: str
    rows: list[ComparisonRow]
    ablation: list[Ablation] = []


def account(
    trace: Trace,
    *,
    estimates: Mapping[str, Estimate] | None = None,
    header: Header | None = None,
    plan_name: str = "",
) -> Account:
    """Walk a finished trace once. `estimates` are by step; a map's name stands for all of its members together."""
    found = attribute(trace)
    first = attribute_first_output(trace)
    header = header or Header()
    if plan_name:
        header = msgspec.structs.replace(header, plan=plan_name)
    names = _names(trace, found)
    seen = _Seen(trace, found, first)
    stages = [seen.row(name, steps, estimates or {}) for name, steps in names.items()]
    return Account(
        header=header,
        wall_ms=found.wall * 1e3,
        first_output_ms=None if trace.first_output is None else (trace.first_output - trace.start) * 1e3,
        unattributed_ms=found.unattributed * 1e3,
        stages=sorted(stages, key=lambda row: (row.start_ms, row.end_ms, row.stage)),
        sources=_sources(found.segments),
        first_output_sources=_sources(first) if first else {},
        unattributed_in=seen.unattributed(),
        unattributed_spans=seen.spans([s for s in found.segments if s.cause == UNATTRIBUTED]),
        path=list(dict.fromkeys(_fold(step) for step in found.path)),
        edges=_folded_edges(trace),
        spent=_add((unit, amount) for _, unit, amount in trace.spent),
        notes=dict(trace.notes),
    )


def compare(
    a: Account, b: Account, *, name_a: str = "", name_b: str = "", ablation: Sequence[Ablation] = ()
) -> Comparison:
    """Put two accounts side by side, the largest difference first."""
    left = {stage.stage: stage.exclusive_ms for stage in a.stages}
    right = {stage.stage: stage.exclusive_ms for stage in b.stages}
    left[UNATTRIBUTED], right[UNATTRIBUTED] = a.unattributed_ms, b.unattributed_ms
    beside = [{stage.stage: stage.off_path_ms for stage in side.stages} for side in (a, b)]
    rows = [
        ComparisonRow(name, left.get(name), right.get(name), *(side.get(name, 0.0) for side in beside))
        for name in {**left, **right}
    ]
    return Comparison(
        a=a,
        b=b,
        name_a=name_a or a.header.plan or "A",
        name_b=name_b or b.header.plan or "B",
        rows=sorted(rows, key=lambda row: (-abs(row.diff_ms), row.stage)),
        ablation=list(ablation),
    )


class _Seen:
    """The attribution by step, in milliseconds from the start of the request."""

    def __init__(self, trace: Trace, found: Attribution, first: list[Segment]) -> None:
        self.found = found
        self.origin = found.start
        self.segments: dict[str, list[Segment]] = defaultdict(list)
        for segment in found.segments:
            self.segments[segment.step].append(segment)
        self.first = _add(
            (_fold(step), s * 1e3) for (step, cause), s in totals(first).items() if cause != UNATTRIBUTED
        )
        self.hidden: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for (step, cause), seconds in found.off_path.items():
            self.hidden[_fold(step)].append((cause, seconds * 1e3))
        self.stays: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.worked: dict[str, list[Segment]] = defaultdict(list)
        for stay in found.stays:
            self.stays[stay.step].append((stay.start, stay.end))
            self.worked[stay.step].extend(piece for piece in stay.pieces if rank(piece.cause) == 0)
        self.spent: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for step, unit, amount in trace.spent:
            self.spent[step].append((unit, amount))

    def row(self, name: str, steps: list[str], estimates: Mapping[str, Estimate]) -> StageRow:
        owned = [s for step in steps for s in self.segments.get(step, ()) if s.cause != UNATTRIBUTED]
        causes = _by_size(_add((s.cause, (s.end - s.start) * 1e3) for s in owned))
        hidden = _add(self.hidden.get(name, ()))
        work = math.fsum([*(ms for c, ms in causes.items() if rank(c) == 0), *hidden.values()])
        slack = [(self.found.slack[s], self.found.free_slack[s]) for s in steps if s in self.found.slack]
        extents = [e for step in steps for e in self.stays.get(step, ())] or [(s.start, s.end) for s in owned]
        return StageRow(
            stage=name or ENGINE,
            members=len(steps),
            source=_main_source(causes, hidden),
            causes=causes,
            exclusive_ms=math.fsum(causes.values()),
            unattributed_ms=math.fsum(self._unclaimed(step) for step in steps),
            off_path=_by_size(hidden),
            off_path_ms=math.fsum(hidden.values()),
            work_ms=work,
            slack_ms=min((total for total, _ in slack), default=0.0) * 1e3,
            free_slack_ms=min((free for _, free in slack), default=0.0) * 1e3,
            first_output_ms=self.first.get(name, 0.0),
            estimate=_estimate(name, steps, estimates),
            spent=_add(pair for step in steps for pair in self.spent.get(step, ())),
            start_ms=self._ms(min((s for s, _ in extents), default=self.origin)),
            end_ms=self._ms(max((e for _, e in extents), default=self.origin)),
            spans=self._bars(steps, owned),
        )

    def unattributed(self) -> dict[str, float]:
        """Unattributed ms by stage; under "" what lies between stages."""
        return _by_size(
            _add(
                (_fold(s.step), (s.end - s.start) * 1e3)
                for s in self.found.segments
                if s.cause == UNATTRIBUTED
            )
        )

    def spans(self, segments: list[Segment], on_path: bool = True) -> list[Span]:
        return [Span(self._ms(s.start), self._ms(s.end), s.cause, on_path) for s in segments]

    def _bars(self, steps: list[str], owned: list[Segment]) -> list[Span]:
        """What the stage owns, then its work that the path does not show."""
        hidden = [
            part for step in steps for part in _minus(self.worked.get(step, []), self.segments.get(step, []))
        ]
        bars = [*self.spans(owned), *self.spans(hidden, on_path=False)]
        return sorted(bars, key=lambda bar: (bar.start_ms, bar.end_ms))

    def _unclaimed(self, step: str) -> float:
        parts = (s.end - s.start for s in self.segments.get(step, ()) if s.cause == UNATTRIBUTED and step)
        return math.fsum(parts) * 1e3

    def _ms(self, instant: float) -> float:
        return (instant - self.origin) * 1e3


def _minus(work: list[Segment], shown: list[Segment]) -> list[Segment]:
    """The parts of `work` outside `shown`; `shown` is disjoint and in order."""
    rest: list[Segment] = []
    first = 0
    for start, end, step, cause in sorted(work):
        while first < len(shown) and shown[first].end <= start:
            first += 1
        at = start
        index = first
        while index < len(shown) and shown[index].start < end:
            if shown[index].start > at:
                rest.append(Segment(at, shown[index].start, step, cause))
            at = max(at, shown[index].end)
            index += 1
        if end > at:
            rest.append(Segment(at, end, step, cause))
    return rest


def _names(trace: Trace, found: Attribution) -> dict[str, list[str]]:
    """Stage names and the steps they fold together, the engine's only where it owns time."""
    steps = [stay.step for stay in found.stays] + [s.step for s in found.segments if s.cause != UNATTRIBUTED]
    names: dict[str, list[str]] = defaultdict(list)
    for step in dict.fromkeys(steps):
        names[_fold(step)].append(step)
    return names


def _fold(step: str) -> str:
    return base_name(step)


def _folded_edges(trace: Trace) -> dict[str, list[str]]:
    folded: dict[str, dict[str, None]] = defaultdict(dict)
    for step, ups in trace.edges.items():
        folded[_fold(step)].update(dict.fromkeys(_fold(up) for up in ups))
    return {step: list(ups) for step, ups in folded.items()}


def _sources(segments: Sequence[Segment]) -> dict[str, float]:
    by_source = _add((SOURCES.get(s.cause, "outside"), (s.end - s.start) * 1e3) for s in segments)
    return {name: by_source.get(name, 0.0) for name in SOURCE_NAMES}


def _main_source(causes: Mapping[str, float], hidden: Mapping[str, float]) -> str:
    by_source = _add((SOURCES.get(c, "outside"), ms) for part in (causes, hidden) for c, ms in part.items())
    return max(by_source, key=lambda name: by_source[name], default=UNATTRIBUTED)


def _estimate(name: str, steps: list[str], estimates: Mapping[str, Estimate]) -> Estimate | None:
    if name in estimates:
        return estimates[name]
    known = [estimates[step] for step in steps if step in estimates]
    if not known or len(known) < len(steps):
        return None
    return Estimate(
        math.fsum(e.mid_ms for e in known),
        math.fsum(e.mid_ms if e.low_ms is None else e.low_ms for e in known),
        math.fsum(e.mid_ms if e.high_ms is None else e.high_ms for e in known),
    )


def _flat(stage: StageRow) -> list[dict[str, str | float | None]]:
    causes = {**stage.causes, **{c: 0.0 for c in stage.off_path if c not in stage.causes}}
    total = {c: ms + stage.off_path.get(c, 0.0) for c, ms in causes.items() if rank(c) == 0}
    largest = max(total, key=lambda c: total[c], default="")
    return [
        {
            "stage": stage.title,
            "cause": cause,
            "source": SOURCES.get(cause, "outside"),
            "exclusive_ms": ms,
            "off_path_ms": stage.off_path.get(cause, 0.0),
            "slack_ms": stage.slack_ms,
            "estimate_ms": stage.estimate.mid_ms if stage.estimate and cause == largest else None,
        }
        for cause, ms in causes.items()
    ]


def _add(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    parts: dict[str, list[float]] = defaultdict(list)
    for key, amount in pairs:
        parts[key].append(amount)
    return {key: math.fsum(amounts) for key, amounts in parts.items()}


def _by_size(table: dict[str, float]) -> dict[str, float]:
    return dict(sorted(table.items(), key=lambda item: (-item[1], item[0])))
