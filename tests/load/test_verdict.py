"""What may be said of a run: met, missed, cannot conclude, void; failures are misses in the same table."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
import random
from typing import Any

import msgspec
import pytest

from tauten.describe.slo import Slo
from tauten.improve.load.arrivals import Arrivals
from tauten.improve.load.bench import compared
from tauten.improve.load.figures import goodput, histogram, judged, lag_limit_s, times
from tauten.improve.load.meter import Costs, memory_line
from tauten.improve.load.result import SCHEMA, Bench, Run, result, worst
from tauten.improve.load.samples import Sample, Samples
from tauten.improve.load.schedule import Load
from tauten.statistics import percentile

LOAD = Load(arrivals=Arrivals(kind="constant"), rate_per_s=10.0)


def sample(
    number: int, latency_s: float, *, lag_s: float = 0.0, outcome: Any = "ok", first: Any = None
) -> Sample:
    due = number / 10.0
    shown = None if first is None else due + first
    return Sample(0, due, due + lag_s, shown, due + latency_s, outcome)


def samples(latencies: list[float], **options: Any) -> Samples:
    return Samples(len(latencies) / 10.0, [sample(n, each, **options) for n, each in enumerate(latencies)])


def judge(run: Samples, slo: str | Slo = Slo(p95_ms=100), **options: Any) -> Run:
    assert isinstance(slo, Slo)
    return result(run, LOAD, slo, **options)


def spread(n: int, over: int, *, fast: float = 0.05, slow: float = 0.5) -> list[float]:
    values = [slow] * over + [fast] * (n - over)
    random.Random(1).shuffle(values)
    return values


def test_met_missed_and_too_few() -> None:
    assert judge(samples(spread(300, 4))).answer == "met"
    assert judge(samples(spread(300, 40))).answer == "missed"
    few = judge(samples(spread(80, 0)))
    assert few.answer == "cannot conclude"
    assert few.parts[0].needed == 90
    assert "n >= 90" in few.why[0]
    codes = [judge(samples(spread(*counts))).exit_code for counts in ((300, 4), (300, 40), (80, 0))]
    assert codes == [0, 1, 4]


@pytest.mark.parametrize("outcome", ["failed", "refused", "timed_out"])
def test_what_was_not_answered_is_missed(outcome: str) -> None:
    run = samples(spread(300, 0))
    run.measured = [
        one._replace(outcome=outcome) if n % 5 == 0 else one for n, one in enumerate(run.measured)
    ]
    found = judge(run)
    assert found.answer == "missed"
    assert found.latency is not None
    assert found.latency.n == 300
    assert found.latency.at(0.5).ms == pytest.approx(50.0)
    assert found.latency.at(0.9).ms is None  # one in five never ended
    assert found.latency.mean_ms is None
    assert found.goodput.share == pytest.approx(0.8)
    assert getattr(found.requests, outcome) == 60


def test_a_fast_refusal_does_not_count_as_fast() -> None:
    run = samples([0.001] * 200)
    run.measured = [one._replace(outcome="refused") for one in run.measured]
    assert judge(run).answer == "missed"
    assert judge(run).goodput.good == 0


def test_all_limits_at_a_percentile_are_judged_jointly() -> None:
    """4 % miss the one limit and other 4 % the other: each would hold at p95, both together do not."""
    slo = Slo(p95_ms=100, first_output_ms=20)
    run = Samples(300.0)
    for n in range(3000):
        slow, late = n % 25 == 0, n % 25 == 1
        run.add(sample(n, 0.5 if slow else 0.05, first=0.04 if late else 0.01))
    assert judge(run, Slo(p95_ms=100)).answer == "met"
    assert judge(run, Slo(first_output_ms=20)).answer == "met"
    both = judge(run, slo)
    assert both.answer == "missed"
    assert [(part.q, part.misses) for part in both.parts] == [(0.95, 240)]
    assert both.goodput.good == 3000 - 240
    assert judged(Slo(p50_ms=1, p95_ms=2, first_output_ms=3)) == {
        0.5: {"p50_ms": 1},
        0.95: {"p95_ms": 2, "first_output_ms": 3},
    }


def test_a_median_limit_is_no_limit_on_one_request() -> None:
    run = samples([0.05] * 60 + [0.15] * 40)
    assert goodput(run, Slo(p50_ms=100, p95_ms=200)).share == 1.0
    assert goodput(run, Slo(p50_ms=100)).share == 0.6


def test_tokens_and_answers_are_counted_over_the_same_time() -> None:
    """Ten requests are due within a second, and the last of them is answered after ten: the backlog is no throughput."""
    run = Samples(1.0, [sample(n, 9.1)._replace(tokens=100) for n in range(10)])
    found = judge(run)
    assert found.answered_per_s == pytest.approx(1.0)
    assert found.tokens_per_s == pytest.approx(100.0)
    assert judge(samples([0.05] * 10)).tokens_per_s is None


def test_the_warm_up_is_left_out_of_the_reasons_too() -> None:
    run = Samples(1.0)
    run.add(sample(-1, 0.1, outcome="failed")._replace(error="HTTP 500: cold"))
    run.add(sample(1, 0.1, outcome="refused")._replace(error="HTTP 503: full"))
    assert judge(run).errors == {"HTTP 503: full": 1}
    assert run.first_error() == "HTTP 500: cold"


# -- void ----------------------------------------------------------------------------------------------------


def test_a_run_that_was_sent_late_is_void() -> None:
    found = judge(samples([0.05] * 300, lag_s=0.002))
    assert found.answer == "void"
    assert found.exit_code == 3
    assert "p99 of the lag is 2.00 ms, the limit 1.00 ms" in found.why[0]
    assert judge(samples([0.5] * 300, lag_s=0.002), Slo(p95_ms=1000)).answer == "met"  # 1 % of 500 ms is 5


def test_the_limit_of_the_lag_has_a_floor() -> None:
    assert lag_limit_s([0.5] * 10) == pytest.approx(0.005)
    assert lag_limit_s([0.002] * 10) == pytest.approx(0.001)
    assert lag_limit_s([]) == pytest.approx(0.001)
    assert math.isinf(lag_limit_s([math.inf] * 10))  # and nothing says how long one may take


def test_a_generator_that_fell_behind_knows_nothing_of_a_server_that_failed() -> None:
    """Where the median failed, a tenth of what a request may take is the most that sends may be late."""

    def failed(lag_s: float, **options: Any) -> Run:
        run = samples([0.05] * 300, lag_s=lag_s)
        run.measured = [
            one._replace(outcome="failed") if n % 3 else one for n, one in enumerate(run.measured)
        ]
        return judge(run, **options)

    behind = failed(40.0)
    assert (behind.answer, behind.exit_code) == ("void", 3)
    assert "p99 of the lag is 40000.00 ms, the limit 10.00 ms" in behind.why[0]
    assert "since the median failed" in behind.why[0]
    assert failed(0.009).answer == "missed"  # it was sent: what did not answer was the server
    assert failed(0.011).answer == "void"
    assert failed(0.011, slo=Slo(p95_ms=100, p99_ms=120)).answer == "missed"  # by the longest limit
    assert failed(0.2, slo=Slo(), timeout_s=1.0).answer == "void"
    assert failed(0.05, slo=Slo(), timeout_s=1.0).answer == "failed"


def test_requests_that_this_machine_could_not_send_void_a_run() -> None:
    def run(unsent: int) -> Run:
        found = samples([0.05] * 300)
        found.measured = [
            one._replace(outcome="failed", unsent=True) if n < unsent else one
            for n, one in enumerate(found.measured)
        ]
        return judge(found)

    assert run(3).answer == "met"
    assert run(4).answer == "void"
    assert "4 of 300 requests could not be sent" in run(4).why[0]


def test_a_shared_loop_is_late_by_its_own_doing() -> None:
    assert judge(samples([0.05] * 300, lag_s=0.02), shared_loop=True).answer == "met"


def test_a_busy_generator_voids_the_run() -> None:
    busy = judge(samples([0.05] * 300), costs=Costs(generator_cores=0.71))
    assert busy.answer == "void"
    assert "0.71 of its core" in busy.why[0]
    assert judge(samples([0.05] * 300), costs=Costs(generator_cores=0.69)).answer == "met"


def test_a_saturated_run_is_missed_however_short() -> None:
    found = judge(samples([n / 10_000 for n in range(600)]), Slo(p95_ms=1000))
    assert found.steady.saturated
    assert found.answer == "missed"
    assert "saturated" in found.why[0]


def test_a_run_of_less_than_five_limits_says_nothing() -> None:
    found = judge(samples([0.05] * 300), Slo(p95_ms=7000))
    assert found.answer == "cannot conclude"
    assert "lasted 30 s" in found.why[0]
    assert "35 s or longer" in found.why[0]
    assert judge(samples([0.05] * 300), Slo(p95_ms=5000)).answer == "met"


def test_without_an_slo_only_failures_count() -> None:
    assert judge(samples([9.0] * 10), Slo()).answer == "measured"
    run = samples([9.0] * 10)
    run.measured[0] = run.measured[0]._replace(outcome="failed")
    assert judge(run, Slo()).exit_code == 5
    assert judge(run, Slo(), max_errors=0.1).exit_code == 0


def test_a_closed_loop_is_not_judged() -> None:
    found = result(samples([9.0] * 300), Load(clients=4), Slo(p95_ms=100))
    assert found.answer == "measured"
    assert found.parts == []
    assert found.lag is None


# -- tables --------------------------------------------------------------------------------------------------


def test_percentiles_say_when_there_are_too_few() -> None:
    table = times([n / 1000 for n in range(1, 101)])
    assert table is not None
    assert table.at(0.5).ms == pytest.approx(50.0)
    assert (table.at(0.5).low_ms, table.at(0.5).high_ms) == (40.0, 61.0)
    assert table.at(0.95).enough
    assert table.at(0.99).needs == 368
    assert table.at(0.999).needs == 3688
    assert table.at(0.99).low_ms is None
    assert times([]) is None


def test_histograms_merge_within_one_per_cent() -> None:
    draw = random.Random(3)
    one, two = ([draw.lognormvariate(-3, 1) for _ in range(2000)] for _ in range(2))
    merged = histogram(one)
    merged.merge(histogram(two))
    for q in (0.5, 0.95, 0.99, 0.999):
        assert merged.quantile(q) == pytest.approx(percentile(one + two, q), rel=0.0101)


def test_two_plans_are_compared_by_round() -> None:
    draw = random.Random(1)

    def rounds(add: float) -> list[Samples]:
        return [samples([0.05 + add + draw.random() * 0.01 for _ in range(100)]) for _ in range(5)]

    better = {each.q: each for each in compared(rounds(0.0), rounds(-0.02))}
    assert all(each.significant for each in better.values())
    assert better[0.5].diff_ms == pytest.approx(-20, abs=2)
    assert not compared(rounds(0.0), rounds(0.0))[0].significant
    assert compared(rounds(0.0)[:2], rounds(0.0)[:2])[0].diff_ms is None
    failed = samples([0.1] * 10)
    failed.measured = [one._replace(outcome="failed") for one in failed.measured]
    assert compared([failed] * 3, rounds(0.0)[:3])[0].diff_ms is None


def test_memory_that_grows_is_told_from_memory_that_does_not() -> None:
    draw = random.Random(1)
    flat = memory_line([(n * 0.5, 100 + draw.gauss(0, 1)) for n in range(200)])
    leak = memory_line([(n * 0.5, 100 + n * 0.1 + draw.gauss(0, 1)) for n in range(200)])
    assert flat is not None
    assert leak is not None
    assert not flat.grows
    assert leak.grows
    assert leak.slope_mb_per_min == pytest.approx(12.0, rel=0.1)
    assert memory_line([]) is None
    assert memory_line([(n * 0.5, n) for n in range(10)]).slope_mb_per_min is None  # type: ignore[union-attr]


# -- for programs --------------------------------------------------------------------------------------------

DOCUMENT = set(
    "schema target api machine loop load slo not_judged runs comparison search answer why exit_code".split()
)
RUN = set(
    "plan rate_per_s clients rounds window_s requests warm_up latency first_output gap service lag goodput "
    "answered_per_s tokens_per_s parts steady independent distinct_inputs costs errors stopped_early answer "
    "why histogram_ms samples goodput_share exit_code".split()
)
INSIDE = {
    "requests": set("sent ok failed refused timed_out lost zombies".split()),
    "warm_up": set("n failed p50_ms max_ms".split()),
    "latency": set("n mean_ms max_ms quantiles".split()),
    "lag": set("p99_ms max_ms limit_ms shared_loop".split()),
    "goodput": set("good n per_s".split()),
    "steady": set(
        "tested saturated in_flight in_flight_per_s in_flight_low latency_ms_per_s latency_low".split()
    ),
    "costs": set("generator_cores target_cores other_cores starved memory".split()),
    "histogram_ms": set("relative_error zeros endless buckets".split()),
    "samples": set("item due_ms sent_ms first_ms end_ms outcome".split()),
}


def document(slo: Slo = Slo(p95_ms=100, cost_cents=1.0)) -> dict[str, Any]:
    run = judge(samples(spread(300, 4)), slo)
    bench = Bench(target="desk", api="workflow", machine="2 cores", load=LOAD, slo=slo, runs=[run])
    bench.answer, bench.why = run.answer, run.why
    shown: dict[str, Any] = json.loads(msgspec.json.encode(bench.document()))
    return shown


def test_the_document_keeps_its_keys() -> None:
    shown = document()
    assert shown["schema"] == SCHEMA == "tauten.bench/1"
    assert set(shown) == DOCUMENT
    (run,) = shown["runs"]
    assert set(run) == RUN
    for name, keys in INSIDE.items():
        assert set(run[name]) == keys, name
    assert set(run["parts"][0]) == set("q limits n misses allowed proof needed".split())
    assert set(run["latency"]["quantiles"][0]) == set("q ms low_ms high_ms needs".split())
    assert shown["not_judged"] == ["cost_cents"]


def test_the_document_holds_every_sample() -> None:
    run = document()["runs"][0]
    columns = run["samples"]
    assert {len(values) for values in columns.values()} == {300}
    kept = [end - due for due, end in zip(columns["due_ms"], columns["end_ms"], strict=True)]
    assert percentile(kept, 0.95) == pytest.approx(run["latency"]["quantiles"][2]["ms"])
    assert sum(run["histogram_ms"]["buckets"].values()) == 300


def test_the_worst_run_speaks_for_all() -> None:
    met, missed = judge(samples(spread(300, 4))), judge(samples(spread(300, 40)))
    void = judge(samples([0.05] * 300, lag_s=0.002))
    assert worst([met, missed]).answer == "missed"
    assert worst([missed, void, met]).answer == "void"
