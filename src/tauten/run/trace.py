"""Where the time of one request went: rows written while it runs, read afterwards (by `attribution`).

A row is a plain tuple ``(step, cause, start, end)`` of monotonic seconds; appending one is all that the
hot path pays. A row with the cause `VISIT` spans a step's whole stay; the others lie inside it and say
why. Nothing here reads a clock.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tauten.run.usage.call import Call

Row = tuple[str, str, float, float]
"""(step, cause, start, end); a step that runs once per member of a map is called ``name[3]``."""


class Invocation(NamedTuple):
    """One thing that a step asked of a place where it may have had to wait; instants in monotonic seconds."""

    step: str  # its visit
    place: str  # the label of a deployment or a crew
    asked: float
    started: float
    ended: float
    back: float  # when the step had it
    weight: float = 1.0  # of the item, in the backend's unit; of a stream, tokens of its prompt
    group: Any = None  # items of one may share a batch
    size: int = 1  # of its batch
    reason: str = ""  # why that left; empty where nothing is batched
    first: float = 0.0  # of a stream: when its first increment was made
    tokens: float = 0.0  # that it gave
    cached: float = 0.0  # of its prompt's tokens
    core_s: float = 0.0  # of the processor, where the engine is a process that was looked at


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
    "embed",
    "load",
    "route",
    "remote",
    "limit",
    "loop",
    "user",
    "assemble",
    "turn",
    "client",
    "slowed",
    "unattributed",
]

SOURCES: Final[dict[str, str]] = {
    **dict.fromkeys(("compute", "prefill", "tokens", "embed"), "model"),
    **dict.fromkeys(("decode", "user"), "preparation"),
    **dict.fromkeys(("transfer", "remote", "limit"), "network"),
    **dict.fromkeys(("admission", "queue", "batch_wait", "loop", "route", "assemble"), "contention"),
    **dict.fromkeys(("lookup", "load"), "io"),
    **dict.fromkeys(("turn", "client", "slowed"), "outside"),
    "unattributed": "unattributed",
}
"""The five sources that users know, the two that lie outside, and what nobody claims."""

WAITING: Final = frozenset(
    {"admission", "queue", "batch_wait", "limit", "assemble", "loop", "turn", "client", "slowed"}
)
"""Causes in which nothing works for the request; working rows own an instant before these do."""


LIKENED: Final = ":likeness"
"""Behind a step's name, in notes: what became of looking for a question that means the same."""

SHARED: Final = "shared_"
"""Before a unit: spent on an earlier or another request whose computation was shared, not by this one."""

CUT: Final = "cut_answers"
"""The unit of an answer that a bound on its tokens ended."""

_OF_THE_ANSWER: Final = frozenset({CUT})  # units that say what an answer is, not what it took
_SAID: Final = frozenset({"output_tokens", f"{SHARED}output_tokens", CUT})  # of who speaks, in this order


def as_shared(unit: str) -> str:
    """How a unit is booked by who gets what others spent it on; empty for what does not concern him."""
    if unit.endswith("_tokens"):
        return f"{SHARED}{unit.removeprefix(SHARED)}"
    return unit if unit in _OF_THE_ANSWER else ""


_NONE: Final[Mapping[str, tuple[str, ...]]] = {}  # one for all traces without a graph; nobody writes to it
_NO_KINDS: Final[Mapping[str, str]] = {}  # likewise


class Trace:
    """The rows of one request, what it spent, and how its steps hang together."""

    __slots__ = (
        "calls",
        "edges",
        "end",
        "first_output",
        "kinds",
        "notes",
        "order",
        "outputs",
        "provider_calls",
        "routes",
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
        self.calls: list[tuple[Any, ...]] = []  # the fields of an `Invocation`, in the order they came back
        self.provider_calls: list[Call] = []  # every attempt at every provider, as it ended
        self.edges: Mapping[str, tuple[str, ...]] = _NONE  # step -> steps whose results it uses
        self.order: Mapping[str, tuple[str, ...]] = _NONE  # step -> steps that the plan runs before it
        self.outputs: tuple[str, ...] = ()
        self.notes: dict[str, str] = {}
        self.kinds: Mapping[str, str] = (
            _NO_KINDS  # of steps that worked for nothing but to verify: for the books
        )
        self.routes: tuple[Any, ...] = ()  # a `Decision` of each choice that a policy made

    @property
    def booked(self) -> bool:
        """Whether its request is in the books already: calls that end from now on are booked one by one."""
        return self.provider_calls.__class__ is not list

    def add(self, step: str, cause: str, start: float, end: float) -> None:
        """Record that `cause` had `step` from `start` to `end`."""
        self.rows.append((step, cause, start, end))

    @property
    def cut(self) -> bool:
        """Whether a bound ended the answer: that of the step that gives the result, or of the one that spoke last.

        A word that a step before them asked a model for, and that ended at its bound, cuts no answer.
        """
        said = [(step.partition("[")[0], unit) for step, unit, _ in self.spent if unit in _SAID]
        if any(unit == CUT and step in self.outputs for step, unit in said):
            return True
        return bool(said) and said[-1][1] == CUT

    @property
    def invocations(self) -> list[Invocation]:
        """What its steps asked of deployments and crews."""
        return [Invocation(*call) for call in self.calls]

    @property
    def batches(self) -> list[tuple[str, int, str]]:
        """(step, items in its batch, why the batch left) of each item that was batched."""
        return [(each.step, each.size, each.reason) for each in self.invocations if each.reason]

    def spend(self, step: str, unit: str, amount: float) -> None:
        """Book a resource: core_seconds, bytes, input_tokens, cached_tokens, output_tokens, cents ..."""
        self.spent.append((step, unit, amount))
