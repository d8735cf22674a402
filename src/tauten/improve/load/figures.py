"""Raw samples to figures: percentiles with their intervals, misses of an SLO, the test for a steady state."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tauten.describe.slo import Slo
from tauten.improve.load.samples import Sample, Samples
from tauten.statistics import Histogram, percentile, percentile_ranks
from tauten.statistics.early_stopping import CONFIDENCE, Proof, rule
from tauten.statistics.order_statistics import effective_count, interval_needs
from tauten.statistics.percentiles import rank_of
from tauten.statistics.trend import slope_interval

QUANTILES: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
BINS: Final = 12  # of a run, for its slopes: 10 degrees of freedom, and each bin long against one request
GROWTH: Final = 0.5  # a slope counts when it makes half of the mean over the run: less is no saturation


class Quantile(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile with its 95 % interval. `ms` is None where it falls among requests that failed; the
    interval is None with fewer than `needs` requests, and its upper end too where that falls among them."""

    q: float
    ms: float | None
    low_ms: float | None = None
    high_ms: float | None = None
    needs: int = 0

    @property
    def enough(self) -> bool:
        return self.needs == 0


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """A set of times: percentiles over all of them, failures counted as endless."""

    n: int
    mean_ms: float | None
    max_ms: float | None
    quantiles: list[Quantile]

    def at(self, q: float) -> Quantile:
        return next(each for each in self.quantiles if each.q == q)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile of the SLO: all limits that stand at it, jointly."""

    q: float
    limits: dict[str, float]
    n: int
    misses: int
    allowed: int
    proof: Proof
    needed: int | None = None


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that held every limit at once; a failed one holds none."""

    good: int
    n: int
    per_s: float

    @property
    def share(self) -> float:
        return self.good / self.n if self.n else 0.0


class Steady(msgspec.Struct, frozen=True, kw_only=True):
    """Slopes over the run with 99 % intervals. Saturated: both grow, and by half of their mean or more."""

    tested: bool
    saturated: bool = False
    in_flight: float = 0.0
    in_flight_per_s: float | None = None
    in_flight_low: float | None = None
    latency_ms_per_s: float | None = None
    latency_low: float | None = None


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How late requests were sent. On a shared loop the lag is the target's own doing as well."""

    p99_ms: float
    max_ms: float
    limit_ms: float | None
    shared_loop: bool


def ms(seconds: float) -> float | None:
    """Milliseconds, to the microsecond; None for what never ended."""
    return round(seconds * 1e3, 6) if math.isfinite(seconds) else None


def times(values: Sequence[float]) -> Times | None:
    """The table of a set of times in seconds; None without any."""
    if not values:
        return None
    ordered = sorted(values)
    finite = math.isfinite(ordered[-1])
    return Times(
        n=len(ordered),
        mean_ms=ms(math.fsum(ordered) / len(ordered)) if finite else None,
        max_ms=ms(ordered[-1]),
        quantiles=[_quantile(ordered, q) for q in QUANTILES],
    )


def _quantile(ordered: Sequence[float], q: float) -> Quantile:
    n = len(ordered)
    value, ranks = ms(ordered[rank_of(n, q) - 1]), percentile_ranks(n, q)
    if ranks is None:
        return Quantile(q=q, ms=value, needs=interval_needs(q))
    low, high = (ms(ordered[rank - 1]) for rank in ranks)
    return Quantile(q=q, ms=value, low_ms=low, high_ms=high)


def histogram(values: Sequence[float]) -> Histogram:
    """Finite times in logarithmic buckets of 1 % relative error: they merge, percentiles do not."""
    return Histogram(value for value in values if math.isfinite(value) and value >= 0)


# -- the objective -------------------------------------------------------------------------------------------

Measure = Callable[[Sample], float]

_MEASURES: Final[dict[str, tuple[float, Measure]]] = {
    "p50_ms": (0.5, lambda sample: sample.latency),
    "p95_ms": (0.95, lambda sample: sample.latency),
    "p99_ms": (0.99, lambda sample: sample.latency),
    "first_output_ms": (0.95, lambda sample: sample.first_output),  # read at p95 on every screen
}


def quantile_of(limit: str) -> float:
    """The percentile, as a share, at which a limit on time stands."""
    return _MEASURES[limit][0]


def judged(slo: Slo) -> dict[float, dict[str, float]]:
    """The limits on time by the percentile at which they stand."""
    found: dict[float, dict[str, float]] = {}
    for name, limit in slo.limits().items():
        if name in _MEASURES:
            found.setdefault(_MEASURES[name][0], {})[name] = limit
    return dict(sorted(found.items()))


def misses_of(sample: Sample, limits: dict[str, float]) -> bool:
    """Whether a request misses any of these limits; one that failed misses all."""
    return any(_MEASURES[name][1](sample) * 1e3 > limit for name, limit in limits.items())


def parts(samples: Samples, slo: Slo, confidence: float = CONFIDENCE) -> list[Part]:
    """What the run proves about each percentile of the SLO."""
    found = []
    for q, limits in judged(slo).items():
        misses = sum(misses_of(sample, limits) for sample in samples.measured)
        ruling = rule(len(samples.measured), misses, q, confidence)
        found.append(
            Part(
                q=q,
                limits=limits,
                n=ruling.n,
                misses=misses,
                allowed=ruling.allowed,
                proof=ruling.proof,
                needed=ruling.needed,
            )
        )
    return found


def goodput(samples: Samples, slo: Slo) -> Goodput:
    """Requests within all limits jointly; of several limits on one time, the one for the most requests.

    With p50 < 100 and p95 < 800 ms a single request is good up to 800 ms: the median is no limit on one.
    """
    limits = {name: limit for name, limit in slo.limits().items() if name in _MEASURES}
    highest = next((name for name in ("p99_ms", "p95_ms", "p50_ms") if name in limits), None)
    chosen = {name: limits[name] for name in (highest, "first_output_ms") if name in limits}
    good = sum(sample.good and not misses_of(sample, chosen) for sample in samples.measured)
    return Goodput(good=good, n=len(samples.measured), per_s=good / _span(samples))


def answered_per_s(samples: Samples) -> float:
    """Answers a second, to the end of the last request: a backlog does not count as throughput."""
    return samples.count("ok") / _span(samples)


def tokens_per_s(samples: Samples) -> float | None:
    """Tokens of those answers a second, over the same time; None where nobody counted any."""
    tokens = sum(sample.tokens for sample in samples.measured if sample.good)
    return tokens / _span(samples) if tokens else None


def _span(samples: Samples) -> float:
    last = max((sample.end for sample in samples.measured), default=0.0)
    return max(samples.window_s, last, 1e-9)


# -- steady state --------------------------------------------------------------------------------------------


def steady(samples: Samples, *, stationary: bool = True) -> Steady:
    """Whether requests in flight and their latency both grew all through the run."""
    window, measured = samples.window_s, samples.measured
    if len(measured) < 4 * BINS or not window > 0:
        return Steady(tested=False)
    width = window / BINS
    centres = [(place + 0.5) * width for place in range(BINS)]
    flying = in_flight(samples, BINS)
    mean = math.fsum(flying) / BINS
    by_bin: list[list[float]] = [[] for _ in range(BINS)]
    for sample in measured:
        by_bin[min(BINS - 1, int(sample.due / width))].append(sample.end - sample.due)
    filled = [
        (centre, math.fsum(each) / len(each)) for centre, each in zip(centres, by_bin, strict=True) if each
    ]
    number = slope_interval(centres, flying, confidence=0.99)
    latency = slope_interval([at for at, _ in filled], [value for _, value in filled], confidence=0.99)
    if not stationary or number is None or latency is None:
        return Steady(tested=False, in_flight=mean)
    typical = math.fsum(value for _, value in filled) / len(filled)
    grows = number.low > 0 and latency.low > 0
    much = number.mid * window > GROWTH * mean and latency.mid * window > GROWTH * typical
    return Steady(
        tested=True,
        saturated=grows and much,
        in_flight=mean,
        in_flight_per_s=number.mid,
        in_flight_low=number.low,
        latency_ms_per_s=latency.mid * 1e3,
        latency_low=latency.low * 1e3,
    )


def in_flight(samples: Samples, bins: int) -> list[float]:
    """Requests due and not ended, as a mean over each of so many equal pieces of the window."""
    width = samples.window_s / bins
    total = [0.0] * bins
    for sample in [*samples.warm_up, *samples.measured]:
        first = max(0, int(sample.due / width)) if sample.due >= 0 else 0
        for place in range(first, bins):
            part = min(sample.end, (place + 1) * width) - max(sample.due, place * width)
            if part <= 0:
                break
            total[place] += part
    return [each / width for each in total]


def independent(samples: Samples) -> float:
    """How many independent requests the run is worth, for neighbours in a queue are alike."""
    values = [sample.end - sample.due for sample in samples.measured]
    return effective_count(values) if values else 0.0


def lag_limit_s(latencies: Sequence[float], budget_s: float = math.inf) -> float:
    """The most that p99 of the send lag may be: 1 % of the median latency, or 1 ms where that is more.

    The floor: an idle Linux machine wakes a process 0.1 to 1 ms late, so a hundredth of a 2 ms answer
    cannot be kept by anyone; and lag is inside the latency, where it can only make a target look worse.
    Where the median failed there is no such measure, and a tenth of what a request may take, `budget_s`,
    stands for it: sent later than that, requests come in crowds that were never asked for, and whether the
    target would have failed without them nobody knows.
    """
    usual_s = percentile(latencies, 0.5) if latencies else 0.0
    return max(0.01 * usual_s if math.isfinite(usual_s) else LAG_SHARE * budget_s, LAG_FLOOR_S)


def budget_s(slo: Slo, otherwise_s: float) -> float:
    """What a request may take: the longest limit of the SLO on time, or `otherwise_s` without one."""
    limits = [limit for each in judged(slo).values() for limit in each.values()]
    return max(limits) / 1e3 if limits else otherwise_s


def lag_of(
    samples: Samples, latencies: Sequence[float], shared_loop: bool, budget_s: float = math.inf
) -> Lag | None:
    """How late the requests of an open loop were sent; None without any."""
    lags = samples.lags()
    if not lags:
        return None
    return Lag(
        p99_ms=round(percentile(lags, 0.99) * 1e3, 6),
        max_ms=round(max(lags) * 1e3, 6),
        limit_ms=ms(lag_limit_s(latencies, budget_s)),
        shared_loop=shared_loop,
    )


LAG_FLOOR_S: Final = 0.001
LAG_SHARE: Final = 0.1  # of what a request may take: less cannot turn an answer in time into a failure
MOST_GENERATOR_CORES: Final = 0.7  # above it the generator's own queue is in the figures
