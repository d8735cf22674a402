"""What a run showed, and what may be said of it: met, missed, cannot conclude, or void."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from tauten.describe.slo import Slo
from tauten.improve.load.figures import (
    MOST_GENERATOR_CORES,
    Goodput,
    Part,
    Steady,
    Times,
    answered_per_s,
    goodput,
    histogram,
    independent,
    judged,
    lag_limit_s,
    ms,
    parts,
    steady,
    times,
)
from tauten.improve.load.meter import Costs
from tauten.improve.load.samples import Samples
from tauten.improve.load.schedule import Load
from tauten.statistics import percentile

SCHEMA: Final = "tauten.bench/1"

LIMITS_LONG: Final = 5  # a run of 5 limits shows an overload of 20 %; of less, the slopes of a longer one

Answer = Literal["met", "missed", "cannot conclude", "void", "measured", "failed"]
EXIT_CODES: Final[dict[Answer, int]] = {
    "met": 0,
    "measured": 0,
    "missed": 1,
    "void": 3,  # this machine could not generate the load
    "cannot conclude": 4,
    "failed": 5,
}
WORST_FIRST: Final[tuple[Answer, ...]] = (
    "void",
    "failed",
    "missed",
    "cannot conclude",
    "met",
    "measured",
)


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


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How late requests were sent. On a shared loop the lag is the target's own doing as well."""

    p99_ms: float
    max_ms: float
    limit_ms: float | None
    shared_loop: bool


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
) -> Run:
    """Figures and verdict of a run; `max_errors` is the share of failures allowed where there is no SLO."""
    costs = costs or Costs()
    open_loop = load.clients == 0
    latencies = [sample.latency for sample in samples.measured]
    lag = _lag(samples, latencies, shared_loop) if open_loop else None
    stationary = load.arrivals.kind not in ("bursts", "recorded") and rounds == 1
    state = steady(samples, stationary=stationary and open_loop)
    tested = parts(samples, slo) if open_loop else []
    answer, why = _verdict(samples, lag, costs, tested, state, max_errors)
    streamed = any(sample.first is not None for sample in samples.measured)
    good = [sample for sample in samples.measured if sample.good]
    tokens = sum(sample.tokens for sample in good)
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
        tokens_per_s=tokens / max(samples.window_s, 1e-9) if tokens else None,
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


def _lag(samples: Samples, latencies: Sequence[float], shared_loop: bool) -> Lag | None:
    lags = samples.lags()
    if not lags:
        return None
    return Lag(
        p99_ms=round(percentile(lags, 0.99) * 1e3, 6),
        max_ms=round(max(lags) * 1e3, 6),
        limit_ms=ms(lag_limit_s(latencies)),
        shared_loop=shared_loop,
    )


# -- the verdict ---------------------------------------------------------------------------------------------


def _verdict(
    samples: Samples,
    lag: Lag | None,
    costs: Costs,
    tested: Sequence[Part],
    state: Steady,
    max_errors: float,
) -> tuple[Answer, list[str]]:
    if void := _void(lag, costs):
        return "void", void
    if not tested:
        return _without_slo(samples, max_errors)
    missed = [_missed(part) for part in tested if part.proof == "missed"]
    if state.saturated:
        missed.append("saturated: requests in flight and latency grew to the end of the run")
    if missed:
        return "missed", missed
    open_parts = [part for part in tested if part.proof == "cannot conclude"]
    if open_parts:
        return "cannot conclude", [_unsettled(part) for part in open_parts]
    longest_s = max(limit for part in tested for limit in part.limits.values()) / 1e3
    if samples.window_s < LIMITS_LONG * longest_s:
        return "cannot conclude", [
            f"the run lasted {samples.window_s:.3g} s, and a queue that grows shows after some limits of "
            f"{longest_s:g} s each: run for {LIMITS_LONG * longest_s:.3g} s or longer"
        ]
    return "met", [
        f"{_name(part)}: {part.misses} of {part.n} missed, {part.allowed} allowed" for part in tested
    ]


def _void(lag: Lag | None, costs: Costs) -> list[str]:
    """Why the run says nothing about the target: the generator itself was late, or too busy."""
    why = []
    if lag is not None and not lag.shared_loop and lag.limit_ms is not None and lag.p99_ms > lag.limit_ms:
        why.append(
            f"requests were sent late: p99 of the lag is {lag.p99_ms:.2f} ms, the limit {lag.limit_ms:.2f} ms "
            "(1 % of the median latency, at least 1 ms); free this machine, or generate from another"
        )
    cores = costs.generator_cores
    if lag is not None and cores is not None and cores > MOST_GENERATOR_CORES:
        why.append(
            f"the generator used {cores:.2f} of its core, the limit is {MOST_GENERATOR_CORES:g}; "
            "ask for a lower rate, or generate from several processes"
        )
    return why


def _without_slo(samples: Samples, max_errors: float) -> tuple[Answer, list[str]]:
    bad = sum(not sample.good for sample in samples.measured)
    if bad > max_errors * len(samples.measured):
        return "failed", [f"{bad} of {len(samples.measured)} requests failed"]
    return "measured", ["no SLO to hold it against"]


def _name(part: Part) -> str:
    return f"p{part.q * 100:g}"


def _missed(part: Part) -> str:
    return (
        f"{_name(part)}: {part.misses} of {part.n} requests missed, {max(part.allowed, 0)} would be allowed"
    )


def _unsettled(part: Part) -> str:
    if part.needed is None:
        return f"{_name(part)}: {part.misses} of {part.n} missed, which is on the line: no number of requests settles it"
    return f"{_name(part)}: {part.misses} of {part.n} missed; n >= {part.needed} requests would settle it"


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
