"""Who owned each instant of a request: the walk back along its critical path.

The rules, in the order in which they decide:

1. The walk starts at `trace.end` with the output step that ended last, and goes back in time.
2. Inside a visit an instant belongs to the working row that is innermost: the one that started last; of
   those, the one that ends first; of two equal intervals, the one recorded later. Only when no row works
   do the waiting rows (`WAITING`) come, by the same order, and `user` rows last: a coroutine of the user's is
   claimed from end to end, and what it awaits inside says more. A visit of ``a/b``, a step that the code of
   ``a`` called, is such: while it lasts, `user` of ``a`` claims nothing and the instant is decided in it.
3. A row that waits for a stream (`assemble`) never owns an instant in which the step that feeds it is
   inside its own visit: that instant is handed to the feeding step and decided there by rules 2 to 4, and
   handed on if that step waits for a stream itself, or has not begun and waits for its own inputs.
   With several feeding steps one that works comes first, then one that waits; then the one begun last.
4. What no row of the visit claims goes to the engine's own rows (those without a step), if one is open at the
   time, else it is `unattributed` under the step's name.
5. Where the visit begins, the walk goes on with the step that ended last at or before that instant, or that
   is still streaming at it, of those whose results it uses (`edges`) or after which the plan runs it (`order`).
   Skipped steps, and control steps, which have no visit, stand for those before them. Without edges (an
   observed workflow) any step may be upstream. Of equal ends the longer visit is taken.
6. If there is no such step, or more than `ORDER_GAP_S` between that end and the beginning is claimed by
   nobody, and another step of the request ended in between, the two ran in turn: the walk goes on with the
   one that ended last.
7. A gap between two visits belongs to the rows that lie in no visit (the engine's hand-over, a control step's
   decision, the code of an observed workflow), else it is `unattributed` under "".

The segments therefore tile the request: each instant has one owner, nothing is counted twice, and the sum is
the wall time. Work that no segment shows ran beside the path and is reported as off-path.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tauten.run.trace import BODY, VISIT, Trace
from tauten.run.visits import (
    ASSEMBLE,
    UNATTRIBUTED,
    Claim,
    Group,
    Piece,
    Visit,
    Visits,
    append,
    cut,
    fill,
    precedence,
    rank,
    sweep,
)

EPSILON_S: Final = 1e-6  # 1 µs: two reads of one clock in two threads may cross by this much
ORDER_GAP_S: Final = 1e-3  # 1 ms: ten times a hand-over between threads; shorter gaps are the engine's


class Segment(NamedTuple):
    """One stretch of the request and its only owner; step "" is the engine itself."""

    start: float
    end: float
    step: str
    cause: str


class Stay(NamedTuple):
    """A visit as it is shown: its extent, and its own rows made disjoint (nothing handed over)."""

    step: str
    start: float
    end: float
    pieces: tuple[Segment, ...]


Key = tuple[str, str]
"""(step, cause)."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """Where the time of one request went; all times in seconds.

    `segments` tile [start, end] exactly. `path` lists the steps that own time, in order of appearance.
    `slack` says how much later a step could have ended without moving the end (0 on the path);
    `free_slack` how much later without moving even the next step. `off_path` is work hidden behind the path.
    """

    start: float
    end: float
    segments: list[Segment]
    path: list[str] = field(default_factory=list)
    off_path: dict[Key, float] = field(default_factory=dict)
    slack: dict[str, float] = field(default_factory=dict)
    free_slack: dict[str, float] = field(default_factory=dict)
    stays: list[Stay] = field(default_factory=list)

    @property
    def wall(self) -> float:
        return self.end - self.start

    def exclusive(self) -> dict[Key, float]:
        """Seconds on the path by (step, cause); they add up to `wall`."""
        return totals(self.segments)

    @property
    def unattributed(self) -> float:
        return math.fsum(s.end - s.start for s in self.segments if s.cause == UNATTRIBUTED)


def attribute(trace: Trace) -> Attribution:
    """Walk a finished trace: segments, path, off-path work and slack."""
    visits = Visits(trace)
    walk = _Walk(visits)
    segments = walk.run()
    path = list(dict.fromkeys(s.step for s in segments if s.step not in ("", BODY)))
    slack = _slack(visits, walk.taken)
    for step in {*path, *(visit.step for visit in walk.taken)}:
        if step in slack:
            slack[step] = (0.0, 0.0)
    return Attribution(
        visits.start,
        visits.end,
        segments,
        path=path,
        off_path=_off_path(visits, segments),
        slack={step: total for step, (total, _) in slack.items()},
        free_slack={step: free for step, (_, free) in slack.items()},
        stays=_stays(visits),
    )


def exclusive(trace: Trace) -> dict[Key, float]:
    """The same as `attribute(trace).exclusive()`, for who asks nothing else of the trace."""
    found = _of_one_visit(trace)
    return totals(_Walk(Visits(trace)).pieces()) if found is None else found


def attribute_first_output(trace: Trace) -> list[Segment]:
    """The same walk from the first output back: segments that tile [start, first_output], or none."""
    if trace.first_output is None:
        return []
    return _Walk(Visits(trace, trace.first_output)).run()


def totals(segments: Iterable[Segment | Piece]) -> dict[Key, float]:
    """Seconds by (step, cause)."""
    parts: dict[Key, list[float]] = defaultdict(list)
    for start, end, step, cause in segments:
        parts[step, cause].append(end - start)
    return {key: math.fsum(lengths) for key, lengths in parts.items()}


def _of_one_visit(trace: Trace) -> dict[Key, float] | None:
    """The walk of a trace with one visit, which needs no graph: one sweep over its rows. None for any other trace."""
    visited = [row for row in trace.rows if row[1] == VISIT]
    low, high = trace.start, max(trace.start, trace.end)
    if len(visited) != 1:
        return None
    step, _, began, ended = visited[0]
    enters, leaves = max(began, low), min(ended, high)
    if not enters <= leaves:
        return None
    claims: list[Claim] = []
    for index, (name, cause, began, ended) in enumerate(trace.rows):
        if cause == VISIT:
            continue
        if cause == ASSEMBLE and name == step:
            return None
        start, end = max(began, low), min(ended, high)
        key = (precedence(cause), -began, ended, -index)
        if name == step:
            claims.append(((0, *key), max(start, enters), min(end, leaves), name, cause))
        if not name:  # the engine's own have what the visit's leave
            claims.append(((1, *key), start, end, name, cause))
        else:
            claims.append(((1, *key), start, min(end, enters), name, cause))
            claims.append(((1, *key), max(start, leaves), end, name, cause))
    swept, pieces = sweep(claims), list[Piece]()
    for since, until, owner in ((low, enters, ""), (enters, leaves, step), (leaves, high, "")):
        for piece in fill(cut(swept, since, until), since, until, owner, UNATTRIBUTED):
            append(pieces, piece)
    return totals(pieces)


class _Walk:
    """One walk back; `cursor` only ever falls, and no visit is taken twice."""

    def __init__(self, visits: Visits) -> None:
        self.visits = visits
        self.cursor = visits.end
        self.taken: set[Visit] = set()
        self._ended = len(visits.outer)  # visits.outer[:_ended] may still be the one that ended last
        self._anyone = Group(visits.outer) if visits.observed else None

    def run(self) -> list[Segment]:
        return [Segment(*piece) for piece in self.pieces()]

    def pieces(self) -> list[Piece]:
        parts: list[list[Piece]] = []
        low = self.visits.start
        visit = self._next(None)
        while visit is not None:
            joined = min(visit.end, self.cursor)
            parts.append(self._gap(joined, self.cursor))
            parts.append(cut(visit.resolved, visit.start, joined))
            self.taken.add(visit)
            self.cursor = min(visit.start, self.cursor)
            visit = self._next(visit)
        parts.append(self._gap(low, self.cursor))
        pieces: list[Piece] = []
        for part in reversed(parts):
            for piece in part:
                append(pieces, piece)
        return pieces

    def _gap(self, low: float, high: float) -> list[Piece]:
        return fill(cut(self.visits.loose, low, high), low, high, "", UNATTRIBUTED) if high > low else []

    def _next(self, visit: Visit | None) -> Visit | None:
        """The visit that the walk goes on with from `cursor`, coming from `visit` (None: from the end)."""
        if visit is not None and self.visits.observed:
            return self._before(visit)
        nodes = self.visits.outputs if visit is None else self.visits.nodes_before(visit.step)
        groups = self.visits.before(nodes, self.cursor)
        candidates = [found for group in groups if (found := group.latest(self.cursor, self.taken))]
        upstream = max(candidates, key=self._preference, default=None)
        joined = self.visits.start if upstream is None else min(upstream.end, self.cursor)
        unclaimed = (e - s for s, e, _, cause in self._gap(joined, self.cursor) if cause == UNATTRIBUTED)
        if upstream is None or math.fsum(unclaimed) > ORDER_GAP_S:
            between = self._ended_last()
            if between is not None and (upstream is None or between.end > joined):
                return between
        return upstream

    def _preference(self, visit: Visit) -> tuple[float, bool, float, str]:
        return (min(visit.end, self.cursor), visit.end > self.cursor, -visit.start, visit.step)

    def _before(self, visit: Visit) -> Visit | None:
        """Without a graph: whoever ended last; for a stream's consumer, whoever is still at work."""
        ended = self._ended_last()
        if (visit.streams or ended is None) and self._anyone is not None:
            still_open = self._anyone.latest(self.cursor, self.taken)
            if still_open is not None and still_open.end > self.cursor and still_open.start < self.cursor:
                return still_open
        return ended

    def _ended_last(self) -> Visit | None:
        """The visit of any step that ended last at or before `cursor`; amortised O(1), as time only falls."""
        every = self.visits.outer
        while self._ended and (
            every[self._ended - 1].end > self.cursor + EPSILON_S
            or every[self._ended - 1].start > self.cursor
            or every[self._ended - 1] in self.taken
        ):
            self._ended -= 1
        return every[self._ended - 1] if self._ended else None


def _off_path(visits: Visits, segments: Sequence[Segment]) -> dict[Key, float]:
    """Work of each step that the path does not show; waits are not work."""
    worked = totals(Segment(*piece) for visit in visits.all for piece in visit.own if rank(piece[3]) == 0)
    shown = totals(segments)
    hidden = {key: worked[key] - shown.get(key, 0.0) for key in worked}
    return {key: seconds for key, seconds in hidden.items() if seconds > 1e-9}  # 1 ns: float noise


def _stays(visits: Visits) -> list[Stay]:
    ordered = sorted(visits.all, key=lambda v: (v.start, v.end, v.step))
    return [Stay(v.step, v.start, v.end, tuple(Segment(*piece) for piece in v.own)) for v in ordered]


def _slack(visits: Visits, taken: set[Visit]) -> dict[str, tuple[float, float]]:
    """(total, free) float of each step from the observed times, the smallest of its visits.

    A visit on the path cannot end later at all: what follows it, gaps included, would move too.
    """
    per_visit = (_slack_observed if visits.observed else _slack_drawn)(visits, taken)
    per_visit |= _slack_nested(visits)
    slack: dict[str, tuple[float, float]] = {}
    for visit, (latest, free) in per_visit.items():
        total, smallest = slack.get(visit.step, (math.inf, math.inf))
        late = max(0.0, latest - visit.end)
        slack[visit.step] = (min(total, late), min(smallest, free, late))
    return slack


def _slack_drawn(visits: Visits, taken: set[Visit]) -> dict[Visit, tuple[float, float]]:
    """Latest end and free float of each visit; consumers first, as a node's come from its consumers'."""
    users: dict[str, list[str]] = defaultdict(list)
    for node, ups in visits.upstream.items():
        for up in ups:
            users[up].append(node)
    done: dict[str, _Consumers] = {}
    found: dict[Visit, tuple[float, float]] = {}
    for node in reversed(list(visits.upstream)):
        group = visits.groups.get(node)
        if group is None:
            continue
        consumers = _consumers(done, users, node)
        for visit in group.visits:
            latest, free = visit.end if visit in taken else visits.end, visits.end - visit.end
            for consumer in consumers:
                latest = min(latest, consumer.latest(visit))
                free = min(free, consumer.gap(visit))
            found[visit] = (latest, free)
        done[node] = _Consumers(group, found)
    return found


class _Consumers:
    """The visits of one node, asked when the result of another must be there at the latest."""

    def __init__(self, group: Group, found: dict[Visit, tuple[float, float]]) -> None:
        self._starts = group.starts
        self._begin_by = [math.inf] * (len(group.visits) + 1)  # latest begin of all that start from here on
        for place in range(len(group.visits) - 1, -1, -1):
            visit = group.visits[place]
            begin = found[visit][0] - (visit.end - visit.start)
            self._begin_by[place] = min(self._begin_by[place + 1], begin)
        streams = [v for v in group.visits if v.streams or len(group.visits) == 1]
        self._tails = [(v.start, v.end, found[v][0] - v.end) for v in streams]

    def latest(self, visit: Visit) -> float:
        """When `visit` must have ended; what began while it ran can only have read its stream."""
        whole = self._begin_by[bisect_left(self._starts, visit.end)]
        late = [tail for start, end, tail in self._tails if visit.start <= start < visit.end <= end]
        return min(whole, visit.end + min(late, default=math.inf))

    def gap(self, visit: Visit) -> float:
        """How long its result lay unused; nothing for a stream."""
        if any(visit.start <= start < visit.end <= end for start, end, _ in self._tails):
            return 0.0
        after = bisect_left(self._starts, visit.end)
        return self._starts[after] - visit.end if after < len(self._starts) else math.inf


def _consumers(done: dict[str, _Consumers], users: dict[str, list[str]], node: str) -> list[_Consumers]:
    """Who uses the results of `node`; the users of a skipped step stand for it."""
    found: list[_Consumers] = []
    stack, seen = list(users.get(node, ())), set[str]()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in done:
            found.append(done[name])
        else:
            stack.extend(users.get(name, ()))
    return found


def _slack_observed(visits: Visits, taken: set[Visit]) -> dict[Visit, tuple[float, float]]:
    """Without a graph whatever began after a visit ended may have used it: the careful answer."""
    ordered = sorted(visits.outer, key=lambda v: (v.start, v.end), reverse=True)
    starts = sorted(visit.start for visit in ordered)
    begin_by = [visits.end] * (
        len(starts) + 1
    )  # latest begin over the visits that start at or after starts[i]
    found: dict[Visit, tuple[float, float]] = {}
    for place, visit in zip(range(len(starts) - 1, -1, -1), ordered, strict=True):
        after = max(place + 1, bisect_left(starts, visit.end))
        latest = visit.end if visit in taken else begin_by[after]
        next_start = starts[after] if after < len(starts) else visits.end
        found[visit] = (latest, max(0.0, next_start - visit.end))
        begin_by[place] = min(begin_by[place + 1], latest - (visit.end - visit.start))
    return found


def _slack_nested(visits: Visits) -> dict[Visit, tuple[float, float]]:
    """Of a step called by another's code: until its caller calls the next or ends. The careful answer."""
    found: dict[Visit, tuple[float, float]] = {}
    for caller in visits.all:
        starts = sorted(visit.start for visit in caller.inner)
        for visit in caller.inner:
            after = bisect_left(starts, visit.end)
            latest = starts[after] if after < len(starts) else caller.end
            found[visit] = (latest, max(0.0, latest - visit.end))
    return found
