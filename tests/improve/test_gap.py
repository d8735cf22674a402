"""What still takes time is told of the request that the limit means, on its path, waiting included."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from simulate.kit_desk import FIRST_MS, HEAR_MS, NAIVE, OVERLAP, TOKEN_MS, TOKENS, desk, learned
from tauten.describe.slo import Slo
from tauten.improve.load.figures import quantile_of
from tauten.improve.optimizer.gap import ENGINE, gap_of, rows_of, slow_request, worst_limit
from tauten.improve.optimizer.pricing import Pricer
from tauten.improve.optimizer.search import Figures, Tried
from tauten.improve.simulate.machine import Shared
from tauten.run.attribution import Segment

ROOMY = Shared(cores=64)


def refused(change: str, why: str) -> Tried:
    return Tried("batch", change, "equivalent", False, why)


def test_rows_are_steps_with_their_waits_and_their_last_reason() -> None:
    segments = [
        Segment(0.0, 0.001, "", "admission"),
        Segment(0.001, 0.05, "look[0]", "queue"),
        Segment(0.05, 0.1, "look[0]", "compute"),
        Segment(0.1, 0.2, "look[1]", "compute"),
        Segment(0.2, 0.2004, "find", "user"),
    ]
    tried = [
        refused("look on 1 thread", "loses 3 %"),
        refused("look.read in batches of 2", "too few to share"),
    ]
    rows = rows_of(segments, tried)
    assert [(row.step, row.why) for row in rows] == [("look", "too few to share"), (ENGINE, "")]
    assert (rows[0].ms, rows[0].waits_ms) == (pytest.approx(199.0), pytest.approx(49.0))


def test_another_step_whose_name_begins_so_is_no_reason() -> None:
    rows = rows_of([Segment(0.0, 0.1, "look", "compute")], [refused("looker on 2 threads", "loses 3 %")])
    assert [(row.step, row.why) for row in rows] == [("look", "")]


def test_the_limit_that_is_furthest_away_counts() -> None:
    slo = Slo(p50_ms=100.0, p95_ms=200.0, memory_bytes=10)
    assert worst_limit(slo, Figures({"p50_ms": 150.0, "p95_ms": 220.0, "memory_bytes": 1e9})) == "p50_ms"
    assert worst_limit(slo, Figures({"p50_ms": 90.0, "p95_ms": 199.0})) == "p95_ms"
    assert worst_limit(Slo(memory_bytes=10), Figures({})) == "p95_ms"


@pytest.mark.parametrize("what", ["p50_ms", "p95_ms", "first_output_ms"])
def test_the_request_at_the_quantile_is_taken(what: str) -> None:
    pricer = Pricer(desk, learned(NAIVE), ROOMY, 4.0)
    trace = slow_request(pricer, NAIVE, what)
    assert trace is not None
    done = pricer.simulate(NAIVE, 4.0).done
    every = sorted(each.first_s if what == "first_output_ms" else each.seconds for each in done)
    assert trace.first_output is not None
    took = (trace.first_output if what == "first_output_ms" else trace.end) - trace.start
    assert took in every
    share = sum(each <= took for each in every) / len(every)
    assert share == pytest.approx(
        quantile_of(what), abs=1.0 / len(every) + 0.06
    )  # equal requests fall together


def test_a_step_that_runs_beside_the_path_is_not_in_the_way() -> None:
    pricer = Pricer(desk, learned(NAIVE), ROOMY, 0.01)
    slo = Slo(p95_ms=100.0)
    naive = gap_of(pricer, NAIVE, slo, pricer(NAIVE), [])
    beside = gap_of(pricer, OVERLAP, slo, pricer(OVERLAP), [])
    assert naive.what == beside.what == "p95_ms"
    told = [{row.step: row.ms for row in gap.rows} for gap in (naive, beside)]
    assert told[0]["hear"] == pytest.approx(HEAR_MS, abs=6.0)
    assert told[0]["look"] > 30.0
    assert told[1].get("look", 0.0) < told[0]["look"]
    assert told[1]["tell"] == pytest.approx(FIRST_MS + TOKENS * TOKEN_MS, rel=0.1)
    for gap, plan in ((naive, NAIVE), (beside, OVERLAP)):
        p95_ms = pricer(plan).values["p95_ms"]
        assert sum(row.ms for row in gap.rows) == pytest.approx(p95_ms, rel=0.05)


def test_waiting_under_load_is_told_as_waiting() -> None:
    library = learned(NAIVE)
    calm, busy = Pricer(desk, library, ROOMY, 0.01), Pricer(desk, library, ROOMY, 9.0)
    slo = Slo(p95_ms=100.0)
    quiet, crowd = (gap_of(each, NAIVE, slo, Figures({}), []) for each in (calm, busy))
    waits = [sum(row.waits_ms for row in gap.rows) for gap in (quiet, crowd)]
    assert waits[0] < 20.0 < waits[1]


def test_where_nobody_is_answered_there_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    pricer = Pricer(desk, learned(NAIVE), ROOMY, 40.0)
    refusing = Slo(p95_ms=1.0)  # no request could be in time
    simulate = pricer.simulate
    monkeypatch.setattr(
        pricer, "simulate", lambda plan, rate, **more: simulate(plan, rate, slo=refusing, **more)
    )
    found = gap_of(pricer, NAIVE, Slo(p95_ms=100.0), Figures({}), [])
    answered = [each for each in pricer.simulate(NAIVE, 40.0).done if not each.error]
    assert bool(found.rows) == bool(answered)
