"""The ledger: errors by family, intervals that hold, a file that survives crashes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest
import math
import random
from pathlib import Path

import pytest

from tauten.errors import InputError, MachineError
from tauten.plan import ledger as module
from tauten.plan.ledger import ENOUGH, WIDE, Family, Ledger, Row

BATCH = Family("batch", "onnx", "2 cores")
QUANTIZE = Family("quantize", "openvino", "2 cores")


def row(ratio: float, family: Family = BATCH, what: str = "p50_s", inside: bool | None = None) -> Row:
    measured = 0.1 * ratio
    ends = {None: (None, None), True: (measured, measured), False: (0.0, measured / 2)}[inside]
    return Row(family, what, 0.1, measured, *ends)


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_few_rows_claim_little() -> None:
    ledger = Ledger(rows=[row(1.0)] * (ENOUGH - 1))
    found = ledger.interval(BATCH, 0.2)
    assert (found.low, found.mid, found.high, found.n) == pytest.approx((0.2 / WIDE, 0.2, 0.2 * WIDE, 9))
    ledger.add(row(1.0))
    assert ledger.interval(BATCH, 0.2)[:3] == pytest.approx((0.2, 0.2, 0.2))


def test_families_and_quantities_are_kept_apart() -> None:
    rows = [row(1.0)] * 20 + [row(2.0, QUANTIZE)] * 20 + [row(3.0, what="p95_s")] * 20
    ledger = Ledger(rows=rows)
    assert ledger.interval(QUANTIZE, 1.0).high == pytest.approx(2.0)
    assert ledger.interval(BATCH, 1.0, "p50_s").high == pytest.approx(1.0)
    assert ledger.interval(BATCH, 1.0, "p95_s").high == pytest.approx(3.0)
    assert ledger.interval(Family("prefix"), 1.0).n == 0
    assert ledger.interval(Family(hardware="2 cores"), 1.0).n == 60


def test_intervals_hold_nine_outcomes_of_ten() -> None:
    draw, inside, asked = random.Random(5), 0, 0
    for _ in range(150):
        ledger = Ledger()
        for turn in range(30):
            ratio = math.exp(0.3 + draw.gauss(0, 0.4))
            if turn >= ENOUGH:
                found = ledger.interval(BATCH, 0.1)
                asked += 1
                inside += found.low <= 0.1 * ratio <= found.high
            ledger.add(row(ratio))
    assert inside / asked > 0.88


def test_old_errors_weigh_less_where_that_is_asked() -> None:
    rows = [row(4.0)] * 40 + [row(1.0)] * 200
    ledger = Ledger(rows=rows)
    assert ledger.interval(BATCH, 1.0).high == pytest.approx(4.0)
    assert ledger.interval(BATCH, 1.0, half_life=20.0).high == pytest.approx(1.0)


def test_a_short_memory_claims_little() -> None:
    ledger = Ledger(rows=[row(1.0)] * 100)
    assert ledger.interval(BATCH, 1.0, half_life=2.0).high == pytest.approx(WIDE)


def test_the_record_is_told() -> None:
    ledger = Ledger(rows=[row(1.0)] * 5)
    assert ledger.said() == "no prediction was measured yet"
    assert ledger.coverage() is None
    for inside in [True] * 38 + [False] * 3:
        ledger.add(row(1.1, inside=inside))
    assert ledger.said(BATCH) == "of 41 predictions, 38 inside the 90 % interval"
    found = ledger.coverage(BATCH, "p50_s")
    assert found is not None
    assert found.low < 38 / 41 == found.mid < found.high
    assert ledger.coverage(QUANTIZE) is None


def test_the_typical_error_is_a_share() -> None:
    ledger = Ledger(rows=[row(1.2), row(0.9), row(1.1)])
    assert ledger.typical_error() == pytest.approx(0.1)
    assert ledger.typical_error(QUANTIZE) is None


@pytest.mark.parametrize("measured", [0.0, -1.0, math.inf, math.nan])
def test_what_has_no_ratio_is_refused(measured: float) -> None:
    ledger = Ledger()
    with pytest.raises(InputError, match="above 0"):
        ledger.add(Row(BATCH, "p50_s", 0.1, measured))
    assert not ledger.rows


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.jsonl"
    ledger = Ledger.load(path)
    for inside in (True, False, None):
        ledger.add(row(1.3, inside=inside))
    back = Ledger.load(path)
    assert back.rows == ledger.rows
    assert back.passed_over == 0
    assert [each.inside for each in back.rows] == [True, False, None]


def test_a_row_that_a_crash_cut_off_is_passed_over_and_the_next_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger.load(path).add(row(1.1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    broken = Ledger.load(path)
    assert (len(broken.rows), broken.passed_over) == (1, 1)
    broken.add(row(1.2))
    again = Ledger.load(path)
    assert ([each.measured for each in again.rows], again.passed_over) == (
        [row(1.1).measured, row(1.2).measured],
        1,
    )


def test_lines_that_say_the_impossible_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(
        b'{"family":{},"what":"p50_s","predicted":0,"measured":1}\n\nx\n[]\n'
        b'{"family":{},"what":"p50\xff","predicted":1,"measured":1}\n'
    )
    ledger = Ledger.load(path)
    assert (ledger.rows, ledger.passed_over) == ([], 4)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="E302"):
        Ledger.load(tmp_path)
    with pytest.raises(MachineError, match="E302"):
        Ledger(tmp_path).add(row(1.0))
