"""From the points of all rounds to the columns of the comparison, their ranks, and the targets met or missed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.ground import figures

OURS = "tauten"
REFERENCES = {"diy", "floor"}  # rows that are no product: shown, not ranked
ROUNDS = 5  # at least: the median of fewer moves with each one
Round = Mapping[str, Any]  # one start of one server: cold_start_s, pss_mb, points, bare


@dataclass(frozen=True)
class Column:
    """One figure of a row, taken from each round; the cell is the median of the rounds."""

    key: str
    title: str
    unit: str
    higher_is_better: bool
    take: Callable[[Round], float | None]
    models: tuple[str, ...] = ("small", "heavy")


def _point(name: str, key: str) -> Callable[[Round], float | None]:
    def take(one: Round) -> float | None:
        point = one.get("points", {}).get(name, {})
        return None if point.get("saturated") and key.startswith("p") else point.get(key)

    return take


def _over_bare(one: Round) -> float | None:
    return figures.difference(_point("c1", "p50_ms")(one), one.get("bare", {}).get("one_p50_ms"))


def _share(name: str) -> Callable[[Round], float | None]:
    """Part of what two bare processes reach at batch 32 in the same round."""
    return lambda one: figures.ratio(_point(name, "rps")(one), one.get("bare", {}).get("p2_b32_items_s"))


def columns(clients: Sequence[int], levels: Sequence[float]) -> list[Column]:
    """In the order of the table."""
    found = (
        [Column("over_bare_ms", "p50 over bare, 1 client", "ms", False, _over_bare)] if 1 in clients else []
    )
    for count in (count for count in clients if count > 1):
        name = f"c{count}"
        found.append(Column(f"{name}_rps", f"{count} clients, rate", "req/s", True, _point(name, "rps")))
        found.append(Column(f"{name}_p99_ms", f"{count} clients, p99", "ms", False, _point(name, "p99_ms")))
        if count >= 32:
            title = f"share of bare, {count} clients"
            found.append(Column(f"{name}_share", title, "share", True, _share(name)))
    for level in levels:
        name = open_name(level)
        title = f"open loop {level:.0%}, p99"
        found.append(Column(f"{name}_p99_ms", title, "ms", False, _point(name, "p99_ms")))
    found.append(
        Column("cpu_ms", "CPU a request, 32 clients", "ms", False, _point("c32", "cpu_ms_per_request"))
    )
    found += [
        Column("pss_mb", "memory (PSS)", "MB", False, lambda one: one.get("pss_mb")),
        Column("cold_s", "cold start", "s", False, lambda one: one.get("cold_start_s")),
        Column("body_rps", "100 KB, 32 clients, rate", "req/s", True, _point("c32", "rps"), ("wide",)),
        Column("body_p99_ms", "100 KB, 32 clients, p99", "ms", False, _point("c32", "p99_ms"), ("wide",)),
    ]
    return found


def open_name(level: float) -> str:
    """Name of the open-loop point at this share of capacity."""
    return f"open{level * 100:.0f}"


def share(rounds: Sequence[Round], name: str) -> dict[str, Any] | None:
    """Share of the CPU that others used (`foreign_share`) or took (`steal_share`) during a row's points."""
    points = [point for one in rounds for point in one.get("points", {}).values()]
    return figures.spread(point.get(name) for point in points)


def row(record: Mapping[str, Any], wanted: Sequence[Column]) -> dict[str, Any]:
    """Identity of a row with one cell per column of its model; a failed row keeps its reason."""
    rounds = [one for one in record["rounds"] if "error" not in one]
    errors = [one["error"] for one in record["rounds"] if "error" in one]
    points = [point for one in rounds for point in one.get("points", {}).values()]
    outrun = saturated(rounds)
    cells = {
        column.key: figures.spread(column.take(one) for one in rounds)
        for column in wanted
        if record["model"] in column.models and column.key.removesuffix("_p99_ms") not in outrun
    }
    return {
        **{key: value for key, value in record.items() if key != "rounds"},
        "rounds": len(rounds),
        "reason": errors[-1] if errors and not rounds else None,
        "failed_starts": len(errors),
        "failed_points": sorted({point["failed"] for point in points if "failed" in point}),
        "cells": cells,
        "foreign_share": share(rounds, "foreign_share"),
        "steal_share": share(rounds, "steal_share"),
        "errors": sum(point.get("errors") or 0 for point in points if not point.get("saturated")),
        "late_points": sum(bool(point.get("send_lag_high")) for point in points),
        "saturated": outrun,
    }


def saturated(rounds: Sequence[Round]) -> list[str]:
    """Open-loop points that outran the server in at least half of the rounds."""
    names = {name for one in rounds for name, point in one.get("points", {}).items() if "saturated" in point}
    majority = len(rounds) / 2
    return sorted(
        name
        for name in names
        if sum(bool(one.get("points", {}).get(name, {}).get("saturated")) for one in rounds) >= majority
    )


def rank(rows: Sequence[dict[str, Any]], wanted: Sequence[Column]) -> None:
    """Writes `ranks` into the rows: their place per column among the rows of their model."""
    for one in rows:
        one["ranks"] = {}
    for model in {one["model"] for one in rows}:
        for column in wanted:
            values = {
                one["label"]: figures.median(one["cells"], column.key)
                for one in rows
                if one["model"] == model and one["server"] not in REFERENCES
            }
            places = figures.ranks(values, column.higher_is_better)
            for one in rows:
                if one["model"] == model and one["label"] in places:
                    one["ranks"][column.key] = places[one["label"]]


def _best(
    rows: Sequence[Mapping[str, Any]], model: str, key: str, *, ours: bool, highest: bool = False
) -> tuple[float | None, str]:
    """The lowest, or highest, of our rows or of everybody else's but the references; and whose it is."""
    known = [
        (value, str(one["label"]))
        for one in rows
        if one["model"] == model and (one["server"] == OURS) is ours and one["server"] not in REFERENCES
        if (value := figures.median(one["cells"], key)) is not None
    ]
    return (max(known) if highest else min(known)) if known else (None, "")


def _target(name: str, seen: float | None, bound: float | None, at_least: bool = False) -> dict[str, Any]:
    met = None if seen is None or bound is None else (seen >= bound if at_least else seen <= bound)
    return {"target": name, "seen": seen, "bound": bound, "at_least": at_least, "met": met, "lost": []}


def _first_everywhere(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A column in which a peer has a figure and ours has none is lost as well; without peers there is no first."""
    if not any(one["ranks"] and one["server"] != OURS for one in rows):
        return _target("columns in which ours is not first", None, 0)
    places: dict[tuple[str, str], int | None] = {}  # the better one of our rows, where there are two
    asked = {one["model"] for one in rows if one["server"] == OURS}
    for one in (one for one in rows if one["model"] in asked):
        for key, place in one["ranks"].items():
            column = (one["model"], key)
            places.setdefault(column, None)
            if one["server"] == OURS:
                places[column] = min(place, places[column] or place)
    lost = [
        f"{model} {key}: {'no figure' if place is None else f'place {place}'}"
        for (model, key), place in places.items()
        if place != 1
    ]
    return {**_target("columns in which ours is not first", len(lost) if places else None, 0), "lost": lost}


def _below_peers(rows: Sequence[Mapping[str, Any]], model: str, level: float) -> dict[str, Any]:
    """Met also where every peer that ran was outrun by the load and ours was not."""
    key = f"{open_name(level)}_p99_ms"
    (mine, my_row), (theirs, their_row) = (_best(rows, model, key, ours=ours) for ours in (True, False))
    found = _target(f"open-loop p99 at {level:.0%} below every peer's, {model}, ms", mine, theirs)
    if mine is not None and theirs is not None:
        found |= {"note": f"{my_row} against {their_row}"}
    peers = [one for one in rows if one["model"] == model and one["server"] not in {OURS, *REFERENCES}]
    outrun = [open_name(level) in one["saturated"] for one in peers if one["rounds"]]
    if found["seen"] is not None and found["bound"] is None and outrun and all(outrun):
        found |= {"met": True, "note": "every peer was saturated"}
    if found["seen"] is None and found["bound"] is not None:
        found |= {"met": False, "note": "ours was saturated, and not every peer"}
    return found


def _fewest_rounds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the rows that ran at all: a time box that is spent, or a start that failed, leaves fewer."""
    fewest = min(((one["rounds"], one["model"], one["label"]) for one in rows if one["rounds"]), default=None)
    found = _target("rounds of the row with the fewest", fewest and fewest[0], ROUNDS, at_least=True)
    return {**found, "note": f"{fewest[1]}, {fewest[2]}" if fewest and not found["met"] else ""}


def targets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What our server set itself; `met` is None where a figure is missing."""

    def ours(name: str, model: str, key: str, bound: float, at_least: bool = False) -> dict[str, Any]:
        """By the better one of our rows, which is named where there are two."""
        seen, label = _best(rows, model, key, ours=True, highest=at_least)
        several = sum(one["model"] == model and one["server"] == OURS for one in rows) > 1
        return {**_target(name, seen, bound, at_least), "note": label if several else ""}

    return [
        _first_everywhere(rows),
        ours("p50 over bare at 1 client, small, ms", "small", "over_bare_ms", 0.15),
        ours("p50 over bare at 1 client, heavy, ms", "heavy", "over_bare_ms", 0.15),
        ours("share of bare at 32 clients, heavy", "heavy", "c32_share", 0.80, at_least=True),
        ours("share of bare at 128 clients, heavy", "heavy", "c128_share", 0.90, at_least=True),
        _below_peers(rows, "small", 0.7),
        _below_peers(rows, "heavy", 0.7),
        ours("p99 of 100 KB bodies at 32 clients, ms", "wide", "body_p99_ms", 80.0),
        _fewest_rounds(rows),
    ]


def summarize(records: Sequence[Mapping[str, Any]], wanted: Sequence[Column]) -> dict[str, Any]:
    """Everything the page shows, from the raw records of all rows."""
    rows = [row(record, wanted) for record in records]
    rank(rows, wanted)
    shown = [
        {
            "key": c.key,
            "title": c.title,
            "unit": c.unit,
            "higher_is_better": c.higher_is_better,
            "models": c.models,
        }
        for c in wanted
    ]
    return {"columns": shown, "rows": rows, "targets": targets(rows)}
