"""The rows of one trace sorted into visits, and the graph that the visits hang in.

A visit is one stay of one step. Each knows its own time-line (which of its rows has each instant) and its
resolved one (the same, after waits for a stream were handed to whoever feeds it).
All times are clipped to the trace; nothing here reads a clock.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import heapq
import itertools
import math
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from tauten.run.trace import VISIT, WAITING, Trace

UNATTRIBUTED: Final = "unattributed"
ASSEMBLE: Final = "assemble"

Piece = tuple[float, float, str, str]
"""(start, end, step, cause): who has an interval; pieces of one time-line never overlap."""

Claim = tuple[tuple[object, ...], float, float, str, str]
"""(key, start, end, step, cause); where claims overlap, the one with the smallest key has the instant."""

Edges = Mapping[str, tuple[str, ...]]
"""For each node the nodes before it."""

_MEMBER = re.compile(r"\[\d+\]")


def base_name(step: str) -> str:
    """The step that a member of a map belongs to.

    >>> base_name("classify[3]")
    'classify'
    """
    return _MEMBER.sub("", step) if "[" in step else step


def rank(cause: str) -> int:
    """0 works, 1 waits, 2 nobody claims it."""
    if cause == UNATTRIBUTED:
        return 2
    return 1 if cause in WAITING else 0


def precedence(cause: str) -> int:
    """Who owns an instant that several rows of a visit claim: what works, what waits, then `user`.

    A coroutine of the user's is claimed as `user` from end to end; what it awaits inside says more.
    """
    return 2 if cause == "user" else rank(cause)


def sweep(claims: Iterable[Claim]) -> list[Piece]:
    """Give every claimed instant to one claim; O(n log n). Unclaimed instants stay holes."""
    waiting = sorted((c for c in claims if c[2] > c[1]), key=lambda c: c[1])
    cuts = sorted({edge for claim in waiting for edge in claim[1:3]})
    heap: list[tuple[tuple[object, ...], float, str, str]] = []
    pieces: list[Piece] = []
    upcoming = 0
    for start, end in itertools.pairwise(cuts):
        while upcoming < len(waiting) and waiting[upcoming][1] <= start:
            key, _, until, step, cause = waiting[upcoming]
            heapq.heappush(heap, (key, until, step, cause))
            upcoming += 1
        while heap and heap[0][1] <= start:
            heapq.heappop(heap)
        if heap:
            append(pieces, (start, end, heap[0][2], heap[0][3]))
    return pieces


def append(pieces: list[Piece], piece: Piece) -> None:
    """Add a piece at the end; it melts into the last one where the owner stays the same."""
    if pieces and pieces[-1][1] == piece[0] and pieces[-1][2:] == piece[2:]:
        piece = (pieces.pop()[0], *piece[1:])
    pieces.append(piece)


def cut(pieces: Sequence[Piece], low: float, high: float) -> list[Piece]:
    """The part of a time-line that lies in [low, high]."""
    first = max(0, bisect_right(pieces, (low, math.inf)) - 1)
    last = bisect_left(pieces, (high,))
    found = ((max(s, low), min(e, high), step, cause) for s, e, step, cause in pieces[first:last])
    return [piece for piece in found if piece[1] > piece[0]]


def fill(pieces: Iterable[Piece], low: float, high: float, step: str, cause: str) -> list[Piece]:
    """The same pieces with every hole in [low, high] given to (step, cause)."""
    filled: list[Piece] = []
    at = low
    for piece in pieces:
        if piece[0] > at:
            append(filled, (at, piece[0], step, cause))
        append(filled, piece)
        at = piece[1]
    if high > at:
        append(filled, (at, high, step, cause))
    return filled


class Visit:
    """One stay of one step."""

    __slots__ = ("claims", "end", "inner", "own", "resolved", "start", "step", "streams")

    def __init__(self, step: str, start: float, end: float) -> None:
        self.step = step
        self.start = start
        self.end = end
        self.claims: list[Claim] = []
        self.inner: list[Visit] = []  # of the steps that its own code called
        self.own: list[Piece] = []  # claimed instants only
        self.resolved: list[Piece] = []  # tiles [start, end]
        self.streams = False  # it waited for a stream at least once


class Group:
    """The visits of one node of the graph, by start, with the one that ends last among the first n."""

    __slots__ = ("last", "starts", "visits")

    def __init__(self, visits: list[Visit]) -> None:
        self.visits = sorted(visits, key=lambda v: (v.start, -v.end, v.step))
        self.starts = [v.start for v in self.visits]
        self.last: list[Visit] = []
        for visit in self.visits:
            best = self.last[-1] if self.last else visit
            self.last.append(visit if visit.end > best.end else best)

    def latest(self, instant: float, taken: set[Visit]) -> Visit | None:
        """Of the visits begun at or before `instant`, the one that ended last (or has not ended yet)."""
        begun = bisect_right(self.starts, instant)
        if not begun:
            return None
        if self.last[begun - 1] not in taken:
            return self.last[begun - 1]
        free = [visit for visit in self.visits[:begun] if visit not in taken]
        return max(free, key=lambda v: (v.end, -v.start), default=None)


class Visits:
    """All visits of a trace up to `end`, their graph, and the rows that belong to none (`loose`)."""

    def __init__(self, trace: Trace, end: float | None = None) -> None:
        self.start = trace.start
        self.end = max(trace.start, trace.end if end is None else min(end, trace.end))
        self.observed = not any(trace.edges.values())  # no graph: any step may be upstream of any other
        self._mentioned = {*trace.edges, *(name for ups in trace.edges.values() for name in ups)}
        self._mentioned.update(trace.outputs)
        self.all: list[Visit] = []
        self.nested: list[Visit] = []  # those inside another visit, the deepest first
        self.outer: list[Visit] = []  # the others, by their end
        self.loose: list[Piece] = []
        self.engine: list[Piece] = []  # those of the engine itself
        self._read(trace)
        self._nest()
        self.groups = self._group()
        self.feeds = _acyclic(trace.edges, self.groups)  # whose results a step uses
        self.upstream = _acyclic(_merged(trace.edges, trace.order), self.groups)  # or after whom it runs
        self.outputs = [name for name in trace.outputs if name in self.upstream or name in self.groups]
        self._resolve()

    def node(self, step: str) -> str:
        """The name under which the graph knows a step: its own, or that of its map."""
        return step if step in self._mentioned else base_name(step)

    def before(self, nodes: Iterable[str], instant: float, edges: Edges | None = None) -> list[Group]:
        """The groups that `nodes` stand for; a node not begun by `instant` stands for its own upstream."""
        edges = self.upstream if edges is None else edges
        found: dict[str, Group] = {}
        stack, seen = list(nodes), set[str]()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            group = self.groups.get(node)
            if group is not None and group.starts[0] <= instant:
                found[node] = group
            else:
                stack.extend(edges.get(node, ()))
        return [found[node] for node in sorted(found)]

    def nodes_before(self, step: str) -> tuple[str, ...]:
        return self.upstream.get(self.node(step), ())

    def _read(self, trace: Trace) -> None:
        by_step: dict[str, list[Visit]] = defaultdict(list)
        claims: list[Claim] = []
        for index, (step, cause, began, ended) in enumerate(trace.rows):
            start, end = max(began, self.start), min(ended, self.end)
            if not start <= end:  # outside the trace, or not a number
                continue
            if cause == VISIT:
                by_step[step].append(Visit(step, start, end))
            else:
                claims.append(((precedence(cause), -began, ended, -index), start, end, step, cause))
        for visits in by_step.values():
            visits.sort(key=lambda v: (v.start, -v.end))
            self.all.extend(visits)
        self.all.sort(key=lambda v: (v.end, -v.start, v.step))
        starts = {step: [v.start for v in visits] for step, visits in by_step.items()}
        loose: list[Claim] = []
        for claim in claims:
            loose.extend(_place(claim, by_step.get(claim[3], []), starts.get(claim[3], [])))
        self.loose = sweep(loose)
        self.engine = sweep(claim for claim in loose if not claim[3])

    def _group(self) -> dict[str, Group]:
        pooled: dict[str, list[Visit]] = defaultdict(list)
        for visit in self.outer:
            pooled[self.node(visit.step)].append(visit)
        return {node: Group(visits) for node, visits in pooled.items()}

    def _nest(self) -> None:
        """Hang the visits of ``a/b`` into the visit of ``a`` that was open when they began."""
        by_step: dict[str, list[Visit]] = defaultdict(list)
        for visit in self.all:
            by_step[visit.step].append(visit)
        for visit in self.all:
            around = (v for name in _callers(visit.step) for v in by_step.get(name, ()))
            caller = next((v for v in around if v.start <= visit.start <= v.end), None)
            (self.outer if caller is None else self.nested).append(visit)
            if caller is not None:
                caller.inner.append(visit)
        self.nested.sort(key=lambda v: -v.step.count("/"))

    def _resolve(self) -> None:
        for visit in self.all:
            visit.own = sweep(visit.claims)
        for caller in {id(v): v for v in self.all if v.inner}.values():
            caller.own = _without(caller.own, caller.inner)
        for visit in self.nested:
            visit.resolved = self._resolved(visit, [])
        work = self._anyones_work() if self.observed else []
        for node in self.upstream:
            for visit in self.groups[node].visits if node in self.groups else ():
                feed = work if self.observed else self._feed(visit) if visit.streams else []
                visit.resolved = self._resolved(visit, feed)

    def _resolved(self, visit: Visit, feed: list[Piece]) -> list[Piece]:
        out: list[Piece] = []
        inner = _together(visit.inner)
        for piece in fill(visit.own, visit.start, visit.end, visit.step, UNATTRIBUTED):
            start, end, step, cause = piece
            offered: list[Piece] = []
            if cause == ASSEMBLE:
                offered = cut(feed, start, end)
            elif cause == UNATTRIBUTED:
                offered = cut(inner, start, end) if inner else cut(self.engine, start, end)
            for part in fill(offered, start, end, step, cause):
                append(out, part)
        return out

    def _anyones_work(self) -> list[Piece]:
        """Without a graph a stream may come from any step: whoever works innermost."""
        if not any(visit.streams for visit in self.all):
            return []
        return sweep(claim for visit in self.all for claim in visit.claims if claim[0][0] == 0)

    def _feed(self, visit: Visit) -> list[Piece]:
        """What the path that `visit` waits for does at each instant; upstream is resolved already.

        An upstream visit that has not begun yet hands the question to its own upstream.
        """
        limits: dict[Visit, float] = {}
        stack = [(up, visit.end) for up in self._visits_before(visit)]
        while stack:
            source, limit = stack.pop()
            if limits.get(source, visit.start) >= limit:
                continue
            limits[source] = limit
            if source.start > visit.start:
                earlier = min(limit, source.start)
                stack.extend((up, earlier) for up in self._visits_before(source))
        claims: list[Claim] = []
        for source, limit in limits.items():
            for start, end, step, cause in cut(source.resolved, visit.start, limit):
                claims.append(
                    ((rank(cause), -source.start, source.step, step, cause), start, end, step, cause)
                )
        return sweep(claims)

    def _visits_before(self, visit: Visit) -> list[Visit]:
        groups = self.before(self.feeds.get(self.node(visit.step), ()), math.inf, self.feeds)
        return [up for group in groups for up in group.visits if up.start < visit.end]


def _callers(step: str) -> Iterator[str]:
    """The names of the steps that may have called a step, the nearest first."""
    while "/" in step:
        step = step.rpartition("/")[0]
        yield step


def _without(own: list[Piece], inner: list[Visit]) -> list[Piece]:
    """A caller's time-line; while it awaits a step that it called, its code claims nothing."""
    away = sweep(((), visit.start, visit.end, "", "") for visit in inner)
    kept: list[Piece] = []
    for start, end, step, cause in own:
        holes = cut(away, start, end) if cause == "user" else []
        kept += [piece for piece in fill(holes, start, end, step, cause) if piece[3]]
    return kept


def _together(inner: list[Visit]) -> list[Piece]:
    """What the steps that a visit called do at each instant: one that works, else one that waits."""
    return sweep(
        ((rank(cause), -start, end, step, cause), start, end, step, cause)
        for visit in inner
        for start, end, step, cause in visit.resolved
    )


def _acyclic(edges: Edges, groups: Iterable[str]) -> Edges:
    """The edges, upstream nodes first, without those that would close a circle."""
    order: dict[str, tuple[str, ...]] = {}
    open_: set[str] = set()
    for root in sorted({*edges, *groups}):
        stack = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                open_.discard(node)
                order[node] = tuple(up for up in _ups(edges, node) if up in order)
            elif node not in order and node not in open_:
                open_.add(node)
                stack.append((node, True))
                stack.extend((up, False) for up in _ups(edges, node))
    return order


def _ups(edges: Edges, node: str) -> tuple[str, ...]:
    return tuple(edges.get(node, edges.get(base_name(node), ())))


def _merged(one: Edges, other: Edges) -> Edges:
    return {node: (*one.get(node, ()), *other.get(node, ())) for node in {**one, **other}}


def _place(claim: Claim, visits: list[Visit], starts: list[float]) -> list[Claim]:
    """Put a row into the visits of its step; what lies outside them comes back."""
    key, start, end, step, cause = claim
    begun = bisect_right(starts, start)
    for visit in reversed(visits[max(0, begun - 8) : begun]):  # 8: parallel visits of one name are rare
        if visit.end >= end:
            _claim(visit, claim)
            return []
    outside: list[Claim] = []
    at = start
    for visit in visits[: bisect_left(starts, end)]:
        if visit.end <= at:
            continue
        if visit.start > at:
            outside.append((key, at, visit.start, step, cause))
        _claim(visit, (key, max(at, visit.start), min(end, visit.end), step, cause))
        at = min(end, visit.end)
    if end > at:
        outside.append((key, at, end, step, cause))
    return outside


def _claim(visit: Visit, claim: Claim) -> None:
    visit.claims.append(claim)
    visit.streams = visit.streams or claim[4] == ASSEMBLE
