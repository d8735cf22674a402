"""Tiny ONNX models made on the spot."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "str": TensorProto.STRING,
}


def write(
    path: Path, nodes: Sequence[Any], inputs: dict[str, Any], outputs: dict[str, Any], weights: Any = ()
) -> Path:
    """A model file; ports are given as name -> (dtype, shape)."""
    ports = [
        [helper.make_tensor_value_info(name, TYPES[dtype], shape) for name, (dtype, shape) in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), path.stem, *ports, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, str(path))
    return path


def linear(folder: Path, inputs: int = 4, outputs: int = 3, axis: str = "n") -> Path:
    """y = x W, W[i, j] = i + j: float32 [n, inputs] to [n, outputs]."""
    weight = np.add.outer(np.arange(inputs), np.arange(outputs)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return write(
        folder / "linear.onnx",
        nodes,
        {"x": ("float32", [axis, inputs])},
        {"y": ("float32", ["n", outputs])},
        [numpy_helper.from_array(weight, "w")],
    )


def batch_of(folder: Path, rows: int, inputs: int = 4, outputs: int = 3) -> Path:
    """As `linear`, exported for so many rows and no others."""
    weight = np.add.outer(np.arange(inputs), np.arange(outputs)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    given, made = {"x": ("float32", [rows, inputs])}, {"y": ("float32", [rows, outputs])}
    return write(folder / "batch.onnx", nodes, given, made, [numpy_helper.from_array(weight, "w")])


def identity(folder: Path, dtype: str) -> Path:
    """y = x of any type, shape [n, m]."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    shape = (dtype, ["n", "m"])
    return write(folder / f"same_{dtype}.onnx", nodes, {"x": shape}, {"y": shape})


def two(folder: Path) -> Path:
    """total = a + b (int64), and a as it came."""
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Identity", ["a"], ["first"])]
    shape = ("int64", ["n", 2])
    return write(folder / "two.onnx", nodes, {"a": shape, "b": shape}, {"total": shape, "first": shape})


def pick(folder: Path) -> Path:
    """Rows of a table by number: a number outside it is refused by the engine."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"])]
    table = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "table")
    inputs, outputs = {"ids": ("int64", ["n"])}, {"rows": ("float32", ["n", 2])}
    return write(folder / "pick.onnx", nodes, inputs, outputs, [table])
