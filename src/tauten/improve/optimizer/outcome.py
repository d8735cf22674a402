"""What an optimisation found: every change with what was foretold and what came of it, and the plans to choose from.

Plain data, so that a screen, a page, a plan file and a resumed search all read the same thing.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from tauten.describe.slo import Slo
from tauten.describe.turn import Answers
from tauten.improve.optimizer.search import Figures
from tauten.improve.quality import Verdict
from tauten.statistics import Interval

SCHEMA = "tauten.optimize/1"
ENDLESS: Final = (
    "Infinity"  # how a time that never ended stands in JSON, which has no such number (as in ProtoJSON)
)

Answer = Literal["met", "missed", "cannot conclude"]


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change that was looked at. Figures are those of the whole plan, by the names of SLO limits."""

    strategy: str
    change: str
    answers: Answers
    taken: bool
    why: str
    before: Figures | None = None  # simulated, of the plan that it would have changed
    simulated: Figures | None = None  # with it
    formula: Figures | None = None  # what a sum without queues says
    verdict: Verdict | None = None  # of lossy ones that were judged


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction with its 90 % interval, beside what was measured; in the unit of `what`."""

    of: str  # the plan
    what: str  # p50_ms, p95_ms, first_output_ms
    predicted: float
    low: float
    high: float
    measured: float


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A plan that could be chosen: what it does, simulated or measured, and what it costs."""

    name: str  # naive, best zero-effort, after overlap ..., chosen
    plan: str  # as TOML
    simulated: Figures
    measured: Figures | None = None  # at the stated rate
    alone: Figures | None = None  # measured with one request at a time
    intervals: dict[str, Interval] = {}  # of the measured figures, by their names
    quality: float | None = None  # share of right answers, where labels tell
    quality_loss: float = 0.0  # upper bound against the naive plan; 0 where answers are the same
    memory_bytes: int | None = None
    front: bool = False  # nothing else here is better in one way and no worse in all others


class Curve(msgspec.Struct, frozen=True):
    """How a plan's latency grows with the rate: (requests a second, p50 in ms, p95 in ms), simulated or measured."""

    plan: str
    simulated: bool
    points: list[tuple[float, float, float]]


class Worth(msgspec.Struct, frozen=True):
    """What one strategy is worth in the chosen plan: the figures without it."""

    strategy: str
    without: Figures


class GapRow(msgspec.Struct, frozen=True):
    """One step of what is left beyond the SLO: its time on the path of a request at the limit's quantile, in ms."""

    step: str
    ms: float
    why: str = ""  # why it could not be made shorter
    waits_ms: float = 0.0  # of it in queues, for batches and for others


class Labels(msgspec.Struct, frozen=True):
    """What the labels of a recording can prove."""

    items: int
    provable_loss: float  # the smallest quality loss that they could ever bound, if no answer got worse
    wanted_loss: float  # of the SLO
    needed: int  # items that would prove the wanted loss; 0 where these do


class Optimized(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag=SCHEMA
):
    """The whole result. `answer` says whether the chosen plan holds the SLO, as measured."""

    workflow: str
    recording: str
    machine: str
    slo: Slo
    rate_per_s: float
    seed: int
    answer: Answer
    why: list[str] = []
    chosen: str = ""  # name of the candidate
    candidates: list[Candidate] = []
    decisions: list[Decision] = []
    forecasts: list[Forecast] = []
    curves: list[Curve] = []
    ablation: list[Worth] = []
    gap: list[GapRow] = []
    gap_what: str = ""  # the limit whose quantile the gap is of: p95_ms, first_output_ms ...
    labels: Labels | None = None
    verdict: Verdict | None = None  # of the chosen plan against the naive one
    searched_s: float = 0.0
    interrupted: bool = False  # there was no time to look at everything
    made_at: str = ""  # ISO 8601, UTC
    notes: list[str] = []
    began: str = ""  # the plan that it began with, in words; empty is all defaults


def to_json(found: Optimized) -> bytes:
    """As a document of the schema `SCHEMA`. Times that never ended are the text "Infinity"."""
    return msgspec.json.format(msgspec.json.encode(_finite(msgspec.to_builtins(found))))


def from_json(data: bytes) -> Optimized:
    """What `to_json` wrote; raises msgspec.ValidationError for another document."""
    return msgspec.convert(_endless(msgspec.json.decode(data)), Optimized)


def _finite(value: Any) -> Any:
    return _each(value, lambda one: ENDLESS if one == math.inf else one)


def _endless(value: Any) -> Any:
    return _each(value, lambda one: math.inf if one == ENDLESS else one)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same document with every value in it changed."""
    if isinstance(value, dict):
        return {key: _each(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_each(inner, change) for inner in value]
    return change(value)
