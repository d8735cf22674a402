"""What a run showed, and what a whole bench found: its figures as one document."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tauten.describe.slo import Slo
from tauten.improve.load.figures import (
    Goodput,
    Lag,
    Part,
    Steady,
    Times,
    answered_per_s,
    budget_s,
    goodput,
    histogram,
    independent,
    judged,
    lag_of,
    ms,
    parts,
    steady,
    times,
    tokens_per_s,
)
from tauten.improve.load.meter import Costs
from tauten.improve.load.samples import Samples
from tauten.improve.load.schedule import Load
from tauten.improve.load.verdict import EXIT_CODES, WORST_FIRST, Answer, verdict
from tauten.statistics import percentile

SCHEMA: Final = "tauten.bench/1"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How the measured requests ended. `lost` are among the failed and timed out: taken, never answered.
    `zombies` still ran when nobody waited for them; None where the target cannot tell."""

    sent: int
    ok: int
    failed: int
    refused: int
    timed_out: int
    lost: int
    zombies: int | None = None


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """Requests before the measured window, left out of every figure but this."""

    n: int
    failed: int = 0
    p50_ms: float | None = None
    max_ms: float | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One target under one load. All times but `service` count from when a request was due."""

    plan: str
    rate_per_s: float
    clients: int
    rounds: int
    window_s: float
    requests: Counts
    warm_up: WarmUp
    latency: Times | None
    first_output: Times | None
    gap: Times | None
    service: Times | None
    lag: Lag | None
    goodput: Goodput
    answered_per_s: float
    tokens_per_s: float | None
    parts: list[Part]
    steady: Steady
    independent: float
    distinct_inputs: int
    costs: Costs
    errors: dict[str, int]
    stopped_early: bool
    answer: Answer
    why: list[str]
    histogram_ms: dict[str, Any]
    samples: dict[str, list[Any]]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.answer]


def result(
    samples: Samples,
    load: Load,
    slo: Slo,
    *,
    plan: str = "",
    costs: Costs | None = None,
    shared_loop: bool = False,
    rounds: int = 1,
    max_errors: float = 0.0,
    timeout_s: float = math.inf,
) -> Run:
    """Figures and verdict of a run; `max_errors` is the share of failures allowed where there is no SLO, and
    `timeout_s` when a request was given up."""
    costs = costs or Costs()
    open_loop = load.clients == 0
    latencies = [sample.latency for sample in samples.measured]
    lag = lag_of(samples, latencies, shared_loop, budget_s(slo, timeout_s)) if open_loop else None
    stationary = load.arrivals.kind not in ("bursts", "recorded") and rounds == 1
    state = steady(samples, stationary=stationary and open_loop)
    tested = parts(samples, slo) if open_loop else []
    answer, why = verdict(samples, lag, costs, tested, state, max_errors)
    streamed = any(sample.first is not None for sample in samples.measured)
    good = [sample for sample in samples.measured if sample.good]
    return Run(
        plan=plan,
        rate_per_s=load.rate_per_s or len(samples.measured) / max(samples.window_s, 1e-9),
        clients=load.clients,
        rounds=rounds,
        window_s=samples.window_s,
        requests=_counts(samples),
        warm_up=_warm_up(samples),
        latency=times(latencies),
        first_output=times([sample.first_output for sample in samples.measured]) if streamed else None,
        gap=times(samples.gaps),
        service=times([sample.service for sample in good]),
        lag=lag,
        goodput=goodput(samples, slo),
        answered_per_s=answered_per_s(samples),
        tokens_per_s=tokens_per_s(samples),
        parts=tested,
        steady=state,
        independent=independent(samples),
        distinct_inputs=len({sample.item for sample in samples.measured}),
        costs=costs,
        errors=dict(samples.errors.most_common(20)),
        stopped_early=samples.stopped_early,
        answer=answer,
        why=why,
        histogram_ms=_buckets(latencies),
        samples=_columns(samples),
    )


def _counts(samples: Samples) -> Counts:
    return Counts(
        sent=len(samples.measured),
        ok=samples.count("ok"),
        failed=samples.count("failed"),
        refused=samples.count("refused"),
        timed_out=samples.count("timed_out"),
        lost=sum(sample.lost for sample in samples.measured),
        zombies=samples.zombies,
    )


def _warm_up(samples: Samples) -> WarmUp:
    ended = [sample.end - sample.due for sample in samples.warm_up if sample.good]
    return WarmUp(
        n=len(samples.warm_up),
        failed=len(samples.warm_up) - len(ended),
        p50_ms=ms(percentile(ended, 0.5)) if ended else None,
        max_ms=ms(max(ended)) if ended else None,
    )


def worst(runs: Sequence[Run]) -> Run:
    """The run with the worst answer."""
    return min(runs, key=lambda run: WORST_FIRST.index(run.answer))


# -- for programs --------------------------------------------------------------------------------------------


def _buckets(values: Sequence[float]) -> dict[str, Any]:
    counted = histogram([value * 1e3 for value in values])
    return {
        "relative_error": counted.relative_error,
        "zeros": counted.zeros,
        "endless": sum(not math.isfinite(value) for value in values),
        "buckets": {str(place): count for place, count in sorted(counted.buckets.items())},
    }


def _columns(samples: Samples) -> dict[str, list[Any]]:
    """The raw samples by column: milliseconds from the start of the window, to the microsecond."""
    every = samples.measured
    return {
        "item": [sample.item for sample in every],
        "due_ms": [ms(sample.due) for sample in every],
        "sent_ms": [ms(sample.sent) for sample in every],
        "first_ms": [None if sample.first is None else ms(sample.first) for sample in every],
        "end_ms": [ms(sample.end) for sample in every],
        "outcome": [sample.outcome for sample in every],
    }


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile of two plans on the same schedules: b minus a, with a 95 % interval over rounds."""

    q: float
    a_ms: float | None
    b_ms: float | None
    diff_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None

    @property
    def significant(self) -> bool:
        return self.low_ms is not None and self.high_ms is not None and not self.low_ms <= 0 <= self.high_ms


class Bench(msgspec.Struct, kw_only=True):
    """Everything that one bench found; `document` is its JSON."""

    target: str
    api: str
    machine: str
    load: Load
    slo: Slo
    runs: list[Run]
    comparison: list[Comparison] = []
    search: Any = None
    answer: Answer = "measured"
    why: list[str] = []

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.answer]

    @property
    def not_judged(self) -> list[str]:
        """Limits of the SLO that a load cannot see."""
        times_of = {name for limits in judged(self.slo).values() for name in limits}
        return [name for name in self.slo.limits() if name not in times_of]

    def document(self) -> dict[str, Any]:
        """Plain values under schema `tauten.bench/1`."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "api": self.api,
            "machine": self.machine,
            "loop": "closed" if self.load.clients else "open",
            "load": msgspec.to_builtins(self.load),
            "slo": self.slo.limits(),
            "not_judged": self.not_judged,
            "runs": [
                {**msgspec.to_builtins(run), "goodput_share": run.goodput.share, "exit_code": run.exit_code}
                for run in self.runs
            ],
            "comparison": [
                {**msgspec.to_builtins(each), "significant": each.significant} for each in self.comparison
            ],
            "search": None if self.search is None else msgspec.to_builtins(self.search),
            "answer": self.answer,
            "why": self.why,
            "exit_code": self.exit_code,
        }
