"""The ONNX models of the comparison, made from a seed without a training framework: the same bytes everywhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20_260  # any number; fixed so that two machines compare the same bytes
OPSET = 17  # understood by every onnxruntime of the last years
IR_VERSION = 8  # belongs to that opset
INPUT, OUTPUT = "x", "y"


@dataclass(frozen=True)
class Shape:
    """A multilayer perceptron: widths of its layers, first the input, last the output."""

    name: str
    widths: tuple[int, ...]
    purpose: str

    @property
    def input_size(self) -> int:
        return self.widths[0]

    @property
    def output_size(self) -> int:
        return self.widths[-1]

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights and biases."""
        pairs = zip(self.widths, self.widths[1:], strict=False)
        return 4 * sum(rows * columns + columns for rows, columns in pairs)


SHAPES = {
    "small": Shape("small", (784, 256, 256, 10), "tens of µs: what is left is the server"),
    "heavy": Shape("heavy", (784, 2560, 2560, 2560, 10), "60 MB bound by weight traffic: batches pay"),
    "wide": Shape("wide", (25_600, 10), "a body of 100 KB (102,400 bytes raw) and hardly any arithmetic"),
}


def build(shape: Shape) -> bytes:
    """The model file: Gemm and Relu in turn, weights scaled so that activations keep their size."""
    from onnx import TensorProto, helper

    random = np.random.default_rng(SEED)
    nodes, weights, value = [], [], INPUT
    last = len(shape.widths) - 2
    for layer, (rows, columns) in enumerate(zip(shape.widths, shape.widths[1:], strict=False)):
        matrix = random.standard_normal((rows, columns), dtype=np.float32) * np.float32((2 / rows) ** 0.5)
        weights += [_constant(f"w{layer}", matrix), _constant(f"b{layer}", np.zeros(columns, np.float32))]
        result = OUTPUT if layer == last else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [result]))
        value = result
        if layer != last:
            nodes.append(helper.make_node("Relu", [value], [f"{value}r"]))
            value = f"{value}r"
    graph = helper.make_graph(
        nodes,
        shape.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", shape.input_size])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", shape.output_size])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    model.producer_name = "bench-serve"
    return bytes(model.SerializeToString(deterministic=True))


def _constant(name: str, values: np.ndarray[Any, Any]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor(name, TensorProto.FLOAT, values.shape, values.tobytes(), raw=True)


def ensure(name: str, folder: Path) -> Path:
    """Path of the model file, written on the first call."""
    path = folder / f"{name}.onnx"
    shape = SHAPES[name]
    if not path.exists() or path.stat().st_size < shape.size_bytes:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(build(shape))
        partial.rename(path)
    return path


def sample(name: str) -> np.ndarray[Any, Any]:
    """The one row that every client sends."""
    return np.random.default_rng(SEED + 1).random((1, SHAPES[name].input_size), dtype=np.float32)


def expected(path: Path, row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The answer of bare onnxruntime, which each server's answer is compared with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT: row})[0])
