"""Counts and times of each model, as Triton's statistics have them, from the traces of finished requests.

What is counted: `success`, `fail` and `cancel` are whole requests; `queue` is the time that nothing worked for
one, `compute_infer` its models and stages, `compute_input` and `compute_output` the coding of its tensors and
payloads. An execution is one run of a model: several requests may share it, each by its share of the rows, so
that shares add up to runs. A workflow of several models counts one execution a request.

Callers choose how many rows they send: of the sizes of runs the first `SIZES` that come are told as they are,
others as the next power of two. Counts and times stay whole.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tauten.errors import Cancelled, Overloaded, TautenError
from tauten.run.attribution import exclusive
from tauten.run.trace import VISIT, Trace
from tauten.serve.oip.models import VERSION

if TYPE_CHECKING:
    from tauten.serve.door import Call
    from tauten.serve.exchange import Exchange
    from tauten.serve.oip.express import Rider
    from tauten.serve.service import Service

PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
_QUEUE, _INPUT, _INFER, _OUTPUT, _NO_PART = range(5)
_PART = {
    **dict.fromkeys(("admission", "queue", "batch_wait", "limit"), _QUEUE),
    **dict.fromkeys(("decode", "transfer", "lookup", "embed", "load"), _INPUT),
    **dict.fromkeys(("compute", "prefill", "tokens", "remote", "user"), _INFER),
}
CODING_IN, CODING_OUT = "input_seconds", "output_seconds"  # what a trace's `spent` says of its tensors
TOGETHER = 512  # rows of finished requests are counted at a time: a quarter of a millisecond
SIZES = 256  # of a model's runs, that are told as they are: some ten kilobytes
RIDERS = 64  # or requests that ran in no task: what is kept longer is in no cache any more
_HARD = 16  # times what a simple row counts: 27 such requests at once held up the loop for 6 ms
_SIMPLE_ROWS = 12  # rows of a request of one step; beyond that who owns an instant has to be worked out


Sum = list[float]
"""How often, and seconds in all."""


def _shown(count: float, seconds: float) -> dict[str, int]:
    return {"count": round(count), "ns": round(seconds * 1e9)}


class ModelStatistics:
    """What one model has done since the server began."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Sum] = {word: [0.0, 0.0] for word in ("success", "fail", "cancel")}
        self.seconds = [0.0] * len(PARTS)  # of successful requests, by part
        self.causes: dict[str, Sum] = {}
        self.batches: dict[int, list[float]] = {}  # size: runs, seconds of input, infer and output
        self.items = 0.0
        self.executions = 0.0
        self.last_s = 0.0  # on the wall's clock
        self._rides: list[list[Rider]] = []  # not counted yet
        self._riders = 0  # in these
        self._new: list[Trace] = []  # of successful requests, not counted yet
        self._rows = 0  # of these

    def add(self, trace: Trace, outcome: str) -> None:
        """Count one finished request."""
        whole = self.outcomes[outcome]
        whole[0] += 1
        whole[1] += trace.end - trace.start
        if outcome == "success":
            self.last_s = time.time()
            self._new.append(trace)
            rows = len(trace.rows)
            self._rows += rows if rows <= _SIMPLE_ROWS else rows * _HARD
            if self._rows >= TOGETHER:
                self.count()

    def answered(self, riders: list[Rider]) -> None:
        """Count some that were one item of a batch and nothing else: with others, and without a trace."""
        self._rides.append(riders)
        self._riders += len(riders)
        if self._riders >= RIDERS:
            self._count_rides()

    def _count_rides(self) -> None:
        """The same as by their traces, summed up by their fields."""
        rides, self._rides, self._riders = self._rides, [], 0
        if not rides:
            return
        self.last_s = time.time() - (time.monotonic() - rides[-1][0].end)
        sums = dict.fromkeys(("loop", "admission", "queue", "compute", "user"), 0.0)
        held_s, held, count = 0.0, 0, 0
        for riders in rides:
            size = len(riders)
            count += size
            if (waited_s := self._count_ride(riders, size, sums)) >= 0.0:
                held += size
                held_s += waited_s
        whole = self.outcomes["success"]
        whole[0] += count
        whole[1] += sum(sums.values()) + held_s
        for cause, seconds in sums.items():
            self._cause(cause, seconds, count)
        if held:
            self._cause("batch_wait", held_s, held)

    def _count_ride(self, riders: list[Rider], size: int, sums: dict[str, float]) -> float:
        """Count the answered riders of one ride; the seconds that they were held, or -1 where they were not."""
        ride = riders[0].ride
        assert ride is not None  # they were answered
        job = ride.job
        assert job is not None
        part = size / ride.count  # others left while it ran
        queued, started, ended = job.queued, job.started, job.ended
        run_s = ended - started
        lag_s = sum([rider.lag_s for rider in riders])
        door_s = ride.began * size - sum([rider.came for rider in riders])
        sums["loop"] += lag_s + (ride.end - ended) * size
        sums["queue" if ride.gathered else "admission"] += door_s  # who gathers waits for the model
        sums["user"] += (queued - ride.began) * size
        sums["compute"] += run_s * size
        held = job.held >= 0.0
        sums["queue"] += ((job.held if held else started) - queued) * size
        wait_s = door_s + (started - queued) * size
        input_s = ride.input_s * part
        parts = [max(0.0, wait_s - input_s), input_s, run_s, ride.output_s * part]
        self._executed(parts, ride.rows * part, _share(job.seconds * part, run_s))
        parts[_INFER] = run_s * size
        for index, part_s in enumerate(parts):
            self.seconds[index] += part_s
        return (started - job.held) * size if held else -1.0

    def _cause(self, cause: str, seconds: float, count: int = 1) -> None:
        known = self.causes.get(cause)
        if known is None:
            self.causes[cause] = [float(count), seconds]
        else:
            known[0] += count
            known[1] += seconds

    def refused(self, seconds: float) -> None:
        """Count a request for which nothing was begun."""
        whole = self.outcomes["fail"]
        whole[0] += 1
        whole[1] += seconds

    def count(self) -> None:
        """Count what has finished since it was last asked."""
        self._count_rides()
        new, self._new, self._rows = self._new, [], 0
        for trace in new:
            self._count(trace)

    def _count(self, trace: Trace) -> None:
        owned = _owned(trace)
        parts = [0.0, 0.0, 0.0, 0.0, 0.0]
        for cause, seconds in owned.items():
            self._cause(cause, seconds)
            parts[_PART.get(cause, _NO_PART)] += seconds
        rows = busy_s = 0.0
        for _, unit, amount in trace.spent:
            if unit == CODING_IN:  # before it was begun
                parts[_INPUT] += amount
                parts[_QUEUE] = max(0.0, parts[_QUEUE] - amount)
            elif unit == CODING_OUT:
                parts[_OUTPUT] += amount
            elif unit == "rows":
                rows += amount
            elif unit == "replica_seconds":
                busy_s += amount
        share = 1.0
        if rows:
            parts[_INFER] -= owned.get("user", 0.0)  # of a model alone: our code around it
            share = _share(busy_s, owned.get("compute", 0.0))
        seconds_of = self.seconds
        for index in range(_NO_PART):
            seconds_of[index] += parts[index]
        self._executed(parts, rows or 1.0, share)

    def _executed(self, parts: list[float], rows: float, share: float) -> None:
        """Count its share of a model's run, under the size of that run."""
        self.items += rows
        self.executions += share
        size = round(rows / share) or 1
        batch = self.batches.get(size)
        if batch is None:
            if len(self.batches) >= SIZES:
                size = 1 << (size - 1).bit_length()
            batch = self.batches.setdefault(size, [0.0] * 4)
        batch[0] += share
        batch[1] += parts[_INPUT]
        batch[2] += parts[_INFER] * share
        batch[3] += parts[_OUTPUT]

    def shown_parts(self) -> dict[str, dict[str, int]]:
        count = self.outcomes["success"][0]
        return {part: _shown(count, seconds) for part, seconds in zip(PARTS, self.seconds, strict=True)}

    def shown_batches(self) -> list[dict[str, Any]]:
        return [
            {
                "batch_size": size,
                **{part: _shown(runs, each) for part, each in zip(PARTS[1:], seconds, strict=True)},
            }
            for size, (runs, *seconds) in sorted(self.batches.items())
        ]


class Statistics:
    """Of every service of a site; an observer of it."""

    def __init__(self) -> None:
        self._of: dict[str, ModelStatistics] = defaultdict(ModelStatistics)

    def of(self, service: Service) -> ModelStatistics:
        return self._of[service.name]

    def finished(
        self, exchange: Exchange, call: Call | None, error: BaseException | None, seconds: float
    ) -> None:
        if call is None or call.service is None:
            return
        request = call.request
        if request is None:
            if isinstance(error, Overloaded):  # at the door, before anything was begun
                self._of[call.service.name].refused(seconds)
            return
        failure = error or call.error or request.failure
        if exchange.left or isinstance(failure, Cancelled):
            outcome = "cancel"
        else:
            outcome = "success" if failure is None else "fail"
        self._of[call.service.name].add(request.trace, outcome)

    def answered(self, riders: list[Rider]) -> None:
        """As `finished`, of some that ran in no task and went well."""
        self._of[riders[0].way.line.service.name].answered(riders)

    def turned_away(self, riders: list[Rider], error: TautenError) -> None:
        """As `finished`, of some for which nothing was begun."""
        found = self._of[riders[0].way.line.service.name]
        for rider in riders:
            found.refused(rider.seconds)

    def shown(self, service: Service) -> dict[str, Any]:
        """One entry of ``model_stats``, with ours beside Triton's."""
        found = self._of[service.name]
        found.count()
        outcomes = {word: _shown(*each) for word, each in found.outcomes.items()}
        nothing = {"count": 0, "ns": 0}
        return {
            "name": service.name,
            "version": VERSION,
            "last_inference": int(found.last_s * 1e3),
            "inference_count": round(found.items),
            "execution_count": round(found.executions),
            "inference_stats": {
                "success": outcomes["success"],
                "fail": outcomes["fail"],
                **found.shown_parts(),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "response_stats": {},
            "batch_stats": found.shown_batches(),
            "memory_usage": [],
            "tauten": {
                "cancel": outcomes["cancel"],
                "causes": {cause: _shown(*each) for cause, each in sorted(found.causes.items())},
            },
        }


def _owned(trace: Trace) -> dict[str, float]:
    """Seconds by cause; of a request of one step its rows follow one another and need no working out."""
    owned: dict[str, float] = {}
    rows = trace.rows
    if len(rows) > _SIMPLE_ROWS:
        return _worked_out(trace)
    visits, user_s, inside = 0, -1.0, 0.0
    for step, cause, start, end in rows:
        if cause == VISIT:
            visits += 1
        elif cause == "user":
            user_s = max(user_s, 0.0) + end - start
        else:
            owned[cause] = owned.get(cause, 0.0) + end - start
            if step:
                inside += end - start
    if visits > 1:
        return _worked_out(trace)
    if user_s >= 0.0:
        owned["user"] = max(0.0, user_s - inside)  # what nothing inside claims
    return owned


def _worked_out(trace: Trace) -> dict[str, float]:
    owned: dict[str, float] = {}
    for (_, cause), seconds in exclusive(trace).items():
        owned[cause] = owned.get(cause, 0.0) + seconds
    return owned


def _share(busy_s: float, run_s: float) -> float:
    """A request's part of its model's run."""
    return min(max(busy_s / run_s, 1e-6), 1.0) if busy_s > 0 and run_s > 0 else 1.0
