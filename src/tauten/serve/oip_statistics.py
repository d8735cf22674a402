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
        parts = dict.fromkeys(PARTS, 0.0)
        owned = _owned(trace)
        causes = self.causes
        for cause, seconds in owned.items():
            known = causes[cause]
            known.count += 1
            known.seconds += seconds
            if cause in _PART:
                parts[_PART[cause]] += seconds
        spent = _spent(trace)
        parts["compute_input"] += spent[CODING_IN]
        parts["compute_output"] += spent[CODING_OUT]
        if spent["rows"]:
            parts["compute_infer"] -= owned.get("user", 0.0)  # of a model alone: our code around it
        for part, seconds in parts.items():
            self.parts[part].add(seconds)
        self._executed(parts, *_execution(spent, owned.get("compute", 0.0)))

    def _executed(self, parts: dict[str, float], rows: float, share: float) -> None:
        """Count its share of a model's run, under the size of that run."""
        self.items += rows
        self.executions += share
        size = max(1, round(rows / share))
        batch = self.batches.get(size)
        if batch is None:
            batch = self.batches[size] = {part: Duration() for part in PARTS[1:]}
        batch["compute_input"].add(parts["compute_input"], share)
        batch["compute_infer"].add(parts["compute_infer"] * share, share)
        batch["compute_output"].add(parts["compute_output"], share)


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


def _owned(trace: Trace) -> dict[str, float]:
    """Seconds by cause; of a request of one step its rows follow one another and need no working out."""
    owned: dict[str, float] = {}
    visits, user, user_s, inside = 0, None, 0.0, 0.0
    for step, cause, start, end in trace.rows:
        if cause == VISIT:
            visits += 1
        elif cause == "user":
            user, user_s = step, user_s + end - start
        else:
            owned[cause] = owned.get(cause, 0.0) + end - start
            if step:
                inside += end - start
    if visits > 1 or len(trace.rows) > _SIMPLE_ROWS:
        return _worked_out(trace)
    if user is not None:
        owned["user"] = max(0.0, user_s - inside)  # what nothing inside claims
    return owned


def _worked_out(trace: Trace) -> dict[str, float]:
    owned: dict[str, float] = {}
    for (_, cause), seconds in attribute(trace).exclusive().items():
        owned[cause] = owned.get(cause, 0.0) + seconds
    return owned


def _spent(trace: Trace) -> dict[str, float]:
    """What the request's books say of its rows, its share and its coding."""
    spent = {"rows": 0.0, "replica_seconds": 0.0, CODING_IN: 0.0, CODING_OUT: 0.0}
    for _, unit, amount in trace.spent:
        if unit in spent:
            spent[unit] += amount
    return spent


def _execution(spent: Mapping[str, float], run_s: float) -> tuple[float, float]:
    """(rows of the request, its share of the model's run): all of it where several models ran."""
    rows, busy_s = spent["rows"], spent["replica_seconds"]
    if not rows or not busy_s or not run_s > 0:
        return rows or 1.0, 1.0
    return rows, min(max(busy_s / run_s, 1e-6), 1.0)
