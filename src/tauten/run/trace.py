"""Where the time of one request went: rows written while it runs, read afterwards (by `attribution`).

A row is a plain tuple ``(step, cause, start, end)`` of monotonic seconds; appending one is all that the
hot path pays. A row with the cause `VISIT` spans a step's whole stay; the others lie inside it and say
why. Nothing here reads a clock.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Row = tuple[str, str, float, float]
"""(step, cause, start, end); a step that runs once per member of a map is called ``name[3]``."""

VISIT: Final = "visit"

BODY: Final = "(workflow)"
"""The step that an observed workflow's own code is charged to; it has no visit."""

CAUSES: Final = [
    "admission",
    "queue",
    "batch_wait",
    "compute",
    "prefill",
    "tokens",
    "decode",
    "transfer",
    "lookup",
    "load",
    "route",
    "remote",
    "limit",
    "loop",
    "user",
    "assemble",
    "turn",
    "client",
    "unattributed",
]

SOURCES: Final[dict[str, str]] = {
    **dict.fromkeys(("compute", "prefill", "tokens"), "model"),
    **dict.fromkeys(("decode", "user"), "preparation"),
    **dict.fromkeys(("transfer", "remote", "limit"), "network"),
    **dict.fromkeys(("admission", "queue", "batch_wait", "loop", "route", "assemble"), "contention"),
    **dict.fromkeys(("lookup", "load"), "io"),
    **dict.fromkeys(("turn", "client"), "outside"),
    "unattributed": "unattributed",
}
"""The five sources that users know, the two that lie outside, and what nobody claims."""

WAITING: Final = frozenset(
    {"admission", "queue", "batch_wait", "limit", "assemble", "loop", "turn", "client"}
)
"""Causes in which nothing works for the request; working rows own an instant before these do."""


_NONE: Final[Mapping[str, tuple[str, ...]]] = {}  # one for all traces without a graph; nobody writes to it


class Trace:
    """The rows of one request, what it spent, and how its steps hang together."""

    __slots__ = (
        "batches",
        "edges",
        "end",
        "first_output",
        "notes",
        "order",
        "outputs",
        "rows",
        "spent",
        "start",
    )

    def __init__(self, start: float) -> None:
        self.start = start
        self.end = start
        self.first_output: float | None = None
        self.rows: list[Row] = []
        self.spent: list[tuple[str, str, float]] = []  # (step, unit, amount)
        self.batches: list[tuple[str, int, str]] = []  # (step, items in its batch, why the batch left)
        self.edges: Mapping[str, tuple[str, ...]] = _NONE  # step -> steps whose results it uses
        self.order: Mapping[str, tuple[str, ...]] = _NONE  # step -> steps that the plan runs before it
        self.outputs: tuple[str, ...] = ()
        self.notes: dict[str, str] = {}

    def add(self, step: str, cause: str, start: float, end: float) -> None:
        """Record that `cause` had `step` from `start` to `end`."""
        self.rows.append((step, cause, start, end))

    def spend(self, step: str, unit: str, amount: float) -> None:
        """Book a resource: core_seconds, bytes, input_tokens, cached_tokens, output_tokens, cents ..."""
        self.spent.append((step, unit, amount))
