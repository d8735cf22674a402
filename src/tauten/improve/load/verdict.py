"""What may be said of a run: met, missed, cannot conclude, or void."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from tauten.explain.figures import figure
from tauten.improve.load.figures import MOST_GENERATOR_CORES, Lag, Part, Steady
from tauten.improve.load.meter import Costs
from tauten.improve.load.samples import Samples

MOST_UNSENT: Final = 0.01  # of the requests: what lies beyond p99 may be missing, as with the lag
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


def verdict(
    samples: Samples,
    lag: Lag | None,
    costs: Costs,
    tested: Sequence[Part],
    state: Steady,
    max_errors: float,
) -> tuple[Answer, list[str]]:
    """The answer, and why; `max_errors` is the share of failures allowed where there is no SLO."""
    if void := _void(samples, lag, costs):
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
            f"the run lasted {figure(samples.window_s)} s, and a queue that grows shows after some limits of "
            f"{longest_s:g} s each: run for {figure(LIMITS_LONG * longest_s)} s or longer"
        ]
    return "met", [
        f"{_name(part)}: {part.misses} of {part.n} missed, {part.allowed} allowed" for part in tested
    ]


def _void(samples: Samples, lag: Lag | None, costs: Costs) -> list[str]:
    """Why the run says nothing about the target: the generator itself was late, or too busy."""
    why = []
    if lag is not None and not lag.shared_loop and lag.limit_ms is not None and lag.p99_ms > lag.limit_ms:
        why.append(
            f"requests were sent late: p99 of the lag is {lag.p99_ms:.2f} ms, the limit {lag.limit_ms:.2f} ms "
            f"({_measure(samples)}); free this machine, generate from another, or ask for a lower rate"
        )
    unsent = sum(sample.unsent for sample in samples.measured)
    if unsent > MOST_UNSENT * len(samples.measured):
        why.append(
            f"{unsent} of {len(samples.measured)} requests could not be sent: this machine had no port, file or "
            "memory left; ask for a lower rate, or raise its limits (ulimit -n)"
        )
    cores = costs.generator_cores
    if lag is not None and cores is not None and cores > MOST_GENERATOR_CORES:
        why.append(
            f"the generator used {cores:.2f} of its core, the limit is {MOST_GENERATOR_CORES:g}; "
            "ask for a lower rate, or generate from several processes"
        )
    return why


def _measure(samples: Samples) -> str:
    if 2 * samples.count("ok") < len(samples.measured):
        return "a tenth of what a request may take, since the median failed"
    return "1 % of the median latency, at least 1 ms"


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
