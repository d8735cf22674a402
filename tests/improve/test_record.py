"""The record of predictions: rows by who predicted, intervals from the errors, and what the formula may rule out."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from tauten.improve.optimizer.record import (
    LEDGER_FILE,
    PLAN,
    Accuracy,
    Record,
    accuracy,
    note_change,
    worth_simulating,
)
from tauten.improve.optimizer.search import Figures
from tauten.plan.hardware import Hardware
from tauten.plan.ledger import Ledger

HERE, THERE = Hardware(2, ("avx512",), 24), Hardware(16, ("avx512",), 128)


def figures(p50: float, p95: float = 0.0) -> Figures:
    return Figures({"p50_ms": p50, "p95_ms": p95 or 2.0 * p50})


def test_what_was_predicted_is_kept_beside_what_came_of_it(tmp_path: Path) -> None:
    record = Record.load(tmp_path, HERE)
    told = record.forecast(
        "naive@1", figures(100.0), Figures({"p50_ms": 110.0, "p95_ms": 190.0, "failed": 0.0})
    )
    assert [(each.what, each.predicted, each.measured) for each in told] == [
        ("p50_ms", 100.0, 110.0),
        ("p95_ms", 200.0, 190.0),
    ]
    record.keep(told, at="2026-01-01T00:00:00+00:00")
    rows = Record.load(tmp_path, HERE).ledger.rows
    assert [(row.family.strategy, row.family.hardware, row.of, row.at) for row in rows] == [
        (PLAN, str(HERE), "naive@1", "2026-01-01T00:00:00+00:00")
    ] * 2
    assert (tmp_path / LEDGER_FILE).read_text().count("\n") == 2


def test_figures_of_nothing_are_no_predictions() -> None:
    record = Record(Ledger(), HERE)
    assert record.forecast("a", Figures({"p50_ms": 0.0, "p95_ms": 5.0}), Figures({"p50_ms": 1.0})) == []


def taught(record: Record, ratio: float, count: int, **where: str) -> None:
    for number in range(count):
        predicted = 100.0 + number
        told = record.forecast("a", figures(predicted), figures(predicted * ratio))
        record.keep(told, by=where.get("by", "simulation"), strategy=where.get("strategy", PLAN))  # type: ignore[arg-type]


def test_before_ten_outcomes_an_interval_is_wide_and_then_it_is_theirs() -> None:
    record = Record(Ledger(), HERE)
    wide = record.interval("p50_ms", 100.0)
    assert (wide.low, wide.high, wide.n) == (25.0, 400.0, 0)
    taught(record, 1.1, 12)
    known = record.interval("p50_ms", 100.0)
    assert (known.low, known.high, known.n) == (pytest.approx(100.0 / 1.1), pytest.approx(110.0), 12)


def test_the_narrowest_family_with_enough_rows_speaks() -> None:
    record = Record(Ledger(), HERE)
    taught(record, 1.1, 12)
    taught(record, 2.0, 12, strategy="batch")
    taught(record, 3.0, 3, strategy="overlap")
    assert record.interval("p50_ms", 100.0, strategy="batch").high == pytest.approx(200.0)
    few = record.interval("p50_ms", 100.0, strategy="overlap")
    assert few.n == 27, "three rows say nothing: everything on this machine does"
    elsewhere = Record(record.ledger, THERE)
    assert elsewhere.interval("p50_ms", 100.0, strategy="batch").n == 0, "errors of another machine"


def test_the_formula_and_the_simulation_have_rows_of_their_own() -> None:
    record = Record(Ledger(), HERE)
    taught(record, 1.1, 12)
    taught(record, 2.5, 12, by="formula")
    assert record.interval("p50_ms", 100.0).high == pytest.approx(110.0)
    assert record.interval("p50_ms", 100.0, by="formula").high == pytest.approx(250.0)
    assert record.accuracy().typical_error == pytest.approx(0.1)
    assert record.accuracy("formula").typical_error == pytest.approx(1.5)


def test_the_intervals_of_a_long_record_hold_nine_of_ten() -> None:
    """Stated as they would be: each from the rows before it."""
    record, draws = Record(Ledger(), HERE), random.Random(7)
    for number in range(400):
        predicted = draws.uniform(50.0, 500.0)
        measured = predicted * math.exp(draws.gauss(0.05, 0.2))
        told = record.forecast(
            f"plan {number}", Figures({"p50_ms": predicted}), Figures({"p50_ms": measured})
        )
        record.keep(told, at="then")
    found = record.accuracy()
    assert found.n == 400
    assert found.typical_error == pytest.approx(0.14, abs=0.03)
    assert found.coverage is not None
    assert 0.87 <= found.coverage.mid <= 0.96
    assert found.said().startswith("by simulation: 400 predictions, half of them within 1")


def test_accuracy_of_a_run_and_of_nothing() -> None:
    record = Record(Ledger(), HERE)
    told = record.forecast("a", figures(100.0), figures(120.0))
    assert accuracy(told).typical_error == pytest.approx(0.2)
    assert accuracy([]) == Accuracy("simulation", 0, None, None)
    assert accuracy([], "formula").said() == "by formula: no prediction was measured yet"


# -- what the formula may rule out ---------------------------------------------------------------------------


BOTH = ("p50_ms", "p95_ms")


def worth(errors: Ledger, strategy: str, after: Figures) -> bool:
    return worth_simulating(figures(100.0), after, errors, strategy, BOTH)


def changes(errors: Ledger, strategy: str, count: int, said: float, came: float) -> None:
    for number in range(count):
        before = 100.0 + number
        note_change(
            errors,
            strategy,
            (figures(before), figures(before * said)),
            (figures(before), figures(before * came)),
        )


def test_before_errors_are_known_only_a_ruinous_change_is_refused() -> None:
    errors = Ledger()
    assert worth(errors, "batch", figures(130.0))
    assert worth(errors, "batch", figures(390.0))
    assert not worth(errors, "batch", figures(410.0))


def test_where_the_formula_was_right_what_it_calls_worse_is_refused() -> None:
    errors = Ledger()
    changes(errors, "overlap", 12, said=0.8, came=0.82)
    assert not worth(errors, "overlap", figures(102.0))
    assert not worth(errors, "overlap", figures(130.0))
    assert worth(errors, "overlap", figures(90.0))
    assert worth(errors, "batch", figures(130.0)), "of that nothing is known"


def test_where_queues_made_more_of_a_change_it_is_simulated() -> None:
    """Batches gain under load what the formula, which knows no load, calls a loss."""
    errors = Ledger()
    changes(errors, "batch", 12, said=1.05, came=0.6)
    assert worth(errors, "batch", figures(105.0))
    assert worth(errors, "batch", figures(160.0))
    assert not worth(errors, "batch", figures(200.0))


def test_one_figure_that_may_gain_is_enough() -> None:
    errors = Ledger()
    changes(errors, "chunk", 12, said=1.0, came=1.0)
    assert worth(errors, "chunk", figures(120.0, 150.0))
    assert not worth(errors, "chunk", figures(120.0, 250.0))


def test_a_figure_that_is_not_there_rules_nothing_out() -> None:
    assert worth_simulating(Figures({}), figures(500.0), Ledger(), "batch", ("p50_ms",))
    errors = Ledger()
    note_change(errors, "batch", (figures(1.0), Figures({})), (figures(1.0), figures(1.0)))
    note_change(errors, "batch", (figures(1.0), figures(1.0)), (figures(1.0), figures(math.inf)))
    assert errors.rows == []
