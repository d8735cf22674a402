"""The roofline: formula, calibration by what was measured, and no formula between measured batches."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.errors import InputError
from tauten.plan import roofline as module
from tauten.plan.hardware import Hardware
from tauten.plan.measurements import COMPUTE, Key, Measurements
from tauten.plan.peaks import Bandwidth, Cache, Dispatch, MatrixRate, Peaks
from tauten.plan.roofline import (
    Measured,
    ModelCost,
    Point,
    Work,
    formula,
    interpolated,
    measured_points,
    predict,
)

HERE = Hardware(2, ("avx512",), 24)
PEAKS = Peaks(
    hardware=HERE,
    matrix=(
        MatrixRate("onnx", "f32", 1, 50e9),
        MatrixRate("onnx", "f32", 2, 100e9),
        MatrixRate("openvino", "f32", 2, 120e9),
        MatrixRate("openvino", "bf16", 2, 480e9),
    ),
    bandwidth=(Bandwidth("memory", 1, 10e9), Bandwidth("memory", 2, 16e9), Bandwidth("cache", 2, 80e9)),
    caches=(Cache(3, 32 << 20, 2),),
    dispatch=(Dispatch("onnx", 1e-4),),
)
HEAVY = ModelCost(100e6, (Work(0.0, 10e9, 4e6),))  # a big product for each item
READER = ModelCost(1000e6, (Work(0.0, 1e9, 1e6),))  # reads its weights and does little


def seconds(cost: ModelCost, point: Point, measured: list[Measured] | None = None) -> float:
    found = predict(cost, PEAKS, point, measured or [])
    assert found is not None
    return found.seconds


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_arithmetic_or_memory_or_the_call_itself_bounds_it() -> None:
    heavy = formula(HEAVY, PEAKS, Point(4, 2, engine="onnx"))
    assert heavy is not None
    assert (heavy.bound, heavy.how) == ("compute", "formula")
    assert heavy.seconds == pytest.approx(1e-4 + 40e9 / 100e9)
    assert heavy.memory == pytest.approx((100e6 / 16e9 + 16e6 / 80e9) / heavy.seconds)
    reader = formula(READER, PEAKS, Point(1, 2, engine="onnx"))
    assert reader is not None
    assert reader.bound == "memory"
    assert reader.seconds == pytest.approx(1e-4 + 1000e6 / 16e9 + 1e6 / 80e9)
    tiny = formula(ModelCost(1e3, (Work(0.0, 1e3, 1e3),)), PEAKS, Point(1, 2, engine="onnx"))
    assert tiny is not None
    assert tiny.bound == "dispatch"


def test_halved_weights_are_read_in_half_the_time_and_half_the_threads_compute_half() -> None:
    full, half = seconds(READER, Point(1, 2, "f32")), seconds(READER, Point(1, 2, "bf16"))
    assert half == pytest.approx(full / 2, rel=0.01)
    one, two = seconds(HEAVY, Point(8, 1, engine="onnx")), seconds(HEAVY, Point(8, 2, engine="onnx"))
    assert one == pytest.approx(2 * two, rel=0.01)


def test_weights_that_fit_into_the_cache_come_from_there() -> None:
    small = ModelCost(16e6, (Work(0.0, 1e3, 1e3),))
    assert seconds(small, Point(1, 2)) == pytest.approx(1e-4 + 16e6 / 80e9, rel=0.01)


def test_what_operators_hand_on_stays_in_the_cache_while_each_part_fits() -> None:
    whole, parts = (ModelCost(0.0, (Work(0.0, 1e3, 160e6),), operators) for operators in (1, 100))
    assert seconds(whole, Point(1, 2)) == pytest.approx(1e-4 + 160e6 / 16e9)
    assert seconds(parts, Point(1, 2)) == pytest.approx(1e-4 + 160e6 / 80e9)


def test_a_precision_of_which_nothing_is_known_is_computed_in_f32() -> None:
    assert seconds(HEAVY, Point(8, 2, "int4")) == pytest.approx(seconds(HEAVY, Point(8, 2, "f32")), rel=0.01)
    assert seconds(HEAVY, Point(8, 2, "bf16")) < seconds(HEAVY, Point(8, 2, "f32")) / 3


def test_without_peaks_there_is_no_formula() -> None:
    assert formula(HEAVY, Peaks(HERE), Point()) is None
    assert predict(HEAVY, None, Point()) is None
    assert predict(None, PEAKS, Point()) is None
    with pytest.raises(InputError, match="count the model"):
        formula(ModelCost(1.0, ()), PEAKS, Point())


def test_what_was_measured_is_not_computed() -> None:
    found = predict(HEAVY, PEAKS, Point(4, 2), [(Point(4, 2), 0.123)])
    assert found is not None
    assert (found.seconds, found.how) == (0.123, "measured")


def test_between_measured_batches_the_formula_is_not_asked() -> None:
    known = [(Point(1, 2), 0.010), (Point(4, 2), 0.040), (Point(4, 1), 9.0)]
    found = predict(None, None, Point(2, 2), known)
    assert found is not None
    assert (found.seconds, found.how) == (pytest.approx(0.020), "interpolated")


def test_between_measured_sizes_it_is_not_asked_either() -> None:
    known = [(Point(1, 2, shape=16.0), 0.010), (Point(1, 2, shape=64.0), 0.090), (Point(1, 2), 5.0)]
    found = predict(None, None, Point(1, 2, shape=32.0), known)
    assert found is not None
    assert (found.seconds, found.how) == (pytest.approx(0.030), "interpolated")
    assert predict(None, None, Point(1, 2, shape=128.0), known) is None


def test_beyond_them_the_formula_is_scaled_by_what_it_was_off() -> None:
    bare = formula(HEAVY, PEAKS, Point(4, 2))
    assert bare is not None
    known = [(Point(4, 2), 3 * bare.seconds), (Point(1, 1), 99.0)]
    found = predict(HEAVY, PEAKS, Point(8, 2), known)
    assert found is not None
    assert (found.how, found.near) == ("calibrated", Point(4, 2))
    assert found.seconds == pytest.approx(3 * seconds(HEAVY, Point(8, 2)))


def test_another_precision_is_the_last_resort() -> None:
    known = [(Point(8, 2, "bf16"), 1.0), (Point(1, 2, "f32"), 1.0)]
    found = predict(HEAVY, PEAKS, Point(8, 2, "f32"), known)
    assert found is not None
    assert found.near == Point(1, 2, "f32")


def test_attention_grows_faster_than_its_text() -> None:
    cost = ModelCost(0.0, (Work(16, 1e9, 1e6), Work(64, 6e9, 4e6)))
    assert cost.at(32).flops == pytest.approx((1e9 * 6e9) ** 0.5)
    assert cost.at(256).flops == pytest.approx(36e9)
    assert cost.at(0.0).flops == 6e9


points = st.lists(
    st.tuples(st.integers(1, 64).map(float), st.floats(1e-4, 10.0)),
    min_size=2,
    max_size=8,
    unique_by=lambda each: each[0],
)


@given(points, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_larger_batch_is_never_faster_and_nothing_leaves_the_measured_range(
    known: list[tuple[float, float]], one: float, other: float
) -> None:
    sizes = [size for size, _ in known]
    at = [min(sizes) + share * (max(sizes) - min(sizes)) for share in sorted((one, other))]
    small, large = (interpolated(known, min(max(sizes), x)) for x in at)
    assert small is not None
    assert large is not None
    assert small <= large * (1 + 1e-9)
    assert min(y for _, y in known) * (1 - 1e-9) <= small
    assert large <= max(y for _, y in known) * (1 + 1e-9)


def test_points_are_read_from_the_measurements_of_this_machine() -> None:
    measurements = Measurements(HERE)
    key = Key("", "minilm", "fp32", "onnx", threads=2, batch=8, shape=128)
    for value in (0.9, 1.0, 5.0):
        measurements.observe(key, COMPUTE, value)
    measurements.observe(Key("", "minilm", "int8", "onnx"), COMPUTE, 1.0)
    measurements.observe(Key("embed", "minilm", "fp32", "onnx"), COMPUTE, 1.0)
    elsewhere = Measurements(Hardware(64, (), 256))
    elsewhere.observe(Key("", "minilm", "fp32", "onnx", batch=2), COMPUTE, 1.0)
    measurements.merge(elsewhere)
    [(point, taken)] = measured_points(measurements, "minilm", "fp32")
    assert point == Point(8, 2, "f32", 128.0, "onnx")
    assert taken == pytest.approx(1.0, rel=0.02)
    assert measured_points(measurements, "minilm", "fp32", "openvino") == []
