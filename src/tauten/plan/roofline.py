"""Roofline: seconds of a model that was never run so, from its cost, the machine's peaks, and its nearest run.

    time = dispatch + max(operations / matrix rate, bytes / bandwidth)

Williams, Waterman and Patterson, Communications of the ACM 52 (2009) 65-76. The peaks are measured, the
formula is not trusted: where the same model was measured, it is scaled by how far it was off at the nearest
point, and between two batches that were measured nothing is computed at all. Pure functions.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from tauten.errors import InputError
from tauten.plan.measurements import COMPUTE, Key, Measurements
from tauten.plan.peaks import Bound, Level, Peaks

How = Literal["measured", "interpolated", "calibrated", "formula"]

_BITS = {"f32": 32, "bf16": 16, "f16": 16, "int8": 8, "u8": 8, "int4": 4, "u4": 4}
# Doublings that a difference is worth when the nearest measured point is sought: batch and shape count as
# they are; other threads or another precision change what bounds the model, and are the last resort.
_OTHER_THREADS = 4.0
_OTHER_PRECISION = 8.0


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one item of that size costs: operations (a multiply and an add are two), bytes moved for it."""

    shape: float  # the item's size in the backend's unit, as `Key.shape` is a class of; 0.0 is any
    flops: float
    activation_bytes: float


class ModelCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model costs on any machine: its weights, counted in f32, and its work by item size."""

    weight_bytes: float  # that each call reads
    work: tuple[Work, ...]
    operators: int = 0  # inside one call: what one gives to the next is about its share of the activations

    def at(self, shape: float = 0.0) -> Work:
        """The work of an item of that size; between counted sizes on the line through their logarithms.

        Attention makes work grow faster than the item, convolution does not: two counted sizes show it.

        >>> cost = ModelCost(0.0, (Work(10, 100, 40), Work(100, 10_000, 400)))
        >>> cost.at(10).flops, round(cost.at(1000).flops), round(cost.at(1000).activation_bytes)
        (100, 1000000, 4000)
        """
        if not self.work:
            raise InputError("a cost without work", help="count the model at one size at least", code="E252")
        known = sorted(self.work, key=lambda work: work.shape)
        if shape <= 0.0 or known[0].shape <= 0.0:
            return known[-1]  # of sizes that nobody told, the largest
        return Work(
            shape,
            _line([(work.shape, work.flops) for work in known], shape),
            _line([(work.shape, work.activation_bytes) for work in known], shape),
        )


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is run: what a prediction is asked for, and what a measurement was taken at."""

    batch: int = 1
    threads: int = 0
    precision: str = "f32"
    shape: float = 0.0
    engine: str = ""


class Prediction(msgspec.Struct, frozen=True):
    """Seconds of one call, how they were found, and the measured point they rest on, if any.

    `memory` is the share of the time in which the formula moves bytes, 0 to 1: what neighbours slow down.
    """

    seconds: float
    how: How
    bound: Bound | Literal["dispatch", ""] = ""
    near: Point | None = None
    memory: float = 0.0


Measured = tuple[Point, float]
"""A point and the median seconds that were measured there."""


def formula(cost: ModelCost, peaks: Peaks, point: Point) -> Prediction | None:
    """The bare roofline; None where the peaks lack the matrix rate or the bandwidth.

    A precision without a rate of its own is computed in f32, as engines do that only store weights so.
    Weights, and the tensors between two operators, each come from the last cache where they fit into it.
    """
    rate = _rate(peaks, point)
    work = cost.at(point.shape)
    weights = cost.weight_bytes * weight_share(point.precision)
    moved = point.batch * work.activation_bytes
    read = _copy_s(peaks, weights, weights, point.threads)
    passed = _copy_s(peaks, moved, moved / max(1, cost.operators), point.threads)
    if rate is None or read is None or passed is None:
        return None
    call, compute, memory = peaks.call_s(point.engine), point.batch * work.flops / rate, read + passed
    if call > max(compute, memory):
        bound: Bound | Literal["dispatch"] = "dispatch"
    else:
        bound = "compute" if compute >= memory else "memory"
    whole = call + max(compute, memory)
    return Prediction(whole, "formula", bound, memory=memory / whole if whole else 0.0)


def _copy_s(peaks: Peaks, size: float, at_once: float, threads: int) -> float | None:
    """Seconds to move so many bytes, of which that many have to stay in reach; None means no data."""
    level: Level = "cache" if at_once <= peaks.last_cache_bytes else "memory"
    rate = peaks.copy_rate(level, threads) or peaks.copy_rate("memory", threads)
    return None if rate is None else size / rate


def _rate(peaks: Peaks, point: Point) -> float | None:
    """The engine's own rate before the best of all, the precision's own before that of f32."""
    for precision in (point.precision or "f32", "f32"):
        for engine in (point.engine, ""):
            found = peaks.matrix_rate(precision, point.threads, engine)
            if found is not None:
                return found
    return None


def weight_share(precision: str) -> float:
    """Bytes of a weight at that precision over those in f32; 1.0 for what is not known.

    >>> weight_share("bf16"), weight_share("int4"), weight_share("")
    (0.5, 0.125, 1.0)
    """
    return _BITS.get(precision, 32) / 32


def predict(
    cost: ModelCost | None, peaks: Peaks | None, point: Point, measured: Sequence[Measured] = ()
) -> Prediction | None:
    """Seconds of one call at `point`, from the best that there is; None means no data.

    Measured there; else between two measured batches, or sizes, where nothing else differs; else the formula,
    times what it was off by at the nearest measured point; else the bare formula.
    """
    for known, seconds in measured:
        if known == point:
            return Prediction(seconds, "measured", near=known)
    between = _between(measured, point, "batch") or _between(measured, point, "shape")
    if between is not None:
        return Prediction(between, "interpolated")
    bare = formula(cost, peaks, point) if cost is not None and peaks is not None else None
    if bare is None or cost is None or peaks is None:
        return None
    near = min(measured, key=lambda each: distance(each[0], point), default=None)
    there = formula(cost, peaks, near[0]) if near is not None else None
    if near is None or there is None or there.seconds <= 0.0:
        return bare
    return Prediction(bare.seconds * near[1] / there.seconds, "calibrated", bare.bound, near[0], bare.memory)


def _between(measured: Sequence[Measured], point: Point, axis: Literal["batch", "shape"]) -> float | None:
    """Seconds between the points that differ in that alone; None where `point` is not between two."""
    at = getattr(point, axis)
    alike = [
        (float(getattr(known, axis)), seconds)
        for known, seconds in measured
        if getattr(known, axis) and msgspec.structs.replace(known, **{axis: at}) == point
    ]
    return interpolated(alike, float(at)) if at else None


def distance(known: Point, point: Point) -> float:
    """How unlike two ways to run a model are, in doublings.

    >>> distance(Point(1, 2), Point(8, 2)), distance(Point(1, 1), Point(8, 2))
    (3.0, 7.0)
    """
    apart = abs(math.log2(known.batch / point.batch))
    if known.shape > 0.0 and point.shape > 0.0:
        apart += abs(math.log2(known.shape / point.shape))
    if known.threads != point.threads:
        apart += _OTHER_THREADS
    if known.precision != point.precision or known.engine != point.engine:
        apart += _OTHER_PRECISION
    return apart


def interpolated(points: Iterable[tuple[float, float]], at: float) -> float | None:
    """Seconds between measured sizes: a line between logarithms, which never falls; None outside of them.

    Where noise made a larger size faster than a smaller one, both are given their mean first (pool adjacent
    violators: Barlow et al., Statistical Inference under Order Restrictions, 1972).

    >>> round(interpolated([(1, 0.010), (4, 0.020)], 2), 4)
    0.0141
    >>> interpolated([(1, 0.010), (4, 0.020)], 8) is None
    True
    >>> round(interpolated([(1, 0.012), (2, 0.010), (4, 0.020)], 1), 4)
    0.011
    """
    known = _rising(sorted(dict(points).items()))
    if not known or not known[0][0] <= at <= known[-1][0]:
        return None
    return _line(known, at)


def _rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The closest values that never fall, at the same sizes."""
    pools: list[tuple[list[float], float, int]] = []  # sizes, sum of seconds, how many
    for size, seconds in points:
        pools.append(([size], seconds, 1))
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] > pools[-1][1] / pools[-1][2]:
            sizes, total, count = pools.pop()
            pools[-1] = (pools[-1][0] + sizes, pools[-1][1] + total, pools[-1][2] + count)
    return [(size, total / count) for sizes, total, count in pools for size in sizes]


def _line(points: Sequence[tuple[float, float]], at: float) -> float:
    """On the line through the logarithms of the two points around `at`; the last two serve beyond them.

    Of one point, and of points with a zero in them, the nearest value itself.

    >>> round(_line([(1, 1), (2, 4), (4, 16)], 8)), _line([(1, 5)], 3), _line([(1, 0), (2, 0)], 3)
    (64, 5, 0)
    """
    sizes = [size for size, _ in points]
    right = min(max(1, bisect_left(sizes, at)), len(points) - 1)
    if right < 1:
        return points[0][1]
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    if min(y0, y1) <= 0.0 or x1 <= x0:
        return y0 if at <= x0 else y1
    share = math.log(at / x0) / math.log(x1 / x0)
    return y0 if share == 0.0 else y0 * math.exp(share * math.log(y1 / y0))


def measured_points(
    measurements: Measurements, model: str, variant: str = "", backend: str = "", step: str = ""
) -> list[Measured]:
    """The medians of a model that were taken on this machine, by how it was run; borrowed ones are left out."""
    found = []
    for key in measurements.keys():  # noqa: SIM118 - it is no dict
        there = measurements.distribution(key, COMPUTE)
        same = (key.step, key.model, key.variant) == (step, model, variant)
        if there is not None and same and backend in ("", key.backend):
            found.append((point_of(key), there.quantile(0.5)))
    return found


def point_of(key: Key) -> Point:
    """How a measurement was run, as predictions are asked for."""
    return Point(key.batch, key.threads, key.precision or "f32", float(key.shape), key.backend)
