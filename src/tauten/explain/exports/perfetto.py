"""Traces as Chrome trace-event JSON, which ui.perfetto.dev and chrome://tracing open from a file.

Each request is a process. Its first track, made of asynchronous `b`/`e` events, is the critical path: one
owner an instant. Then one track a stage, with a slice a visit and its causes inside; visits of one stage
that overlap get a track each. Arrows follow the edges. Nothing is sent anywhere.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from tauten.run.attribution import Attribution, Stay, attribute
from tauten.run.trace import SOURCES, Trace
from tauten.run.visits import base_name

suffix: Final = ".trace.json"

Event = dict[str, Any]

_ARROW_US: Final = 0.5  # an arrow must leave from inside its slice, not from its end


def export(traces: Mapping[str, Trace], *, workflow: str = "") -> str:
    """JSON text of one or more requests by id; times in µs from the first request's start."""
    origin = min((trace.start for trace in traces.values()), default=0.0)
    events: list[Event] = []
    for process, (request, trace) in enumerate(traces.items(), 1):
        events.extend(_request(process, request, trace, origin))
    document = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"writer": "tauten", "workflow": workflow},
    }
    return msgspec.json.encode(document).decode()


def _request(process: int, request: str, trace: Trace, origin: float) -> Iterable[Event]:
    found = attribute(trace)
    yield _named(process, 0, "process_name", f"request {request}")
    yield from _path(process, request, found, trace, origin)
    lanes = _lanes(found.stays)
    for track, lane in enumerate(lanes, 1):
        yield _named(process, track, "thread_name", lane[0].step)
        for stay in lane:
            yield from _stay(process, track, stay, found, origin)
    yield from _arrows(process, lanes, trace, origin)
    if trace.first_output is not None:
        yield {
            "ph": "i",
            "s": "p",
            "name": "first output",
            "cat": "request",
            "pid": process,
            "tid": 0,
            "ts": _us(trace.first_output, origin),
        }


def _path(process: int, request: str, found: Attribution, trace: Trace, origin: float) -> Iterable[Event]:
    """The request and, nested in it, the owner of each instant."""
    about = {"cat": "critical path", "id": request, "pid": process, "tid": 0}
    spent = {f"{step or 'engine'} {unit}": amount for step, unit, amount in trace.spent}
    args: dict[str, Any] = {
        "wall_ms": found.wall * 1e3,
        "unattributed_ms": found.unattributed * 1e3,
        **trace.notes,
        **spent,
    }
    yield {"ph": "b", "name": f"request {request}", "ts": _us(found.start, origin), "args": args, **about}
    for start, end, step, cause in found.segments:
        title = f"{step or 'engine'}: {cause}"
        args = {"stage": step, "cause": cause, "source": SOURCES.get(cause, "outside")}
        yield {"ph": "b", "name": title, "ts": _us(start, origin), "args": args, **about}
        yield {"ph": "e", "name": title, "ts": _us(end, origin), **about}
    yield {"ph": "e", "name": f"request {request}", "ts": _us(found.end, origin), **about}


def _lanes(stays: Iterable[Stay]) -> list[list[Stay]]:
    """One track a stage; a visit that overlaps the last one on its track gets another."""
    lanes: dict[tuple[str, int], list[Stay]] = {}
    for stay in sorted(stays, key=lambda s: (s.start, s.end, s.step)):
        place = 0
        while (lane := lanes.get((stay.step, place))) and lane[-1].end > stay.start:
            place += 1
        lanes.setdefault((stay.step, place), []).append(stay)
    return list(lanes.values())


def _stay(process: int, track: int, stay: Stay, found: Attribution, origin: float) -> Iterable[Event]:
    at = {"pid": process, "tid": track}
    args = {
        "on_path": stay.step in found.path,
        "slack_ms": found.slack.get(stay.step, 0.0) * 1e3,
        "free_slack_ms": found.free_slack.get(stay.step, 0.0) * 1e3,
    }
    yield {
        "ph": "X",
        "name": stay.step,
        "cat": "visit",
        **_extent(stay.start, stay.end, origin),
        "args": args,
        **at,
    }
    for start, end, _, cause in stay.pieces:
        category = SOURCES.get(cause, "outside")
        yield {"ph": "X", "name": cause, "cat": category, **_extent(start, end, origin), "args": {}, **at}


def _arrows(process: int, lanes: list[list[Stay]], trace: Trace, origin: float) -> Iterable[Event]:
    """From each visit that fed another, by the edges; of several visits, the one begun last before."""
    places = {id(stay): track for track, lane in enumerate(lanes, 1) for stay in lane}
    by_step: dict[str, list[Stay]] = {}
    members: dict[str, list[Stay]] = {}
    for lane in lanes:
        by_step.setdefault(lane[0].step, []).extend(lane)
        members.setdefault(base_name(lane[0].step), []).extend(lane)
    by_step = members | by_step  # edges name a map where visits are of its members
    number = 0
    for step, ups in trace.edges.items():
        for consumer in by_step.get(step, ()):
            for up in ups:
                fed = [stay for stay in by_step.get(up, ()) if stay.start <= consumer.start]
                if not fed:
                    continue
                number += 1
                producer = max(fed, key=lambda stay: stay.start)
                about = {"name": "edge", "cat": "edge", "id": f"{process}.{number}", "pid": process}
                leave = max(producer.start, min(producer.end, consumer.start) - _ARROW_US / 1e6)
                yield {"ph": "s", "tid": places[id(producer)], "ts": _us(leave, origin), **about}
                begin = {"tid": places[id(consumer)], "ts": _us(consumer.start, origin)}
                yield {"ph": "f", "bp": "e", **begin, **about}


def _named(process: int, track: int, what: str, title: str) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": title}}


def _extent(start: float, end: float, origin: float) -> dict[str, float]:
    begin = _us(start, origin)
    return {"ts": begin, "dur": round(_us(end, origin) - begin, 3)}


def _us(instant: float, origin: float) -> float:
    return round((instant - origin) * 1e6, 3)
