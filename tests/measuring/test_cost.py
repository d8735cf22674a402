"""Counting a graph: products by their shapes, the rest by elements, tables and views for nothing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from serve.kit_onnx import linear, pick, write
from tauten.errors import InputError
from tauten.improve.measuring import graphs
from tauten.improve.measuring.cost import cost_of, count, memory_share
from tauten.plan.hardware import Hardware
from tauten.plan.peaks import Bandwidth, MatrixRate, Peaks
from tauten.plan.roofline import Point


def test_a_product_is_two_operations_a_multiply_and_add(tmp_path: Path) -> None:
    found = count(linear(tmp_path), {"x": (8, 4)})
    assert found.flops == 2 * 8 * 4 * 3
    assert found.weight_bytes == 4 * 3 * 4
    assert found.activation_bytes == 2 * 8 * 3 * 4
    assert (found.operators, found.unknown) == (1, {})


def test_eight_bit_weights_are_a_quarter(tmp_path: Path) -> None:
    shape = {"x": (16, 16)}
    full = count(graphs.product(tmp_path, 16), shape)
    small = count(graphs.product(tmp_path, 16, quantised=True), shape)
    assert full.weight_bytes == 16 * 16 * 4
    assert small.weight_bytes == pytest.approx(16 * 16, abs=8)
    assert small.flops == pytest.approx(full.flops + 3 * 16 * 16)


def test_convolutions_count_their_kernel_and_their_group(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((8, 2, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    ports = {"x": ("float32", ["n", 4, "h", "w"])}, {"y": ("float32", ["n", 8, "h", "w"])}
    path = write(tmp_path / "conv.onnx", nodes, *ports, [weights])
    out = 2 * 8 * 10 * 12
    assert count(path, {"x": (2, 4, 10, 12)}).flops == 2 * out * 2 * 9 + out


def test_the_inner_side_of_a_transposed_product_is_the_other_one(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((5, 3), np.float32), "w")
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)]
    ports = {"x": ("float32", [5, "n"])}, {"y": ("float32", ["n", 3])}
    path = write(tmp_path / "gemm.onnx", nodes, *ports, [weights])
    assert count(path, {"x": (5, 7)}).flops == 2 * 7 * 3 * 5


def test_both_products_of_each_gate_are_counted_at_each_step(tmp_path: Path) -> None:
    weights = [
        numpy_helper.from_array(np.ones((1, 16, 3), np.float32), "w"),
        numpy_helper.from_array(np.ones((1, 16, 4), np.float32), "r"),
    ]
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)]
    ports = {"x": ("float32", ["t", "n", 3])}, {"y": ("float32", ["t", 1, "n", 4])}
    path = write(tmp_path / "lstm.onnx", nodes, *ports, weights)
    assert count(path, {"x": (10, 2, 3)}).flops == 2 * 10 * 2 * (16 * 3 + 16 * 4)


def test_a_table_is_looked_up_and_not_read(tmp_path: Path) -> None:
    found = count(pick(tmp_path), {"ids": (4,)})
    assert found.weight_bytes == 0
    assert found.activation_bytes == 2 * 4 * 2 * 4


def test_views_cost_nothing(tmp_path: Path) -> None:
    target = numpy_helper.from_array(np.array([-1], np.int64), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    ports = {"x": ("float32", ["n", 4])}, {"y": ("float32", ["m"])}
    found = count(write(tmp_path / "view.onnx", nodes, *ports, [target]), {"x": (3, 4)})
    assert (found.flops, found.activation_bytes, found.operators) == (0, 0, 0)


def test_what_has_no_shape_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["y"], to=1)]
    ports = {"x": ("float32", ["n", 4])}, {"y": ("float32", [2, "k"])}
    found = count(write(tmp_path / "open.onnx", nodes, *ports), {"x": (3, 4)})
    assert found.unknown == {"NonZero": 1, "Cast": 1}
    assert found.flops == 0


def test_inputs_must_be_those_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model takes x"):
        count(linear(tmp_path), {"z": (1, 4)})
    (tmp_path / "no.onnx").write_bytes(b"\xff" * 9)
    with pytest.raises(InputError, match=r"cannot read no\.onnx"):
        count(tmp_path / "no.onnx", {"x": (1, 4)})


def test_a_cost_has_one_line_of_work_for_each_size_of_item(tmp_path: Path) -> None:
    path = pick(tmp_path)
    nodes_items = [{"ids": np.zeros((), np.int64)}]
    assert cost_of(path, nodes_items).work[0].shape == 1
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ports = {"x": ("float32", ["n", "t", 4])}, {"y": ("float32", ["n", "t", 4])}
    longer = write(tmp_path / "longer.onnx", nodes, *ports, [weight])
    items = [{"x": np.zeros((length, 4), np.float32)} for length in (8, 2, 8)]
    cost = cost_of(longer, items)
    assert [(work.shape, work.flops) for work in cost.work] == [(8, 2 * 2 * 16), (32, 2 * 8 * 16)]
    assert (cost.weight_bytes, cost.operators) == (64, 1)
    with pytest.raises(InputError, match="no items"):
        cost_of(longer, [])


def test_the_share_in_which_a_model_moves_bytes_is_the_rooflines(tmp_path: Path) -> None:
    path, item = graphs.product(tmp_path, 64), {"x": np.ones((64, 64), np.float32)}
    moved = 64 * 64 * 4 + 2 * 64 * 64 * 4
    peaks = Peaks(
        Hardware(2),
        (MatrixRate("onnx", "f32", 1, 2.0 * 64**3),),  # a second of arithmetic
        (Bandwidth("memory", 1, moved * 4.0),),  # and a quarter of one of copying
    )
    point = Point(threads=1, engine="onnx")
    assert memory_share(path, [item], peaks, point, unbatched=True) == pytest.approx(0.25)
    slow = Peaks(Hardware(2), peaks.matrix, (Bandwidth("memory", 1, moved / 2.0),))
    assert memory_share(path, [item], slow, point, unbatched=True) == pytest.approx(1.0)
    assert memory_share(path, [item], Peaks(Hardware(2)), point, unbatched=True) == 0.0


def test_of_items_the_one_of_median_size_is_counted(tmp_path: Path) -> None:
    path = linear(tmp_path)
    peaks = Peaks(Hardware(2), (MatrixRate("onnx", "f32", 1, 1e3),), (Bandwidth("memory", 1, 1e3),))
    items = [{"x": np.ones(4, np.float32)}] * 2 + [{"x": np.ones(5, np.float32)}]  # the file takes four
    assert 0.0 < memory_share(path, items, peaks, Point(threads=1)) <= 1.0
