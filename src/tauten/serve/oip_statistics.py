"""Counts and times of each model, as Triton's statistics have them, from the traces of finished requests.

What is counted: `success`, `fail` and `cancel` are whole requests; `queue` is the time that nothing worked for
one, `compute_infer` its models and stages, `compute_input` and `compute_output` the coding of its tensors and
payloads. An execution is one run of a model: several requests may share it, each by its share of the rows, so
that shares add up to runs. A workflow of several models counts one execution a request.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tauten.errors import Cancelled
from tauten.run.attribution import attribute
from tauten.run.trace import VISIT, Trace
from tauten.serve.oip_models import VERSION

if TYPE_CHECKING:
    from tauten.serve.door import Call
    from tauten.serve.exchange import Exchange
    from tauten.serve.service import Service

PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
_PART = {
    **dict.fromkeys(("admission", "queue", "batch_wait", "limit"), "queue"),
    **dict.fromkeys(("decode", "transfer", "lookup", "load"), "compute_input"),
    **dict.fromkeys(("compute", "prefill", "tokens", "remote", "user"), "compute_infer"),
}
CODING_IN, CODING_OUT = "input_seconds", "output_seconds"  # what a trace's `spent` says of its tensors
_SIMPLE_ROWS = 12  # rows of a request of one step; beyond that who owns an instant has to be worked out


class Duration:
    """How often, and how long in sum."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0.0
        self.seconds = 0.0

    def add(self, seconds: float, count: float = 1.0) -> None:
        self.count += count
        self.seconds += seconds

    def shown(self) -> dict[str, int]:
        return {"count": round(self.count), "ns": round(self.seconds * 1e9)}


class ModelStatistics:
    """What one model has done since the server began."""

    def __init__(self) -> None:
        self.outcomes = {word: Duration() for word in ("success", "fail", "cancel")}
        self.parts = {word: Duration() for word in PARTS}
        self.causes: dict[str, Duration] = defaultdict(Duration)
        self.batches: dict[int, dict[str, Duration]] = {}
        self.items = 0.0
        self.executions = 0.0
        self.last_ms = 0

    def add(self, trace: Trace, outcome: str) -> None:
        """Count one finished request."""
        wall = trace.end - trace.start
        self.outcomes[outcome].add(wall)
        if outcome != "success":
            return
        self.last_ms = time.time_ns() // 1_000_000
        owned = _owned(trace)
        for cause, seconds in owned.items():
            self.causes[cause].add(seconds)
        parts = {part: sum(owned[cause] for cause in owned if _PART.get(cause) == part) for part in PARTS}
        parts["compute_input"] += _spent(trace, CODING_IN)
        parts["compute_output"] += _spent(trace, CODING_OUT)
        rows, share = _execution(trace, owned)
        if _spent(trace, "rows"):
            parts["compute_infer"] -= owned.get("user", 0.0)  # of a model alone: our code around it
        for part, seconds in parts.items():
            self.parts[part].add(seconds)
        self.items += rows
        self.executions += share
        size = max(1, round(rows / share))
        batch = self.batches.setdefault(size, {part: Duration() for part in PARTS[1:]})
        for part in ("compute_input", "compute_output"):
            batch[part].add(parts[part], share)
        batch["compute_infer"].add(parts["compute_infer"] * share, share)


class Statistics:
    """Of every service of a site; an observer of it."""

    def __init__(self) -> None:
        self._of: dict[str, ModelStatistics] = defaultdict(ModelStatistics)

    def of(self, service: Service) -> ModelStatistics:
        return self._of[service.name]

    def finished(
        self, exchange: Exchange, call: Call | None, error: BaseException | None, seconds: float
    ) -> None:
        if call is None or call.service is None or call.request is None:
            return
        request = call.request
        failure = error or call.error or request.failure
        if exchange.left or isinstance(failure, Cancelled):
            outcome = "cancel"
        else:
            outcome = "success" if failure is None else "fail"
        self._of[call.service.name].add(request.trace, outcome)

    def shown(self, service: Service) -> dict[str, Any]:
        """One entry of ``model_stats``, with ours beside Triton's."""
        found = self._of[service.name]
        outcomes = {word: duration.shown() for word, duration in found.outcomes.items()}
        parts = {word: duration.shown() for word, duration in found.parts.items()}
        nothing = {"count": 0, "ns": 0}
        return {
            "name": service.name,
            "version": VERSION,
            "last_inference": found.last_ms,
            "inference_count": round(found.items),
            "execution_count": round(found.executions),
            "inference_stats": {
                "success": outcomes["success"],
                "fail": outcomes["fail"],
                **parts,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "response_stats": {},
            "batch_stats": [
                {"batch_size": size, **{part: each.shown() for part, each in batch.items()}}
                for size, batch in sorted(found.batches.items())
            ],
            "memory_usage": [],
            "tauten": {
                "cancel": outcomes["cancel"],
                "causes": {cause: each.shown() for cause, each in sorted(found.causes.items())},
            },
        }


def _owned(trace: Trace) -> Mapping[str, float]:
    """Seconds by cause; of a request of one step its rows follow one another and need no working out."""
    owned: dict[str, float] = defaultdict(float)
    visits = sum(row[1] == VISIT for row in trace.rows)
    if visits > 1 or len(trace.rows) > _SIMPLE_ROWS:
        for (_, cause), seconds in attribute(trace).exclusive().items():
            owned[cause] += seconds
        return owned
    user = (0.0, 0.0)
    for _, cause, start, end in trace.rows:
        if cause == "user":
            user = (start, end)
        elif cause != VISIT:
            owned[cause] += end - start
    if user[1] > user[0]:  # what nothing inside claims
        inside = sum(
            end - start
            for _, cause, start, end in trace.rows
            if cause not in (VISIT, "user") and start >= user[0] and end <= user[1]
        )
        owned["user"] += max(0.0, user[1] - user[0] - inside)
    return owned


def _execution(trace: Trace, owned: Mapping[str, float]) -> tuple[float, float]:
    """(rows of the request, its share of the model's run): all of it where several models ran."""
    rows = _spent(trace, "rows")
    busy = [amount for _, unit, amount in trace.spent if unit == "replica_seconds"]
    run_s = owned.get("compute", 0.0)
    if not rows or not busy or not run_s > 0:
        return rows or 1.0, 1.0
    return rows, min(max(sum(busy) / run_s, 1e-6), 1.0)


def _spent(trace: Trace, unit: str) -> float:
    return sum(amount for _, each, amount in trace.spent if each == unit)
